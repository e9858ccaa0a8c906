// Rooms and who is in them, with the functions of matrix-js-sdk.
import { EventType } from "matrix-js-sdk";

/** The verbs of a device: `self` has its `client`. */
export function rooms(self) {
    return {
        async create_room({ name, invite, encrypted }) {
            const content = { algorithm: "m.megolm.v1.aes-sha2" };
            const encryption = { type: EventType.RoomEncryption, state_key: "", content };
            const { room_id } = await self.client.createRoom({
                name,
                invite,
                preset: "private_chat",
                initial_state: encrypted ? [encryption] : [],
            });
            return room_id;
        },

        async join({ room }) {
            await self.client.joinRoom(room);
        },

        async leave({ room }) {
            await self.client.leave(room);
        },

        async kick({ room, user }) {
            await self.client.kick(room, user);
        },

        async invite({ room, user }) {
            await self.client.invite(room, user);
        },

        async wait_for_invite({ room, timeout }) {
            const invited = () => (self.client.getRoom(room)?.getMyMembership() === "invite" ? true : undefined);
            await self.waitFor(invited, timeout);
        },

        async wait_for_members({ room, members, timeout }) {
            const membership = (user) => self.client.getRoom(room)?.getMember(user)?.membership ?? "leave";
            const all = () => Object.entries(members).every(([user, is]) => membership(user) === is);
            await self.waitFor(() => (all() ? true : undefined), timeout);
        },

        async wait_for_encryption({ room, timeout }) {
            await self.readyToEncrypt(room, timeout);
        },

        async set_tag({ room, tag, order }) {
            await self.client.setRoomTag(room, tag, { order });
        },

        async wait_for_tag({ room, tag, timeout }) {
            return self.waitFor(() => self.client.getRoom(room)?.tags[tag], timeout);
        },
    };
}
