// Cross-signing, other people's devices, and the backup of room keys, with the functions of matrix-js-sdk.
import { Method } from "matrix-js-sdk";

/** The verbs of a device: `self` has its `client` and `crypto`, and as `recoveryKey` what its user has on paper; by
 * `interactively` its user proves who it is. */
export function keys(self) {
    async function sessionBackedUp(timeout) {
        const crypto = self.crypto;
        const done = async () => {
            const mine = (await crypto.exportRoomKeys()).length;
            const { count } = await self.client.http.authedRequest(Method.Get, "/room_keys/version");
            return count >= mine ? { count } : undefined;
        };
        return self.watch.until(done, timeout, () => null);
    }

    async function deviceTrust(user) {
        const crypto = self.crypto;
        const known = (await crypto.getUserDeviceInfo([user], true)).get(user) ?? new Map();
        const devices = {};
        for (const [deviceId, device] of known) {
            const status = await crypto.getDeviceVerificationStatus(user, deviceId);
            devices[deviceId] = { name: device.displayName ?? null, signed_by_owner: status?.signedByOwner ?? false };
        }
        return devices;
    }

    return {
        async bootstrap_cross_signing({ password }) {
            const user = self.client.getUserId();
            const prove = (request) => self.interactively(self.client, request, { user, password });
            await self.crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: prove });
            return { master_key: await self.crypto.getCrossSigningKeyId() };
        },

        async wait_for_trust({ user, devices, timeout }) {
            const look = async () => {
                const trust = await deviceTrust(user);
                return devices.every((device) => trust[device]?.signed_by_owner) ? trust : undefined;
            };
            const trust = await self.waitFor(look, timeout);
            const { master_key: master } = await self.crypto.getUserCrossSigningKeys(user);
            return { master_key: Object.values(master.keys)[0], devices: trust };
        },

        async wait_for_device({ user, device, timeout }) {
            const known = async () => (await self.crypto.getUserDeviceInfo([user])).get(user)?.has(device);
            await self.waitFor(async () => ((await known()) ? true : undefined), timeout);
        },

        async wait_for_no_device({ user, device, timeout }) {
            const known = async () => (await self.crypto.getUserDeviceInfo([user])).get(user)?.has(device);
            await self.waitFor(async () => ((await known()) ? undefined : true), timeout);
        },

        async enable_key_backup() {
            const crypto = self.crypto;
            const recovery = await crypto.createRecoveryKeyFromPassphrase();
            self.recoveryKey = recovery.encodedPrivateKey;
            await crypto.bootstrapSecretStorage({
                createSecretStorageKey: async () => recovery,
                setupNewKeyBackup: true,
                setupNewSecretStorage: true,
            });
            return { recovery_key: self.recoveryKey, version: await crypto.getActiveSessionBackupVersion() };
        },

        async wait_for_backup({ timeout }) {
            return sessionBackedUp(timeout);
        },

        async restore_key_backup({ recovery_key, timeout }) {
            self.recoveryKey = recovery_key;
            const crypto = self.crypto;
            // Private keys are taken only where the public ones have come.
            await self.waitFor(async () => ((await crypto.userHasCrossSigningKeys()) ? true : undefined), timeout);
            await crypto.bootstrapCrossSigning({}); // takes the private keys from the secret storage, signs this device
            await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
            await crypto.checkKeyBackupAndEnable();
            const { imported, total } = await crypto.restoreKeyBackup();
            return { imported, total };
        },
    };
}
