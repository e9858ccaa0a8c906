"""Logs and witnesses that are no Domicile: as honest as a test wants them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import orjson

from homeserver.context import Server
from homeserver.protocol import checkpoints, merkle, signed_notes, tiles, witnessing
from homeserver.protocol.checkpoints import Checkpoint, Head
from homeserver.protocol.merkle import EMPTY_ROOT, Frontier, Subtree, leaf_hash
from homeserver.protocol.signed_notes import COSIGNATURE, NamedKey, Note
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.witnessing import Elsewhere, NotSigned, Submission
from homeserver.runtime import outbound
from homeserver.runtime.exchange import Answer, Fault, Unreachable
from homeserver.runtime.names import SystemNames
from homeserver.runtime.outbound import Outbound, Place
from tests.deployment import Deployment, system_trust

ORIGIN = "log.example/zurich"


class Log:
    """A log in memory, which proves whatever its leaves prove."""

    def __init__(self, leaves: list[bytes], origin: str = ORIGIN) -> None:
        self.leaves = leaves
        self.origin = origin
        self.signer = SigningKey("log", b"l" * 32)

    @property
    def key(self) -> NamedKey:
        """What it is believed by."""
        return signed_notes.public_key(self.origin, self.signer)

    def head(self, size: int) -> Head:
        """The first leaves."""
        tree = Frontier()
        for leaf in self.leaves[:size]:
            tree, _ = tree.append(leaf_hash(leaf))
        return Head(tree.size, tree.root())

    def note(self, size: int) -> Note:
        """The checkpoint of the first leaves."""
        return checkpoints.signed(Checkpoint(self.origin, self.head(size)), self.signer)

    def roots(self) -> dict[Subtree, bytes]:
        """Of all whole subtrees."""
        roots: dict[Subtree, bytes] = {}
        tree = Frontier()
        for leaf in self.leaves:
            tree, whole = tree.append(leaf_hash(leaf))
            roots |= dict(whole)
        return roots

    def proof(self, old: int, size: int) -> list[bytes]:
        """That the log has grown."""
        return merkle.assembled(merkle.consistency_parts(old, size), self.roots())

    def submission(self, old: int, size: int) -> Submission:
        """What it asks a witness to sign."""
        return Submission(old, tuple(self.proof(old, size)) if old <= size else (), self.note(size))


def leaves(count: int, word: str = "leaf") -> list[bytes]:
    """So many leaves."""
    return [f"{word} {number}".encode() for number in range(count)]


class Shelf:
    """Where a log is read (C2SP tlog-tiles), as far as it shows itself: the first ``size`` leaves. ``alarms``: what its
    operator says of its logs; ``lie`` may answer in its place: a status and a body."""

    def __init__(self, log: Log, size: int | None = None) -> None:
        self.log = log
        self.size = len(log.leaves) if size is None else size
        self.alarms: object = []
        self.lie: Callable[[str], tuple[int, bytes] | None] = lambda target: None

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        """A status and a body."""
        path = target.removeprefix("/" + self.log.origin.partition("/")[2])
        lie = self.lie(path)
        if lie is not None:
            return lie
        if path == "/checkpoint":
            return 200, self.log.note(self.size).write()
        if not path.startswith("/tile/"):
            return 200, orjson.dumps({"alarms": self.alarms})
        tile = tiles.read_path(path.split("/")[2:])
        if tile is None or tile.end > self.size:
            return 404, b""
        roots, start = self.log.roots(), tile.place * tiles.WIDTH
        row = [roots[Subtree(tile.level * tiles.HEIGHT, start + at)] for at in range(tile.width)]
        return 200, b"".join(row)


class Witness:
    """A witness in memory, who believes one log. ``lie`` may answer in its place: a status and a body."""

    def __init__(self, name: str, log: NamedKey | None = None) -> None:
        self.name = name
        self.signer = SigningKey("witness", name.encode().ljust(32, b"-")[:32])
        self.log = log
        self.held = Head(0, EMPTY_ROOT)
        self.note = b""
        self.seconds: Callable[[], int] = lambda: 1_700_000_000
        self.lie: Callable[[str, str, bytes], tuple[int, bytes] | None] = lambda method, target, body: None
        self.asked: list[Submission] = []

    @property
    def key(self) -> NamedKey:
        """What its signatures are believed by."""
        return signed_notes.public_key(self.name, self.signer, COSIGNATURE)

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        """A status and a body."""
        if method == "POST":
            self.asked.append(witnessing.read(body))
        lie = self.lie(method, target, body)
        if lie is not None:
            return lie
        if method == "GET":
            return (200, self.note) if self.note else (404, b"")
        return self.sign(witnessing.read(body))

    def sign(self, submission: Submission) -> tuple[int, bytes]:
        """What an honest one answers."""
        if self.log is None:
            return 404, b""
        try:
            self.held = witnessing.judge(submission, self.log, self.held).head
        except Elsewhere as fault:
            return 409, f"{fault.size}\n".encode()
        except NotSigned as fault:
            return fault.status, str(fault).encode()
        line = checkpoints.cosigned(submission.note, self.name, self.signer, self.seconds())
        self.note = submission.note.with_signatures([line]).write()
        return 200, line.write().encode()


class Wires(Outbound):
    """What a deployment asks witnesses through, by their host; ``cut`` are those that cannot be reached. A witness that
    is a deployment is asked as anybody would ask it."""

    def __init__(self, server: Server, hosts: Mapping[str, Witness | Shelf | Deployment]) -> None:
        super().__init__(SystemNames(), system_trust(), server.clock, server.telemetry)
        self.hosts = hosts
        self.cut: set[str] = set()
        self.asked: list[tuple[str, str, str]] = []

    async def request(
        self,
        method: str,
        place: Place,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        most: int,
        seconds: float,
    ) -> Answer:
        outbound._written(method, place, target, headers or {}, body)  # what could not be sent fails here too
        host = place.targets[0].host
        self.asked.append((host, method, target))
        if host in self.cut:
            raise Unreachable(Fault.CONNECTION, "the link is cut")
        there = self.hosts[host]
        if isinstance(there, Witness | Shelf):
            status, content = there.answer(method, target, body)
            return Answer(status, {}, content)
        response = await there.site.call(method, target, body=body, address="192.0.2.1")
        assert isinstance(response.body, bytes)
        return Answer(response.status, {}, response.body)


def wired(deployment: Deployment, **hosts: Witness | Shelf | Deployment) -> Wires:
    """Connect a deployment to these, each at ``https://NAME.example``."""
    wires = Wires(deployment.server, {f"{name}.example": there for name, there in hosts.items()})
    deployment.server = deployment.site.server = replace(deployment.server, outbound=wires)
    return wires


def witnessed_by(quorum: int, **witnesses: tuple[str, NamedKey]) -> str:
    """Lines of a policy: witnesses by name, with their jurisdiction and key, each at ``https://NAME.example``."""
    lines = [f"[witnessing]\nquorum = {quorum}\n"]
    for name, (jurisdiction, key) in witnesses.items():
        url = f"https://{name}.example/_domicile/v1/witness"
        lines.append(f'[witnesses.{name}]\njurisdiction = "{jurisdiction}"\nurl = "{url}"\nkey = "{key.write()}"\n')
    return "".join(lines)
