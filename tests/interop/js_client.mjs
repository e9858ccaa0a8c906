// A matrix-js-sdk client (Rust crypto, in memory) that does what it is told over standard input and output: see
// js_wire.mjs for the lines, client.py for the other side, nio_client.py for the same verbs in matrix-nio.
import {
    AuthType,
    ClientEvent,
    createClient,
    Direction,
    EventType,
    InteractiveAuth,
    MatrixEventEvent,
    Method,
    MsgType,
    RelationType,
    RoomEvent,
    RoomMemberEvent,
    RoomStateEvent,
    SyncState,
} from "matrix-js-sdk";
import { CryptoEvent, decodeRecoveryKey } from "matrix-js-sdk/lib/crypto-api/index.js";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { SlidingSync } from "matrix-js-sdk/lib/sliding-sync.js";
import { RustBackupManager } from "matrix-js-sdk/lib/rust-crypto/backup.js";
import { Agent, fetch as undiciFetch } from "undici";

import * as attachments from "./js_attachments.mjs";
import { serve, Watch } from "./js_wire.mjs";

const { base_url: baseUrl, local_address: localAddress, user_agent: userAgent, sliding } = JSON.parse(process.argv[2]);
const RETRY_MS = 250;
const PAGE = 50;

logger.setLevel("warn");
RustBackupManager.maxBackupLoopStartDelayMillis = 0; // a courtesy between many clients; here it is only waiting

const watch = new Watch();
let client = null;
let recoveryKey = null; // what the user typed in, asked for by the SDK when it opens the secret storage
let line = new AbortController(); // aborted while this client is offline
let syncs = 0;
let timelines = new Map(); // room id -> every MatrixEvent that sync brought, oldest first

// ---------------------------------------------------------------- the wire to the server

const dispatcher = new Agent({ localAddress });

function fetchFn(resource, init = {}) {
    const signal = init.signal ? AbortSignal.any([init.signal, line.signal]) : line.signal;
    const headers = { ...init.headers, "User-Agent": userAgent };
    return undiciFetch(resource, { ...init, headers, signal, dispatcher }).catch((error) => {
        if (line.signal.aborted) throw new TypeError("fetch failed");
        throw error;
    });
}

/** Runs `request` through user-interactive authentication with what we have to answer it. */
function interactively(matrixClient, request, { user, password, token } = {}) {
    const auth = new InteractiveAuth({
        matrixClient,
        doRequest: request,
        inputs: token ? { registrationToken: token } : {},
        supportedStages: [
            ...(password ? [AuthType.Password] : []),
            ...(token ? [AuthType.RegistrationToken] : []),
            AuthType.Dummy,
        ],
        stateUpdated: (stage, status) => {
            if (status.errcode) throw Object.assign(new Error(status.error), status);
            if (stage === AuthType.Password) {
                auth.submitAuthDict({ type: stage, identifier: { type: "m.id.user", user }, password });
            } else if (stage === AuthType.RegistrationToken) {
                auth.submitAuthDict({ type: stage, token });
            }
        },
        requestEmailToken: () => Promise.reject(new Error("no e-mail here")),
    });
    return auth.attemptAuth();
}

function remember(event, room) {
    if (!room) return;
    if (!timelines.has(room.roomId)) timelines.set(room.roomId, new Set());
    timelines.get(room.roomId).add(event);
    if (sliding) client.decryptEventIfNeeded(event); // of what sliding sync brings, the SDK decrypts what is last
}

/** Keeps asking for the connection while the server is away, as a user does who presses "retry". */
function onSync(state) {
    if (state === SyncState.Prepared || state === SyncState.Syncing) syncs += 1;
    if (state === SyncState.Error || state === SyncState.Reconnecting) {
        setTimeout(() => client?.retryImmediately(), RETRY_MS).unref();
    }
    watch.poke();
}

