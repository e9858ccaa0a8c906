"""What a person leaves at the server in the course of a day.

Each thing is unlike anything else in the world, so that files can be searched for it.
"""

import base64
import hashlib
import secrets
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tests.interop.api import Api, segment
from tests.interop.client import Client

Thing = Literal[
    "phone number",
    "device name",
    "access token",
    "account data",
    "tag",
    "filter",
    "push rule",
    "key backup",
    "public key of the backup",
    "mailbox",
]
THINGS: tuple[Thing, ...] = get_args(Thing)


def mark() -> str:
    """Text that stands nowhere else in the world."""
    return f"mark{secrets.token_hex(10)}"


def token_forms(token: str) -> list[bytes]:
    """How a server may keep an access token: as it is, or as a digest of it."""
    raw = token.encode()
    return [raw, hashlib.sha256(raw).digest(), hashlib.sha512(raw).digest(), hashlib.blake2b(raw).digest()]


@dataclass
class Belongings:
    """Things of one person. A thing may be there several times (two devices), and in one of several forms each."""

    owner: Client
    node: str
    things: dict[Thing, list[list[bytes]]] = field(default_factory=lambda: defaultdict(list))
    said: list[str] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)

    def has(self, thing: Thing, *forms: str | bytes) -> None:
        """Note a thing, in the forms in which it may lie on the disk."""
        self.things[thing].append([form.encode() if isinstance(form, str) else form for form in forms])

    def notes_account_data(self, room: str) -> None:
        """Account data of the user and of a room, a tag, a filter, a push rule."""
        user, api = segment(self.owner.user_id), self.owner.api
        diary, drafts, tag, wanted, rule = (mark() for _ in range(5))
        self.owner.call("set_account_data", type="org.example.diary", content={"today": diary})
        api.client("PUT", f"/user/{user}/rooms/{segment(room)}/account_data/org.example.drafts", {"text": drafts})
        self.owner.call("set_tag", room=room, tag=f"u.{tag}", order=0.5)
        api.client("POST", f"/user/{user}/filter", {"room": {"timeline": {"senders": [f"@{wanted}:example.org"]}}})
        api.client("PUT", f"/pushrules/global/content/{rule}", {"actions": ["notify"], "pattern": rule})
        for text in (diary, drafts):
            self.has("account data", text)
        self.has("tag", tag)
        self.has("filter", wanted)
        self.has("push rule", rule)

    def notes_key_backup(self) -> None:
        """A backup of the room keys; what lies at the server of it is asked from the server."""
        self.owner.enables_key_backup()
        self.owner.backs_up()
        version = self.owner.api.client("GET", "/room_keys/version")
        rooms = self.owner.api.client("GET", f"/room_keys/keys?version={segment(version['version'])}")["rooms"]
        ciphertexts = [
            session["session_data"]["ciphertext"] for room in rooms.values() for session in room["sessions"].values()
        ]
        assert ciphertexts
        for ciphertext in ciphertexts:
            self.has("key backup", *_coded(ciphertext))
        self.has("public key of the backup", *_coded(version["auth_data"]["public_key"]))

    def notes_device(self, name: str, token: str) -> None:
        """A device's name and its access token."""
        self.has("device name", name)
        self.has("access token", *token_forms(token))

    def notes_mailbox(self, sender: Client) -> None:
        """Another device, which never syncs, and a message to it that waits."""
        name, letter = f"Drawer {mark()}", mark()
        login: dict[str, Any] = Api(self.owner.base_url).client(
            "POST",
            "/login",
            {
                "type": "m.login.password",
                "identifier": {"type": "m.id.user", "user": self.owner.user_id},
                "password": self.owner.password,
                "initial_device_display_name": name,
            },
        )
        self.notes_device(name, login["access_token"])
        messages = {self.owner.user_id: {login["device_id"]: {"letter": letter}}}
        sender.api.client("PUT", f"/sendToDevice/org.example.letter/{mark()}", {"messages": messages})
        self.has("mailbox", letter)

    def says(self, room: str) -> str:
        """Send a message."""
        self.said.append(mark())
        return self.owner.sends(room, self.said[-1])

    def sends_file(self, room: str) -> str:
        """Send an encrypted attachment; returns its name."""
        name = f"{mark()}.bin"
        self.files.append(secrets.token_bytes(3000))
        self.said.append(name)
        self.owner.sends_file(room, name, "application/x-thing", self.files[-1])
        return name


def _coded(text: str) -> tuple[bytes, bytes]:
    """Unpadded base64 as it is, and the bytes that it stands for."""
    return text.encode(), base64.b64decode(text + "=" * (-len(text) % 4))
