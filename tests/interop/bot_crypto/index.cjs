// What matrix-bot-sdk asks of @matrix-org/matrix-sdk-crypto-nodejs, answered by the same Rust cryptography compiled to
// WebAssembly: the native one is not on npm, its package fetches it from elsewhere when it is installed. Keys are kept
// in memory, so that a bot that ends is a device that is lost.
"use strict";

const wasm = require("@matrix-org/matrix-sdk-crypto-wasm");

/** A list of users that may be given away, as the functions of WebAssembly take what they are given. */
function copies(users) {
    return users.map((user) => user.clone());
}

/** A request as the native cryptography describes it; of messages to devices, it says more in the body. */
function described(request) {
    if (!(request instanceof wasm.ToDeviceRequest)) return request;
    const { id, type, body, event_type, txn_id } = request;
    const whole = JSON.stringify({ ...JSON.parse(body), event_type, txn_id });
    return { id, type, body: whole, eventType: event_type, txnId: txn_id };
}

class OlmMachine {
    #machine;

    constructor(machine) {
        this.#machine = machine;
    }

    static async initialize(userId, deviceId) {
        await wasm.initAsync();
        return new OlmMachine(await wasm.OlmMachine.initialize(userId, deviceId));
    }

    get identityKeys() {
        return this.#machine.identityKeys;
    }

    #trusting() {
        return new wasm.DecryptionSettings(wasm.TrustRequirement.Untrusted);
    }

    async receiveSyncChanges(events, deviceLists, counts, unusedFallbackKeys) {
        const numbers = new Map(Object.entries(counts));
        const unused = new Set(unusedFallbackKeys);
        const received = await this.#machine.receiveSyncChanges(events, deviceLists, numbers, unused, this.#trusting());
        return JSON.stringify(received.map(({ rawEvent }) => JSON.parse(rawEvent)));
    }

    async outgoingRequests() {
        return (await this.#machine.outgoingRequests()).map(described);
    }

    async markRequestAsSent(id, type, response) {
        return this.#machine.markRequestAsSent(id, type, response);
    }

    async updateTrackedUsers(users) {
        await this.#machine.updateTrackedUsers(copies(users));
    }

    async getMissingSessions(users) {
        return this.#machine.getMissingSessions(copies(users));
    }

    async shareRoomKey(roomId, users, settings) {
        return (await this.#machine.shareRoomKey(roomId, copies(users), settings)).map(described);
    }

    async encryptRoomEvent(roomId, type, content) {
        return this.#machine.encryptRoomEvent(roomId, type, content);
    }

    async decryptRoomEvent(event, roomId) {
        return this.#machine.decryptRoomEvent(event, roomId, this.#trusting());
    }

    async sign(message) {
        return this.#machine.sign(message);
    }
}

const { Attachment, DeviceId, DeviceLists, EncryptedAttachment, EncryptionSettings, RoomId, UserId } = wasm;

module.exports = {
    Attachment,
    DeviceId,
    DeviceLists,
    EncryptedAttachment,
    EncryptionSettings,
    OlmMachine,
    RoomId,
    StoreType: { Sqlite: 0 },
    UserId,
};