async function begin({ user_id: userId, device_id: deviceId, access_token: accessToken }) {
    client = createClient({
        baseUrl,
        fetchFn,
        userId,
        deviceId,
        accessToken,
        disableVoip: true,
        cryptoCallbacks: {
            getSecretStorageKey: async ({ keys }) => [Object.keys(keys)[0], decodeRecoveryKey(recoveryKey)],
        },
    });
    client.on(RoomEvent.Timeline, (event, room) => remember(event, room));
    client.on(ClientEvent.Sync, onSync);
    const news = [RoomEvent.Timeline, RoomEvent.MyMembership, RoomEvent.Receipt, RoomEvent.Tags, RoomEvent.Redaction];
    news.push(RoomEvent.LocalEchoUpdated, RoomEvent.AccountData, RoomStateEvent.Events, RoomMemberEvent.Typing);
    news.push(RoomMemberEvent.Membership, MatrixEventEvent.Decrypted, ClientEvent.AccountData, ClientEvent.Room);
    news.push(CryptoEvent.DevicesUpdated, CryptoEvent.KeysChanged, CryptoEvent.UserTrustStatusChanged);
    news.push(CryptoEvent.KeyBackupStatus, CryptoEvent.KeyBackupSessionsRemaining);
    for (const name of news) client.on(name, watch.poke);
    await client.initRustCrypto({ useIndexedDB: false });
    await client.startClient({ initialSyncLimit: PAGE, slidingSync: sliding ? slidingSync() : undefined });
    await nextSync();
    return { user_id: userId, device_id: deviceId, access_token: accessToken };
}

/** All rooms that there will ever be here, with all their state but for members, who come when something is about them. */
function slidingSync() {
    const state = [["*", "*"], ["m.room.member", "$LAZY"], ["m.room.member", "$ME"]];
    const list = { ranges: [[0, 99]], required_state: state, timeline_limit: PAGE };
    return new SlidingSync(baseUrl, new Map([["all", list]]), { required_state: state, timeline_limit: PAGE }, client, 20000);
}

function nextSync(timeout = 30) {
    const before = syncs;
    return watch.until(() => (syncs > before ? null : undefined), timeout, () => client.getSyncState());
}

// ---------------------------------------------------------------- what has been seen

function seen(room) {
    return [...(timelines.get(room) ?? [])];
}

function told(event) {
    const { body, msgtype } = event.getContent();
    const shown = event.isDecryptionFailure() || event.isRedacted() ? null : (body ?? null);
    return { event_id: event.getId(), sender: event.getSender(), encrypted: event.isEncrypted(), msgtype, body: shown };
}

function messages(room) {
    return seen(room).filter((event) => [EventType.RoomMessage, EventType.RoomMessageEncrypted].includes(event.getType()));
}

function find(room, sender, body) {
    return messages(room).find((event) => event.getSender() === sender && told(event).body === body);
}

function eventOf(room, eventId) {
    return seen(room).find((event) => event.getId() === eventId);
}

function waitFor(look, timeout, room) {
    return watch.until(look, timeout, () => (room ? messages(room).map(told) : null));
}

async function readyToEncrypt(room, timeout = 20) {
    const ready = async () => client.getRoom(room) && (await client.getCrypto().isEncryptionEnabledInRoom(room));
    await waitFor(async () => ((await ready()) ? true : undefined), timeout, room);
}

async function sessionBackedUp(timeout) {
    const crypto = client.getCrypto();
    const done = async () => {
        const mine = (await crypto.exportRoomKeys()).length;
        const { count } = await client.http.authedRequest(Method.Get, "/room_keys/version");
        return count >= mine ? { count } : undefined;
    };
    return watch.until(done, timeout, () => null);
}

async function deviceTrust(user) {
    const crypto = client.getCrypto();
    const known = (await crypto.getUserDeviceInfo([user], true)).get(user) ?? new Map();
    const devices = {};
    for (const [deviceId, device] of known) {
        const status = await crypto.getDeviceVerificationStatus(user, deviceId);
        devices[deviceId] = { name: device.displayName ?? null, signed_by_owner: status?.signedByOwner ?? false };
    }
    return devices;
}

// ---------------------------------------------------------------- verbs

