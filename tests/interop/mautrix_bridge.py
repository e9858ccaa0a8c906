"""A bridge of mautrix that does what it is told over standard input and output: an application service with encryption,
which learns all it knows by transactions.

See wire.py for the lines. Runs in an environment of its own, without the rest of the tests.
"""

import asyncio
import json
import sys
from typing import Any

from mautrix.api import HTTPAPI
from mautrix.appservice import AppService
from mautrix.appservice.state_store import ASStateStore
from mautrix.client import Client
from mautrix.client.state_store import MemoryStateStore
from mautrix.crypto import MemoryCryptoStore, OlmMachine, StateStore
from mautrix.errors import EncryptionError, MatrixStandardRequestError
from mautrix.types import (
    Event,
    EventType,
    MessageType,
    RoomEncryptionStateEventContent,
    RoomID,
    TextMessageEventContent,
)

from tests.interop.wire import RefusedError, Watch, serve

HERE = "127.0.0.1"


class Known(ASStateStore, MemoryStateStore):  # type: ignore[misc]  # untyped, and in another environment
    """What the bridge knows of rooms."""

    def __init__(self) -> None:
        ASStateStore.__init__(self)
        MemoryStateStore.__init__(self)


class Encryption(StateStore):  # type: ignore[misc]
    """The same, as the cryptography asks for it."""

    def __init__(self, known: Known) -> None:
        self._known = known

    async def is_encrypted(self, room_id: RoomID) -> bool:
        return bool(await self._known.is_encrypted(room_id))

    async def get_encryption_info(self, room_id: RoomID) -> RoomEncryptionStateEventContent | None:
        return await self._known.get_encryption_info(room_id)

    async def find_shared_rooms(self, user_id: str) -> list[RoomID]:
        return [room_id for room_id, members in self._known.members.items() if user_id in members]


class Bridge:
    """The bridge. Its public coroutines are the verbs."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._watch = Watch()
        self._heard: list[dict[str, Any]] = []
        self._known = Known()
        self._service: Any = None
        self._client: Any = None
        self._crypto: Any = None

    async def serves(self, registration: dict[str, Any], server_name: str, port: int) -> str:
        """Listen, come to have a device without logging in, publish its keys; returns the device id."""
        self._service = AppService(
            server=self._base_url,
            domain=server_name,
            as_token=registration["as_token"],
            hs_token=registration["hs_token"],
            bot_localpart=registration["sender_localpart"],
            id=registration["id"],
            state_store=self._known,
            ephemeral_events=True,
            encryption_events=True,
        )
        await self._service.start(HERE, port)
        await self._service.intent.ensure_registered()
        api = HTTPAPI(
            base_url=self._base_url, token=registration["as_token"], client_session=self._service.http_session
        )
        self._client = Client(mxid=self._service.bot_mxid, api=api, state_store=self._known)
        store = MemoryCryptoStore("", "mautrix")
        self._crypto = OlmMachine(self._client, store, Encryption(self._known))
        self._service.otk_handler = self._crypto.handle_as_otk_counts
        self._service.device_list_handler = self._crypto.handle_as_device_lists
        self._service.to_device_handler = self._crypto.handle_as_to_device_event
        self._service.matrix_event_handler(self._take)
        await self._client.create_device_msc4190(device_id="", initial_display_name="the bridge")
        await self._crypto.load()
        await self._crypto.share_keys()
        await self._service.ping_self()
        return str(self._client.device_id)

    async def _take(self, event: Event) -> None:
        """An event of a transaction."""
        if event.type == EventType.ROOM_MEMBER:
            await self._crypto.handle_member_event(event)
        if event.type == EventType.ROOM_MEMBER and event.state_key == self._service.bot_mxid:
            if event.content.membership.value == "invite":
                await self._service.intent.join_room_by_id(event.room_id)
        elif event.type == EventType.ROOM_ENCRYPTED and event.sender != self._service.bot_mxid:
            await self._decrypt(event)
        self._watch.poke()

    async def _decrypt(self, event: Any) -> None:
        content = event.content
        if not await self._crypto.crypto_store.has_group_session(event.room_id, content.session_id):
            await self._crypto.wait_for_session(event.room_id, content.session_id, timeout=20)
        found = await self._crypto.decrypt_megolm_event(event)
        self._heard.append({"room": event.room_id, "sender": found.sender, "text": found.content.body})

    async def hears(self, text: str, timeout: float) -> dict[str, Any]:  # noqa: ASYNC109
        """Wait until somebody has said this, and it could be read."""

        async def look() -> dict[str, Any] | None:
            return next((heard for heard in self._heard if heard["text"] == text), None)

        return await self._watch.until(look, timeout, lambda: self._heard)

    async def says(self, room: str, text: str) -> str:
        """Say something, encrypted; returns the event id."""
        room_id = RoomID(room)
        content = TextMessageEventContent(msgtype=MessageType.TEXT, body=text)
        try:
            encrypted = await self._crypto.encrypt_megolm_event(room_id, EventType.ROOM_MESSAGE, content)
        except EncryptionError:  # nobody has the key of the room yet
            members = await self._client.get_joined_members(room_id)
            await self._crypto.share_group_session(room_id, list(members))
            encrypted = await self._crypto.encrypt_megolm_event(room_id, EventType.ROOM_MESSAGE, content)
        return str(await self._service.intent.send_message_event(room_id, EventType.ROOM_ENCRYPTED, encrypted))

    async def says_in_the_clear(self, room: str, text: str) -> str:
        """Try to say something that anybody could read."""
        content = TextMessageEventContent(msgtype=MessageType.TEXT, body=text)
        try:
            return str(await self._service.intent.send_message_event(RoomID(room), EventType.ROOM_MESSAGE, content))
        except MatrixStandardRequestError as error:
            raise RefusedError(error.http_status, {"errcode": error.errcode, "error": error.message}) from error

    async def is_joined_by(self, room: str, name: str) -> str:
        """Have a ghost made, invited and join; returns its user id."""
        ghost = self._service.intent.user(
            f"@{self._service.bot_mxid[1:].partition('_bot:')[0]}_{name}:{self._service.domain}"
        )
        await ghost.ensure_registered()
        await self._service.intent.invite_user(RoomID(room), ghost.mxid)
        await ghost.join_room_by_id(RoomID(room))
        return str(ghost.mxid)


async def main() -> None:
    """Do what standard input says until it ends."""
    bridge = Bridge(json.loads(sys.argv[1])["base_url"])
    verbs = {name: getattr(bridge, name) for name in dir(bridge) if not name.startswith("_")}
    await serve(verbs)
    if bridge._service is not None:
        await bridge._service.stop()


if __name__ == "__main__":
    asyncio.run(main())
