// What is said in rooms, with the functions of matrix-js-sdk.
import { Direction, EventType, Method, MsgType, RelationType } from "matrix-js-sdk";

import * as attachments from "./js_attachments.mjs";
import { told } from "./js_log.mjs";

const PAGE = 50;

/** The verbs of a device; what it has seen is asked of `self.log` (js_log.mjs). */
export function conversation(self) {
    return {
        async send_text({ room, body }) {
            await self.readyToEncrypt(room);
            return (await self.client.sendMessage(room, { msgtype: MsgType.Text, body })).event_id;
        },

        /** An event as the server has it. */
        async event({ room, event_id }) {
            return self.client.fetchRoomEvent(room, event_id);
        },

        /** What this device makes of an event that somebody else shows it. */
        async read_event({ event }) {
            const shown = self.client.getEventMapper({ preventReEmit: true, decrypt: false })(event);
            await self.client.decryptEventIfNeeded(shown);
            return told(shown);
        },

        async wait_for_text({ room, sender, body, timeout }) {
            return told(await self.waitFor(() => self.log.find(room, sender, body), timeout, room));
        },

        async texts({ room }) {
            return self.log.messages(room).map(told);
        },

        async history({ room, limit }) {
            const found = [];
            let from = null;
            while (found.length < limit) {
                const page = await self.client.createMessagesRequest(room, from, PAGE, Direction.Backward);
                for (const event of page.chunk.map(self.client.getEventMapper({ preventReEmit: true }))) {
                    await self.client.decryptEventIfNeeded(event);
                    if (event.replacingEvent()) await self.client.decryptEventIfNeeded(event.replacingEvent());
                    if (event.isEncrypted()) found.unshift(told(event));
                }
                if (!page.end || page.chunk.length === 0) break;
                from = page.end;
            }
            return found.slice(-limit);
        },

        async send_file({ room, name, mimetype, content }) {
            await self.readyToEncrypt(room);
            const plain = Buffer.from(content, "base64");
            const { ciphertext, file } = await attachments.encrypt(plain);
            const uploaded = await self.client.uploadContent(ciphertext, {
                type: "application/octet-stream",
                includeFilename: false,
            });
            const url = uploaded.content_uri;
            const { event_id } = await self.client.sendMessage(room, {
                msgtype: MsgType.File,
                body: name,
                info: { mimetype, size: plain.length },
                file: { ...file, url },
            });
            return { event_id, url };
        },

        async receive_file({ room, sender, name, timeout }) {
            const event = await self.waitFor(() => self.log.find(room, sender, name), timeout, room);
            const { file, info } = event.getContent();
            const address = self.client.mxcUrlToHttp(file.url, undefined, undefined, undefined, false, true, true);
            const { pathname, search } = new URL(address);
            const raw = { prefix: "", rawResponseBody: true };
            const answer = await self.client.http.authedRequest(Method.Get, pathname + search, undefined, undefined, raw);
            const plain = await attachments.decrypt(Buffer.from(await answer.arrayBuffer()), file);
            return { content: plain.toString("base64"), mimetype: info.mimetype, url: file.url };
        },

        async typing({ room, typing }) {
            await self.client.sendTyping(room, typing, 20000);
        },

        async wait_for_typing({ room, user, typing, timeout }) {
            const now = () => self.client.getRoom(room)?.getMember(user)?.typing ?? false;
            await self.waitFor(() => (now() === typing ? true : undefined), timeout);
        },

        async read({ room, event_id }) {
            const event = await self.waitFor(() => self.log.event(room, event_id), 20, room);
            await self.client.sendReadReceipt(event);
        },

        async wait_for_receipt({ room, user, event_id, timeout }) {
            const read = () => self.client.getRoom(room)?.getEventReadUpTo(user, true) === event_id;
            await self.waitFor(() => (read() ? true : undefined), timeout);
        },

        async redact({ room, event_id }) {
            return (await self.client.redactEvent(room, event_id)).event_id;
        },

        async wait_for_redaction({ room, event_id, timeout }) {
            await self.waitFor(() => (self.log.event(room, event_id)?.isRedacted() ? true : undefined), timeout, room);
        },

        async react({ room, event_id, key }) {
            const relation = { rel_type: RelationType.Annotation, event_id, key };
            return (await self.client.sendEvent(room, EventType.Reaction, { "m.relates_to": relation })).event_id;
        },

        async wait_for_reaction({ room, sender, event_id, key, timeout }) {
            const matches = (event) =>
                event.getType() === EventType.Reaction &&
                event.getSender() === sender &&
                event.getRelation()?.event_id === event_id &&
                event.getRelation()?.key === key;
            await self.waitFor(() => (self.log.of(room).some(matches) ? true : undefined), timeout, room);
        },
    };
}
