// What sync has brought, by room, and how the other side of the wire is told of it.
import { EventType } from "matrix-js-sdk";

/** An event; without a body what cannot be read. */
export function told(event) {
    const { body, msgtype } = event.getContent();
    const shown = event.isDecryptionFailure() || event.isRedacted() ? null : (body ?? null);
    return { event_id: event.getId(), sender: event.getSender(), encrypted: event.isEncrypted(), msgtype, body: shown };
}

/** What this device has seen. */
export class Log {
    #timelines = new Map(); // room id -> every MatrixEvent, oldest first

    add(room, event) {
        if (!this.#timelines.has(room)) this.#timelines.set(room, new Set());
        this.#timelines.get(room).add(event);
    }

    clear() {
        this.#timelines.clear();
    }

    of(room) {
        return [...(this.#timelines.get(room) ?? [])];
    }

    messages(room) {
        const types = [EventType.RoomMessage, EventType.RoomMessageEncrypted];
        return this.of(room).filter((event) => types.includes(event.getType()));
    }

    find(room, sender, body) {
        return this.messages(room).find((event) => event.getSender() === sender && told(event).body === body);
    }

    event(room, eventId) {
        return this.of(room).find((event) => event.getId() === eventId);
    }
}
