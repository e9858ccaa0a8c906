"""A matrix-nio client that does what it is told over standard input and output.

See wire.py for the lines, client.py for the other side, js_client.mjs for the same verbs in matrix-js-sdk.
"""

import asyncio
import base64
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import nio
import vodozemac
from nio.crypto.attachments import decrypt_attachment

from tests.interop import nio_keys
from tests.interop.nio_keys import CrossSigning
from tests.interop.wire import RefusedError, Verb, Watch, serve

T = TypeVar("T")
API = "/_matrix/client/v3"
PAGE = 50
SYNC_MS = 30_000


def _path(*segments: str) -> str:
    return "".join("/" + quote(segment, safe="") for segment in segments)


async def _accepted(answer: Any) -> Any:
    """What nio made of an answer; RefusedError with the body if it is an error."""
    if not isinstance(answer, nio.ErrorResponse):
        return answer
    transport = answer.transport_response
    raise RefusedError(transport.status, await transport.json())


class NioClient:
    """One device. Its public coroutines are the verbs."""

    def __init__(self, base_url: str, store: Path, local_address: str, user_agent: str) -> None:
        self._base_url = base_url
        self._store = store
        self._local_address = local_address
        self._user_agent = user_agent
        self._watch = Watch()
        self._syncing: asyncio.Task[None] | None = None
        self._cross_signing: CrossSigning | None = None
        self._backup: tuple[str, vodozemac.Curve25519SecretKey] | None = None
        self._open()

    def _open(self) -> None:
        config = nio.AsyncClientConfig(
            max_timeout_retry_wait_time=1, custom_headers={"User-Agent": self._user_agent}, encryption_enabled=True
        )
        self._client = nio.AsyncClient(self._base_url, store_path=str(self._store), config=config)
        self._client.client_session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(local_addr=(self._local_address, 0))
        )
        self._timelines: dict[str, dict[str, Any]] = {}
        self._redacted: set[str] = set()
        self._account_data: dict[str, Any] = {}
        self._syncs = 0
        self._client.add_event_callback(self._on_event, nio.Event)
        self._client.add_global_account_data_callback(self._on_account_data, nio.UnknownAccountDataEvent)
        self._client.add_response_callback(self._on_sync, nio.SyncResponse)
        self._client.add_response_callback(self._on_keys, nio.KeysQueryResponse)

    async def close(self) -> None:
        """End the connection without logging out."""
        if self._syncing:
            self._syncing.cancel()
            await asyncio.wait([self._syncing])
        await self._client.close()

    # ------------------------------------------------------------ what arrives

    async def _on_event(self, room: nio.MatrixRoom, event: nio.Event) -> None:
        self._timelines.setdefault(room.room_id, {})[event.event_id] = event
        if isinstance(event, nio.RedactionEvent):
            self._redacted.add(event.redacts)

    async def _on_account_data(self, event: nio.UnknownAccountDataEvent) -> None:
        self._account_data[event.type] = event.content

    async def _on_sync(self, _answer: nio.SyncResponse) -> None:
        self._syncs += 1
        self._watch.poke()

    async def _on_keys(self, _answer: nio.KeysQueryResponse) -> None:
        self._watch.poke()

    def _start_syncing(self) -> None:
        self._syncing = asyncio.create_task(self._sync())
        self._syncing.add_done_callback(self._report_end)

    async def _sync(self) -> None:
        while True:
            try:
                await self._client.sync_forever(timeout=SYNC_MS, full_state=True)
            except nio.LocalProtocolError as error:
                # COMPAT(matrix-nio, 0.26): it asks for keys between two syncs, and fails if `_send` has just done so.
                print(f"sync begins again: {error!r}", file=sys.stderr)

    @staticmethod
    def _report_end(task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()):
            print(f"sync ended: {error!r}", file=sys.stderr)

    async def _next_sync(self) -> None:
        before = self._syncs

        async def look() -> bool | None:
            return True if self._syncs > before else None

        await self._watch.until(look, 30, lambda: "no sync")

    async def _begin(self, answer: Any) -> dict[str, str]:
        session = {"user_id": answer.user_id, "device_id": answer.device_id, "access_token": answer.access_token}
        self._start_syncing()
        await self._next_sync()
        # The first sync is followed by the upload of the device's keys; nobody can encrypt for it before.
        while self._client.should_upload_keys:
            await _accepted(await self._client.keys_upload())
        return session

    # ------------------------------------------------------------ asking the server

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self._client.access_token}", "User-Agent": self._user_agent}
        data = None if body is None else json.dumps(body)
        answer = await self._client.send(method, API + path, data, {"Content-Type": "application/json", **headers})
        content = await answer.json()
        if answer.status >= 400:
            raise RefusedError(answer.status, content)
        return content

    async def _ask_with_password(self, method: str, path: str, body: dict[str, Any], password: str) -> Any:
        try:
            return await self._ask(method, path, body)
        except RefusedError as refused:
            if refused.status != 401 or "flows" not in refused.body:
                raise
            session = refused.body["session"]
        identifier = {"type": "m.id.user", "user": self._client.user_id}
        auth = {"type": "m.login.password", "identifier": identifier, "password": password, "session": session}
        return await self._ask(method, path, {**body, "auth": auth})

    # ------------------------------------------------------------ what has been seen

    def _decrypted(self, event: Any) -> Any:
        """The event, decrypted if that is possible by now."""
        if not isinstance(event, nio.MegolmEvent):
            return event
        try:
            return self._client.decrypt_event(event)
        except nio.EncryptionError:
            return event

    def _messages(self, room: str) -> list[Any]:
        timeline = self._timelines.get(room, {})
        for event_id, event in list(timeline.items()):
            timeline[event_id] = self._decrypted(event)
        return [event for event in timeline.values() if isinstance(event, nio.RoomMessage | nio.MegolmEvent)]

    def _told(self, event: Any) -> dict[str, Any]:
        content = event.source["content"]
        shown = None if isinstance(event, nio.MegolmEvent) or event.event_id in self._redacted else content.get("body")
        encrypted = isinstance(event, nio.MegolmEvent) or event.decrypted
        told = {"event_id": event.event_id, "sender": event.sender, "encrypted": encrypted}
        return {**told, "msgtype": content.get("msgtype"), "body": shown}

    def _find(self, room: str, sender: str, body: str) -> Any:
        for event in self._messages(room):
            if event.sender == sender and self._told(event)["body"] == body:
                return event
        return None

    async def _until(self, look: Callable[[], T | None], timeout: float, room: str | None = None) -> T:  # noqa: ASYNC109
        async def awaited() -> T | None:
            return look()

        return await self._watch.until(awaited, timeout, lambda: self._seen(room))

    def _seen(self, room: str | None) -> Any:
        return [self._told(event) for event in self._messages(room)] if room else None

    # ------------------------------------------------------------ account

    async def register(self, username: str, password: str, device_name: str, token: str | None = None) -> Any:
        """Make an account by user-interactive authentication and log in."""
        if token is None:
            answer = await self._client.register(username, password, device_name)
        else:
            answer = await self._client.register_with_token(username, password, token, device_name)
        return await self._begin(await _accepted(answer))

    async def login(self, user: str, password: str, device_name: str) -> Any:
        """Log in with a password, as a new device."""
        self._client.user = user
        return await self._begin(await _accepted(await self._client.login(password, device_name)))

    async def logout(self) -> None:
        """Log out; another login may follow."""
        await _accepted(await self._client.logout())
        await self.close()
        self._open()

    async def go_offline(self) -> None:
        """Stop syncing."""
        assert self._syncing
        self._syncing.cancel()
        await asyncio.wait([self._syncing])

    async def go_online(self) -> None:
        """Sync again from where it stopped."""
        self._start_syncing()
        await self._next_sync()

    async def devices(self) -> Any:
        """The user's devices."""
        answer = await _accepted(await self._client.devices())
        return [{"device_id": device.id, "name": device.display_name} for device in answer.devices]

    async def delete_device(self, device_id: str, password: str) -> None:
        """Delete another device of the user."""
        await self._ask_with_password("POST", "/delete_devices", {"devices": [device_id]}, password)

    async def set_profile(self, displayname: str) -> None:
        """Set the display name."""
        await _accepted(await self._client.set_displayname(displayname))

    async def profile(self, user: str) -> Any:
        """A user's profile."""
        return {"displayname": (await _accepted(await self._client.get_profile(user))).displayname}

    async def set_account_data(self, type: str, content: dict[str, Any]) -> None:  # noqa: A002
        """Set account data of the user."""
        await self._ask("PUT", "/user" + _path(self._client.user_id, "account_data", type), content)

    async def wait_for_account_data(self, type: str, content: dict[str, Any], timeout: float) -> Any:  # noqa: A002, ASYNC109
        """Wait until sync has brought this content."""
        return await self._until(lambda: content if self._account_data.get(type) == content else None, timeout)

    # ------------------------------------------------------------ keys

    async def bootstrap_cross_signing(self, password: str) -> Any:
        """Make cross-signing keys, publish them, sign this device with them."""
        keys = CrossSigning.new(self._client.user_id)
        await self._ask_with_password("POST", "/keys/device_signing/upload", keys.upload(), password)
        await self._sign_this_device(keys)
        return {"master_key": keys.master_key}

    async def _sign_this_device(self, keys: CrossSigning) -> None:
        answer = await self._ask("POST", "/keys/query", {"device_keys": {keys.user: [self._client.device_id]}})
        device = answer["device_keys"][keys.user][self._client.device_id]
        uploaded = await self._ask("POST", "/keys/signatures/upload", keys.sign_device(device))
        if uploaded.get("failures"):
            raise RefusedError(200, {"errcode": "failures", "error": uploaded["failures"]})
        self._cross_signing = keys

    async def wait_for_trust(self, user: str, devices: list[str], timeout: float) -> Any:  # noqa: ASYNC109
        """Wait until all these devices of a user are signed by the user's own keys."""

        async def look() -> dict[str, Any] | None:
            answer = await self._ask("POST", "/keys/query", {"device_keys": {user: []}})
            found = nio_keys.trust(user, answer)
            signed = {name for name, device in (found or {}).get("devices", {}).items() if device["signed_by_owner"]}
            return found if signed.issuperset(devices) else None

        return await self._watch.until(look, timeout, lambda: None)

    async def wait_for_device(self, user: str, device: str, timeout: float) -> None:  # noqa: ASYNC109
        """Wait until this client knows a device and will encrypt for it."""
        await self._until(lambda: True if device in self._client.device_store[user] else None, timeout)

    async def enable_key_backup(self) -> Any:
        """Make a key backup; returns what a new device needs to open it."""
        assert self._cross_signing
        secret = vodozemac.Curve25519SecretKey()
        public = {"public_key": secret.public_key().to_base64()}
        answer = await self._ask("POST", "/room_keys/version", {"algorithm": nio_keys.BACKUP, "auth_data": public})
        self._backup = (answer["version"], secret)
        return {"recovery_key": nio_keys.recovery_key(self._cross_signing, secret), "version": answer["version"]}

    async def wait_for_backup(self) -> Any:
        """Put every room key into the backup."""
        assert self._backup
        version, secret = self._backup
        rooms: dict[str, dict[str, Any]] = {}
        for session in self._client.olm.inbound_group_store:
            kept = rooms.setdefault(session.room_id, {"sessions": {}})["sessions"]
            kept[session.id] = nio_keys.backup_of(session, secret.public_key())
        answer = await self._ask("PUT", f"/room_keys/keys?version={quote(version)}", {"rooms": rooms})
        return {"count": answer["count"]}

    async def restore_key_backup(self, recovery_key: str) -> Any:
        """Sign this new device and fetch the room keys from the backup."""
        keys, secret = nio_keys.opened(self._client.user_id, recovery_key)
        await self._sign_this_device(keys)
        version = (await self._ask("GET", "/room_keys/version"))["version"]
        backup = await self._ask("GET", f"/room_keys/keys?version={quote(version)}")
        imported = total = 0
        for room, kept in backup["rooms"].items():
            for entry in kept["sessions"].values():
                total += 1
                session = nio_keys.restored(room, entry, secret)
                if self._client.olm.inbound_group_store.add(session):
                    self._client.olm.save_inbound_group_session(session)
                    imported += 1
        self._backup = (version, secret)
        return {"imported": imported, "total": total}

    # ------------------------------------------------------------ rooms

    async def create_room(self, name: str, invite: list[str], encrypted: bool) -> Any:
        """Make a private room; returns its id."""
        encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": nio_keys.MEGOLM}}
        answer = await self._client.room_create(
            name=name,
            invite=invite,
            preset=nio.RoomPreset.private_chat,
            initial_state=[encryption] if encrypted else [],
        )
        return (await _accepted(answer)).room_id

    async def join(self, room: str) -> None:
        """Join a room by its id."""
        await _accepted(await self._client.join(room))

    async def leave(self, room: str) -> None:
        """Leave a room or reject an invitation."""
        await _accepted(await self._client.room_leave(room))

    async def invite(self, room: str, user: str) -> None:
        """Invite a user."""
        await _accepted(await self._client.room_invite(room, user))

    async def wait_for_invite(self, room: str, timeout: float) -> None:  # noqa: ASYNC109
        """Wait until sync has brought an invitation."""
        await self._until(lambda: True if room in self._client.invited_rooms else None, timeout)

    async def wait_for_members(self, room: str, members: dict[str, str], timeout: float) -> None:  # noqa: ASYNC109
        """Wait until this client knows these memberships."""

        def membership(user: str) -> str:
            known = self._client.rooms.get(room)
            if known is None or user not in known.users:
                return "leave"
            return "invite" if user in known.invited_users else "join"

        await self._until(lambda: all(membership(user) == it for user, it in members.items()) or None, timeout)

    async def wait_for_encryption(self, room: str, timeout: float) -> None:  # noqa: ASYNC109
        """Wait until this client encrypts what it sends to the room."""
        await self._until(lambda: (room in self._client.rooms and self._client.rooms[room].encrypted) or None, timeout)

    async def set_tag(self, room: str, tag: str, order: float) -> None:
        """Tag a room."""
        await self._ask("PUT", "/user" + _path(self._client.user_id, "rooms", room, "tags", tag), {"order": order})

    async def wait_for_tag(self, room: str, tag: str, timeout: float) -> Any:  # noqa: ASYNC109
        """Wait until sync has brought a tag."""
        return await self._until(lambda: self._client.rooms[room].tags.get(tag), timeout)

    # ------------------------------------------------------------ conversation

    async def _send(self, room: str, type_: str, content: dict[str, Any]) -> str:
        await self.wait_for_encryption(room, 20)
        while self._client.should_query_keys:
            await _accepted(await self._client.keys_query())
        sent = await self._client.room_send(room, type_, content, ignore_unverified_devices=True)
        event_id: str = (await _accepted(sent)).event_id
        return event_id

    async def send_text(self, room: str, body: str) -> Any:
        """Send a message, encrypted if the room is; returns the event id."""
        await self._until(
            lambda: self._client.rooms[room].encrypted or None if room in self._client.rooms else None, 20
        )
        return await self._send(room, "m.room.message", {"msgtype": "m.text", "body": body})

    async def wait_for_text(self, room: str, sender: str, body: str, timeout: float) -> Any:  # noqa: ASYNC109
        """Wait until a message with this body has been received and decrypted."""
        return self._told(await self._until(lambda: self._find(room, sender, body), timeout, room))

    async def texts(self, room: str) -> Any:
        """Every message that was received; body null where it could not be decrypted."""
        return self._seen(room)

    async def history(self, room: str, limit: int) -> Any:
        """The latest messages as the server tells them, oldest first; body null where it cannot be decrypted."""
        found: list[Any] = []
        start: str | None = None
        while len(found) < limit:
            page = await _accepted(await self._client.room_messages(room, start, limit=PAGE))
            for event in map(self._decrypted, page.chunk):
                if isinstance(event, nio.RoomMessage | nio.MegolmEvent):
                    found.insert(0, self._told(event))
            if not page.chunk or not page.end:
                break
            start = page.end
        return found[-limit:]

    async def send_file(self, room: str, name: str, mimetype: str, content: str) -> Any:
        """Encrypt and upload a file (base64) and send it to the room."""
        plain = base64.b64decode(content)
        uploaded, opens = await self._client.upload(io.BytesIO(plain), mimetype, encrypt=True, filesize=len(plain))
        url = (await _accepted(uploaded)).content_uri
        information = {"mimetype": mimetype, "size": len(plain)}
        message = {"msgtype": "m.file", "body": name, "info": information, "file": {**opens, "url": url}}
        return {"event_id": await self._send(room, "m.room.message", message), "url": url}

    async def receive_file(self, room: str, sender: str, name: str, timeout: float) -> Any:  # noqa: ASYNC109
        """Wait for a file, download and decrypt it; returns its bytes in base64."""
        event = await self._until(lambda: self._find(room, sender, name), timeout, room)
        content = event.source["content"]
        opens = content["file"]
        downloaded = await _accepted(await self._client.download(opens["url"]))
        plain = decrypt_attachment(downloaded.body, opens["key"]["k"], opens["hashes"]["sha256"], opens["iv"])
        told = {"mimetype": content["info"]["mimetype"], "url": opens["url"]}
        return {"content": base64.b64encode(plain).decode(), **told}

    async def typing(self, room: str, typing: bool) -> None:
        """Say that the user is typing, or not any more."""
        await _accepted(await self._client.room_typing(room, typing, 20_000))

    async def wait_for_typing(self, room: str, user: str, typing: bool, timeout: float) -> None:  # noqa: ASYNC109
        """Wait until a user is typing, or not any more."""
        await self._until(lambda: (user in self._client.rooms[room].typing_users) == typing or None, timeout)

    async def read(self, room: str, event_id: str) -> None:
        """Send a read receipt."""
        await _accepted(await self._client.update_receipt_marker(room, event_id))

    async def wait_for_receipt(self, room: str, user: str, event_id: str, timeout: float) -> None:  # noqa: ASYNC109
        """Wait until a user has read up to an event."""

        def read() -> bool | None:
            known = self._client.rooms[room]
            unthreaded = known.read_receipts.get(user)
            threaded = known.threaded_read_receipts.get(user, {}).get("main")
            return any(receipt and receipt.event_id == event_id for receipt in (unthreaded, threaded)) or None

        await self._until(read, timeout)

    async def redact(self, room: str, event_id: str) -> Any:
        """Redact an event; returns the redaction's id."""
        return (await _accepted(await self._client.room_redact(room, event_id))).event_id

    async def wait_for_redaction(self, room: str, event_id: str, timeout: float) -> None:  # noqa: ASYNC109
        """Wait until an event is redacted."""
        await self._until(lambda: True if event_id in self._redacted else None, timeout, room)

    async def react(self, room: str, event_id: str, key: str) -> Any:
        """Annotate an event; returns the reaction's id."""
        relation = {"rel_type": "m.annotation", "event_id": event_id, "key": key}
        return await self._send(room, "m.reaction", {"m.relates_to": relation})

    async def wait_for_reaction(self, room: str, sender: str, event_id: str, key: str, timeout: float) -> None:  # noqa: ASYNC109
        """Wait until a user has annotated an event."""

        def matches(event: Any) -> bool:
            return (
                isinstance(event, nio.ReactionEvent)
                and (event.sender, event.reacts_to, event.key) == (sender, event_id, key)
            )  # fmt: skip

        await self._until(lambda: any(map(matches, self._timelines.get(room, {}).values())) or None, timeout, room)


def _verbs(client: NioClient) -> dict[str, Verb]:
    names = (name for name in dir(client) if not name.startswith("_"))
    return {name: getattr(client, name) for name in names}


async def main() -> None:
    """Serve the verbs of one client until standard input ends."""
    options = json.loads(sys.argv[1])
    client = NioClient(options["base_url"], Path(options["store"]), options["local_address"], options["user_agent"])
    try:
        await serve(_verbs(client))
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(main())
