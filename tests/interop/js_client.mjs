// A matrix-js-sdk client (Rust crypto, in memory) that does what it is told over standard input and output: see
// js_wire.mjs for the lines, client.py for the other side, nio_client.py for the same verbs in matrix-nio.
import {
    AuthType,
    ClientEvent,
    createClient,
    HttpApiEvent,
    InteractiveAuth,
    MatrixEventEvent,
    RoomEvent,
    RoomMemberEvent,
    RoomStateEvent,
    SyncState,
    ThreadEvent,
} from "matrix-js-sdk";
import { CryptoEvent, decodeRecoveryKey } from "matrix-js-sdk/lib/crypto-api/index.js";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { SlidingSync } from "matrix-js-sdk/lib/sliding-sync.js";
import { RustBackupManager } from "matrix-js-sdk/lib/rust-crypto/backup.js";
import { Agent, fetch as undiciFetch } from "undici";

import { conversation } from "./js_conversation.mjs";
import { grants } from "./js_grants.mjs";
import { keys } from "./js_keys.mjs";
import { Log, told } from "./js_log.mjs";
import { rooms } from "./js_rooms.mjs";
import { secrets } from "./js_secrets.mjs";
import { threads } from "./js_threads.mjs";
import { verification } from "./js_verification.mjs";
import { serve, Watch } from "./js_wire.mjs";

const { base_url: baseUrl, local_address: localAddress, user_agent: userAgent, sliding } = JSON.parse(process.argv[2]);
const RETRY_MS = 250;
const PAGE = 50;

logger.setLevel("warn");
RustBackupManager.maxBackupLoopStartDelayMillis = 0; // a courtesy between many clients; here it is only waiting

const watch = new Watch();
let client = null;
let line = new AbortController(); // aborted while this client is offline
let syncs = 0;
let refreshes = 0; // how often this device has got new tokens
let loggedOut = null; // what the server said when it did not know this device any more

/** This device, as the verbs see it that stand in other files. */
const self = {
    watch,
    waitFor,
    readyToEncrypt,
    interactively,
    log: new Log(),
    recoveryKey: null, // what the user typed in, asked for by the SDK when it opens the secret storage
    get client() {
        return client;
    },
    get crypto() {
        return client.getCrypto();
    },
};
const verifying = verification(self);

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
    self.log.add(room.roomId, event);
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

async function begin(session) {
    const { user_id: userId, device_id: deviceId, access_token: accessToken } = session;
    client = createClient({
        baseUrl,
        fetchFn,
        userId,
        deviceId,
        accessToken,
        ...refreshing(session),
        disableVoip: true,
        cryptoCallbacks: {
            getSecretStorageKey: async ({ keys }) => [Object.keys(keys)[0], decodeRecoveryKey(self.recoveryKey)],
        },
    });
    client.on(RoomEvent.Timeline, (event, room) => remember(event, room));
    client.on(ClientEvent.Sync, onSync);
    client.on(HttpApiEvent.SessionLoggedOut, onLogout);
    verifying.listen(client);
    const news = [RoomEvent.Timeline, RoomEvent.MyMembership, RoomEvent.Receipt, RoomEvent.Tags, RoomEvent.Redaction];
    news.push(RoomEvent.LocalEchoUpdated, RoomEvent.AccountData, RoomStateEvent.Events, RoomMemberEvent.Typing);
    news.push(RoomMemberEvent.Membership, MatrixEventEvent.Decrypted, ClientEvent.AccountData, ClientEvent.Room);
    news.push(MatrixEventEvent.Replaced, ThreadEvent.Update, ThreadEvent.NewReply);
    news.push(CryptoEvent.DevicesUpdated, CryptoEvent.KeysChanged, CryptoEvent.UserTrustStatusChanged);
    news.push(CryptoEvent.KeyBackupStatus, CryptoEvent.KeyBackupSessionsRemaining);
    news.push(CryptoEvent.KeyBackupDecryptionKeyCached);
    for (const name of news) client.on(name, watch.poke);
    await client.initRustCrypto({ useIndexedDB: false });
    const how = { initialSyncLimit: PAGE, threadSupport: true };
    await client.startClient({ ...how, slidingSync: sliding ? slidingSync() : undefined });
    await nextSync();
    return { user_id: userId, device_id: deviceId, access_token: accessToken };
}

/** How the SDK gets new tokens when the old ones have run out, if it signed in by OAuth 2.0. */
function refreshing({ refresh_token: refreshToken, client_id: oauthClientId }) {
    return refreshToken ? { refreshToken, oauthClientId, onTokenRefresh: () => (refreshes += 1) } : {};
}

function onLogout(error) {
    loggedOut = { errcode: error.errcode, status: error.httpStatus };
    watch.poke();
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

function waitFor(look, timeout, room) {
    return watch.until(look, timeout, () => (room ? self.log.messages(room).map(told) : null));
}

async function readyToEncrypt(room, timeout = 20) {
    const ready = async () => client.getRoom(room) && (await self.crypto.isEncryptionEnabledInRoom(room));
    await waitFor(async () => ((await ready()) ? true : undefined), timeout, room);
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
        self.log.clear();
    },

    /** Waits until the server says that it does not know this device any more. */
    async wait_for_logout({ timeout }) {
        return watch.until(() => loggedOut ?? undefined, timeout, () => client.getSyncState());
    },

    async refreshes() {
        return refreshes;
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

    async search_users({ term }) {
        return (await client.searchUserDirectory({ term })).results.map(({ user_id }) => user_id);
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

const grant = grants(baseUrl);
const oauth = {
    /** The address that the user opens in a browser to let this device in. */
    async ask_for_code({ metadata, device_id, redirect_uri, state }) {
        await grant.register({ metadata, device_id });
        return grant.link({ state, redirect_uri, mode: "query" });
    },

    async sign_in_with_code({ code, redirect_uri }) {
        return begin(await grant.complete({ code, redirect_uri }));
    },

    /** What this device shows to its user, who has a browser elsewhere. */
    async show_code({ metadata, device_id }) {
        await grant.register({ metadata, device_id });
        return grant.begin_device();
    },

    async sign_in_when_allowed() {
        return begin(await grant.finish_device());
    },
};

await serve({
    ...account,
    ...oauth,
    ...keys(self),
    ...rooms(self),
    ...conversation(self),
    ...verifying.verbs,
    ...secrets(self),
    ...threads(self),
});
client?.stopClient();
process.exit(0);
