// What a device of matrix-js-sdk has of its user's secrets: shared by another device, or kept in the secret storage; and
// the dehydrated device, which receives room keys while no device is there.
import { CryptoEvent } from "matrix-js-sdk/lib/crypto-api/index.js";
import { Method } from "matrix-js-sdk/lib/http-api/index.js";

const DEHYDRATION = { prefix: "/_matrix/client/unstable/org.matrix.msc3814.v1" };

/** The verbs of a device: `self` has its `client`, its `crypto` and its `watch`. */
export function secrets(self) {
    async function held() {
        const { privateKeysCachedLocally: keys } = await self.crypto.getCrossSigningStatus();
        const backup = (await self.crypto.getSessionBackupPrivateKey()) !== null;
        return { master: keys.masterKey, self_signing: keys.selfSigningKey, user_signing: keys.userSigningKey, backup };
    }

    async function dehydrated() {
        return self.client.http.authedRequest(Method.Get, "/dehydrated_device", undefined, undefined, DEHYDRATION);
    }

    return {
        async secrets() {
            return held();
        },

        /** Waits until every secret is here; this device asks for them by itself once it is verified. */
        async wait_for_secrets({ timeout }) {
            let last = null;
            const look = async () => (Object.values((last = await held())).every(Boolean) ? last : undefined);
            return self.watch.until(look, timeout, () => last);
        },

        /** Takes the room keys from the backup, with the key of it that this device has. */
        async restore_with_shared_secret() {
            await self.crypto.checkKeyBackupAndEnable();
            const { imported, total } = await self.crypto.restoreKeyBackup();
            return { imported, total };
        },

        async wait_for_verified_user({ user, timeout }) {
            const status = async () => (await self.crypto.getUserVerificationStatus(user)).isCrossSigningVerified();
            return self.watch.until(async () => ((await status()) ? true : undefined), timeout, () => null);
        },

        /** Takes what the dehydrated device has received, if there is one, and puts a new one in its place. */
        async dehydrate() {
            if (!(await self.crypto.isDehydrationSupported())) throw new Error("no dehydrated devices here");
            let keys = 0;
            let failed = null;
            const count = (received) => (keys = received);
            const fail = (message) => (failed = message);
            self.client.on(CryptoEvent.RehydrationProgress, count).on(CryptoEvent.RehydrationError, fail);
            await self.crypto.startDehydration();
            self.client.off(CryptoEvent.RehydrationProgress, count).off(CryptoEvent.RehydrationError, fail);
            if (failed) throw new Error(failed);
            return { device_id: (await dehydrated()).device_id, room_keys: keys };
        },

        /** The ids of the Megolm sessions that this device can read. */
        async sessions() {
            return (await self.crypto.exportRoomKeys()).map(({ session_id }) => session_id);
        },
    };
}