const account = {
    async register({ username, password, device_name, token }) {
        const anonymous = createClient({ baseUrl, fetchFn });
        const wish = { username, password, initial_device_display_name: device_name };
        const request = (auth) => anonymous.registerRequest(auth ? { ...wish, auth } : wish);
        return begin(await interactively(anonymous, request, { token }));
    },

    async login({ user, password, device_name }) {
        const anonymous = createClient({ baseUrl, fetchFn });
        const identifier = { type: "m.id.user", user };
        return begin(
            await anonymous.loginRequest({
                type: "m.login.password",
                identifier,
                password,
                initial_device_display_name: device_name,
            }),
        );
    },

    async logout() {
        await client.logout(true);
        client = null;
        timelines = new Map();
    },

    async go_offline() {
        line.abort();
    },

    async go_online() {
        line = new AbortController();
        client.retryImmediately();
        await nextSync();
    },

    async devices() {
        const { devices } = await client.getDevices();
        return devices.map(({ device_id, display_name }) => ({ device_id, name: display_name ?? null }));
    },

    async delete_device({ device_id, password }) {
        const request = (auth) => client.deleteDevice(device_id, auth ?? undefined);
        await interactively(client, request, { user: client.getUserId(), password });
    },

    async set_profile({ displayname }) {
        await client.setDisplayName(displayname);
    },

    async profile({ user }) {
        return { displayname: (await client.getProfileInfo(user)).displayname ?? null };
    },

    async set_account_data({ type, content }) {
        await client.setAccountData(type, content);
    },

    async wait_for_account_data({ type, content, timeout }) {
        const wanted = JSON.stringify(content);
        const look = () => (JSON.stringify(client.getAccountData(type)?.getContent()) === wanted ? content : undefined);
        return waitFor(look, timeout);
    },
};

const keys = {
    async bootstrap_cross_signing({ password }) {
        const user = client.getUserId();
        const authUploadDeviceSigningKeys = (request) => interactively(client, request, { user, password });
        await client.getCrypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys });
        return { master_key: await client.getCrypto().getCrossSigningKeyId() };
    },

    async wait_for_trust({ user, devices, timeout }) {
        const look = async () => {
            const trust = await deviceTrust(user);
            return devices.every((device) => trust[device]?.signed_by_owner) ? trust : undefined;
        };
        const trust = await waitFor(look, timeout);
        const { master_key: master } = await client.getCrypto().getUserCrossSigningKeys(user);
        return { master_key: Object.values(master.keys)[0], devices: trust };
    },

    async wait_for_device({ user, device, timeout }) {
        const known = async () => (await client.getCrypto().getUserDeviceInfo([user])).get(user)?.has(device);
        await waitFor(async () => ((await known()) ? true : undefined), timeout);
    },

    async enable_key_backup() {
        const crypto = client.getCrypto();
        const recovery = await crypto.createRecoveryKeyFromPassphrase();
        recoveryKey = recovery.encodedPrivateKey;
        await crypto.bootstrapSecretStorage({
            createSecretStorageKey: async () => recovery,
            setupNewKeyBackup: true,
            setupNewSecretStorage: true,
        });
        return { recovery_key: recoveryKey, version: await crypto.getActiveSessionBackupVersion() };
    },

    async wait_for_backup({ timeout }) {
        return sessionBackedUp(timeout);
    },

    async restore_key_backup({ recovery_key }) {
        recoveryKey = recovery_key;
        const crypto = client.getCrypto();
        await crypto.bootstrapCrossSigning({}); // fetches the private keys from the secret storage, signs this device
        await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
        await crypto.checkKeyBackupAndEnable();
        const { imported, total } = await crypto.restoreKeyBackup();
        return { imported, total };
    },
};

const rooms = {
    async create_room({ name, invite, encrypted }) {
        const encryption = { type: EventType.RoomEncryption, state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } };
        const { room_id } = await client.createRoom({
            name,
            invite,
            preset: "private_chat",
            initial_state: encrypted ? [encryption] : [],
        });
        return room_id;
    },

    async join({ room }) {
        await client.joinRoom(room);
    },

    async leave({ room }) {
        await client.leave(room);
    },

    async invite({ room, user }) {
        await client.invite(room, user);
    },

    async wait_for_invite({ room, timeout }) {
        const invited = () => (client.getRoom(room)?.getMyMembership() === "invite" ? true : undefined);
        await waitFor(invited, timeout);
    },

    async wait_for_members({ room, members, timeout }) {
        const membership = (user) => client.getRoom(room)?.getMember(user)?.membership ?? "leave";
        const look = () => (Object.entries(members).every(([user, is]) => membership(user) === is) ? true : undefined);
        await waitFor(look, timeout);
    },

    async wait_for_encryption({ room, timeout }) {
        await readyToEncrypt(room, timeout);
    },

    async set_tag({ room, tag, order }) {
        await client.setRoomTag(room, tag, { order });
    },

    async wait_for_tag({ room, tag, timeout }) {
        return waitFor(() => client.getRoom(room)?.tags[tag], timeout);
    },
};

