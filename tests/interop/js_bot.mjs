// A bot made with matrix-bot-sdk, encryption included (bot_crypto says whose), that does what it is told over standard
// input and output: see js_wire.mjs for the lines, client.py for the other side. It logs in as people do, or is an
// application service.
import {
    Appservice,
    AutojoinRoomsMixin,
    LogLevel,
    LogService,
    MatrixAuth,
    MatrixClient,
    MemoryStorageProvider,
    RustSdkAppserviceCryptoStorageProvider,
    RustSdkCryptoStorageProvider,
} from "matrix-bot-sdk";

import { serve, Watch } from "./js_wire.mjs";

const { base_url: baseUrl, store } = JSON.parse(process.argv[2]);
const watch = new Watch();
const heard = []; // every message, as it is when it has been decrypted
const events = []; // [room, event], everything else included
const joined = new Set();
const left = new Set();
let client = null;
let service = null;

LogService.setLevel(LogLevel.WARN);
LogService.setLogger({ error: console.error, warn: console.error, info() {}, debug() {}, trace() {} });

/** An error of the SDK has the server's answer where the wire does not look for it. */
function failing(error) {
    return Object.assign(error, { httpStatus: error.statusCode, data: error.body });
}

function told(event) {
    const { body, msgtype } = event.content;
    return { event_id: event.event_id, sender: event.sender, encrypted: event.was_encrypted, msgtype, body };
}

function listen(source) {
    const ciphertexts = new Set();
    source.on("room.encrypted_event", (room, event) => ciphertexts.add(event.event_id));
    source.on("room.message", (room, event) => {
        heard.push({ room, event: { ...event, was_encrypted: ciphertexts.has(event.event_id) } });
        watch.poke();
    });
    source.on("room.event", (room, event) => {
        events.push({ room, event });
        watch.poke();
    });
    source.on("room.leave", (room) => {
        left.add(room);
        watch.poke();
    });
    source.on("room.join", (room) => {
        joined.add(room);
        watch.poke();
    });
}

function find(room, sender, body) {
    const matches = (each) => each.room === room && each.event.sender === sender && each.event.content.body === body;
    return heard.find(matches)?.event;
}

function waitFor(look, timeout) {
    return watch.until(look, timeout, () => heard.map(({ event }) => told(event)));
}

function happened(timeout, matches) {
    return waitFor(() => events.find(({ room, event }) => matches(room, event))?.event, timeout);
}

async function session() {
    const { user_id, device_id } = await client.getWhoAmI();
    return { user_id, device_id, access_token: client.accessToken };
}

const account = {
    async login({ user, password, device_name }) {
        const { accessToken } = await new MatrixAuth(baseUrl).passwordLogin(user, password, device_name);
        const storage = new MemoryStorageProvider();
        client = new MatrixClient(baseUrl, accessToken, storage, new RustSdkCryptoStorageProvider(store));
        AutojoinRoomsMixin.setupOnClient(client);
        listen(client);
        await client.start();
        return session();
    },

    /** Listens for transactions as an application service. */
    async serves({ registration, server_name, port }) {
        service = new Appservice({
            port,
            bindAddress: "127.0.0.1",
            homeserverName: server_name,
            homeserverUrl: baseUrl,
            registration: { ...registration, protocols: [], push_ephemeral: true },
            storage: new MemoryStorageProvider(),
            cryptoStorage: new RustSdkAppserviceCryptoStorageProvider(store),
            intentOptions: { encryption: true },
        });
        AutojoinRoomsMixin.setupOnAppservice(service);
        listen(service);
        await service.begin();
        await service.botIntent.enableEncryption();
        client = service.botIntent.underlyingClient;
        return session();
    },

    async set_profile({ displayname }) {
        await client.setDisplayName(displayname);
    },

    /** What a bot remembers between two starts. */
    async remember({ type, content }) {
        await client.setAccountData(type, content);
    },

    async recall({ type }) {
        return client.getAccountData(type);
    },
};

const rooms = {
    async create_room({ name, invite }) {
        return client.createRoom({ name, invite, preset: "private_chat" });
    },

    /** The room where the bot talks with one user alone. */
    async direct_room({ user }) {
        return client.dms.getOrCreateDm(user);
    },

    async wait_for_members({ room, members, timeout }) {
        const about = (each, user) => each.event.type === "m.room.member" && each.event.state_key === user;
        const latest = (user) => events.findLast((each) => each.room === room && about(each, user));
        const is = ([user, membership]) => latest(user)?.event.content.membership === membership;
        await waitFor(() => (Object.entries(members).every(is) ? true : undefined), timeout);
    },

    /** Waits until the bot knows that it is in a room, and that what it says there is encrypted. */
    async wait_for_encryption({ room, timeout }) {
        const ready = async () => joined.has(room) && (await client.crypto.isRoomEncrypted(room));
        await waitFor(async () => ((await ready()) ? true : undefined), timeout);
    },

    async wait_for_leaving({ room, timeout }) {
        await waitFor(() => (left.has(room) ? true : undefined), timeout);
    },

    async topic({ room, topic }) {
        return client.sendStateEvent(room, "m.room.topic", "", { topic });
    },
};

const conversation = {
    async send_text({ room, body }) {
        return client.sendText(room, body);
    },

    async reply({ room, sender, body, text, timeout }) {
        const event = await waitFor(() => find(room, sender, body), timeout);
        return client.replyNotice(room, event, text);
    },

    async wait_for_text({ room, sender, body, timeout }) {
        return told(await waitFor(() => find(room, sender, body), timeout));
    },

    async send_in_the_clear({ room, body }) {
        return client.sendRawEvent(room, "m.room.message", { msgtype: "m.text", body }).catch((error) => {
            throw failing(error);
        });
    },

    async send_file({ room, name, mimetype, content }) {
        const plain = Buffer.from(content, "base64");
        const { buffer, file } = await client.crypto.encryptMedia(plain);
        const url = await client.uploadContent(buffer);
        const info = { mimetype, size: plain.length };
        const message = { msgtype: "m.file", body: name, info, file: { ...file, url } };
        return { event_id: await client.sendMessage(room, message), url };
    },

    async receive_file({ room, sender, name, timeout }) {
        const event = await waitFor(() => find(room, sender, name), timeout);
        const plain = await client.crypto.decryptMedia(event.content.file);
        return { content: plain.toString("base64"), url: event.content.file.url };
    },

    async read({ room, event_id }) {
        await client.sendReadReceipt(room, event_id);
    },

    async typing({ room, typing }) {
        await client.setTyping(room, typing);
    },

    async react({ room, event_id, key }) {
        const relation = { rel_type: "m.annotation", event_id, key };
        return client.sendRawEvent(room, "m.reaction", { "m.relates_to": relation });
    },

    async wait_for_reaction({ room, sender, event_id, key, timeout }) {
        await happened(timeout, (where, { sender: who, type, content }) => {
            if (where !== room || who !== sender || type !== "m.reaction") return false;
            const relation = content["m.relates_to"];
            return relation.event_id === event_id && relation.key === key;
        });
    },

    async redact({ room, event_id }) {
        return { event_id: await client.redactEvent(room, event_id) };
    },

    /** What an event says, asked for by its id. */
    async text_of({ room, event_id }) {
        return (await client.getEvent(room, event_id)).content.body ?? null;
    },
};

await serve({ ...account, ...rooms, ...conversation });
client?.stop();
service?.stop();
process.exit(0);
