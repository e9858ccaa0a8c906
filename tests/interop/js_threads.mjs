// Replacements and threads with matrix-js-sdk, as it makes and understands them.
// spec: client-server-api/#event-replacements
import { MsgType, RelationType } from "matrix-js-sdk";

/** The verbs of a device: `self` has its `client`, and tells how to `waitFor` something in a room. */
export function threads(self) {
    function texts(thread) {
        const replies = thread.events.filter((event) => event.getId() !== thread.id);
        return replies.map((event) => event.getContent().body ?? null);
    }

    /** What an app does for somebody who looks at a thread; what is said in it is then shown there. */
    function open(room, root) {
        const known = self.client.getRoom(room);
        const event = known.findEventById(root);
        return known.getThread(root) ?? known.createThread(root, event, [event], true);
    }

    return {
        async edit({ room, event_id, body }) {
            const content = { msgtype: MsgType.Text, body };
            const relation = { rel_type: RelationType.Replace, event_id };
            const sent = { ...content, body: `* ${body}`, "m.new_content": content, "m.relates_to": relation };
            return (await self.client.sendMessage(room, sent)).event_id;
        },

        async wait_for_edit({ room, event_id, body, timeout }) {
            const says = () => self.client.getRoom(room)?.findEventById(event_id)?.getContent().body;
            await self.waitFor(() => (says() === body ? true : undefined), timeout, room);
        },

        async reply_in_thread({ room, root, body, timeout = 20 }) {
            open(room, root);
            const content = { msgtype: MsgType.Text, body };
            try {
                return (await self.client.sendMessage(room, root, content)).event_id;
            } catch (error) {
                // The SDK says so of what sync brought back before it was told that it was sent, if it has not come to
                // put it into the thread yet.
                if (!error.message.includes("not a local echo")) throw error;
                const echo = () => self.log.find(room, self.client.getUserId(), body)?.getId();
                return self.waitFor(() => (echo()?.startsWith("$") ? echo() : undefined), timeout, room);
            }
        },

        /** Waits until the thread of a message says exactly this. */
        async wait_for_thread({ room, root, bodies, timeout }) {
            const wanted = JSON.stringify(bodies);
            const look = () => {
                const thread = self.client.getRoom(room)?.getThread(root);
                return thread && JSON.stringify(texts(thread)) === wanted ? true : undefined;
            };
            await self.waitFor(look, timeout, room);
        },

        /** The roots of the threads of a room as the server lists them. */
        async threads({ room }) {
            const known = self.client.getRoom(room);
            await known.createThreadsTimelineSets();
            await known.fetchRoomThreads();
            return known.getThreads().map(({ id }) => id);
        },
    };
}