const conversation = {
    async send_text({ room, body }) {
        await readyToEncrypt(room);
        return (await client.sendMessage(room, { msgtype: MsgType.Text, body })).event_id;
    },

    async wait_for_text({ room, sender, body, timeout }) {
        return told(await waitFor(() => find(room, sender, body), timeout, room));
    },

    async texts({ room }) {
        return messages(room).map(told);
    },

    async history({ room, limit }) {
        const found = [];
        let from = null;
        while (found.length < limit) {
            const page = await client.createMessagesRequest(room, from, PAGE, Direction.Backward);
            for (const event of page.chunk.map(client.getEventMapper({ preventReEmit: true }))) {
                await client.decryptEventIfNeeded(event);
                if (event.isEncrypted()) found.unshift(told(event));
            }
            if (!page.end || page.chunk.length === 0) break;
            from = page.end;
        }
        return found.slice(-limit);
    },

    async send_file({ room, name, mimetype, content }) {
        await readyToEncrypt(room);
        const plain = Buffer.from(content, "base64");
        const { ciphertext, file } = await attachments.encrypt(plain);
        const uploaded = await client.uploadContent(ciphertext, {
            type: "application/octet-stream",
            includeFilename: false,
        });
        const url = uploaded.content_uri;
        const { event_id } = await client.sendMessage(room, {
            msgtype: MsgType.File,
            body: name,
            info: { mimetype, size: plain.length },
            file: { ...file, url },
        });
        return { event_id, url };
    },

    async receive_file({ room, sender, name, timeout }) {
        const event = await waitFor(() => find(room, sender, name), timeout, room);
        const { file, info } = event.getContent();
        const address = client.mxcUrlToHttp(file.url, undefined, undefined, undefined, false, true, true);
        const answer = await fetchFn(address, { headers: { Authorization: `Bearer ${client.getAccessToken()}` } });
        if (!answer.ok) throw Object.assign(new Error("download failed"), { httpStatus: answer.status });
        const plain = await attachments.decrypt(Buffer.from(await answer.arrayBuffer()), file);
        return { content: plain.toString("base64"), mimetype: info.mimetype, url: file.url };
    },

    async typing({ room, typing }) {
        await client.sendTyping(room, typing, 20000);
    },

    async wait_for_typing({ room, user, typing, timeout }) {
        const now = () => client.getRoom(room)?.getMember(user)?.typing ?? false;
        await waitFor(() => (now() === typing ? true : undefined), timeout);
    },

    async read({ room, event_id }) {
        const event = await waitFor(() => eventOf(room, event_id), 20, room);
        await client.sendReadReceipt(event);
    },

    async wait_for_receipt({ room, user, event_id, timeout }) {
        const read = () => client.getRoom(room)?.getEventReadUpTo(user, true) === event_id;
        await waitFor(() => (read() ? true : undefined), timeout);
    },

    async redact({ room, event_id }) {
        return (await client.redactEvent(room, event_id)).event_id;
    },

    async wait_for_redaction({ room, event_id, timeout }) {
        await waitFor(() => (eventOf(room, event_id)?.isRedacted() ? true : undefined), timeout, room);
    },

    async react({ room, event_id, key }) {
        const relation = { rel_type: RelationType.Annotation, event_id, key };
        return (await client.sendEvent(room, EventType.Reaction, { "m.relates_to": relation })).event_id;
    },

    async wait_for_reaction({ room, sender, event_id, key, timeout }) {
        const matches = (event) =>
            event.getType() === EventType.Reaction &&
            event.getSender() === sender &&
            event.getRelation()?.event_id === event_id &&
            event.getRelation()?.key === key;
        await waitFor(() => (seen(room).some(matches) ? true : undefined), timeout, room);
    },
};

await serve({ ...account, ...keys, ...rooms, ...conversation });
client?.stopClient();
process.exit(0);
