"""What a node's key log has shown to the world, and what it remembers of its tree.

Invariant: nothing is shown of a log before the directory has noted how far it is. A log that is behind what was noted,
or another than it, has been set back: it shows nothing any more, until somebody decides what to do.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from homeserver.protocol import checkpoints, merkle, signed_notes, tiles
from homeserver.protocol.checkpoints import Checkpoint, Head
from homeserver.protocol.log_alarms import Side
from homeserver.protocol.merkle import Subtree
from homeserver.runtime.lru import Lru
from homeserver.storage import cosignatures, key_log, log_heads
from homeserver.storage.key_log import TileName
from homeserver.storage.nodes import Mirror
from homeserver.transparency import alarms, names

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.context import Server
    from homeserver.protocol.signed_notes import NamedKey, Note
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("transparency")

TILES: Final = 2 * 2**20
"""Bytes of tiles that a node remembers."""
ROOTS: Final = 2 * 2**20
"""Bytes that the roots of subtrees take which a node remembers."""
_ROOT: Final = 250

GRACE_MS: Final = 60_000
"""Milliseconds for which a checkpoint may wait for its witnesses, before it is shown without them."""

FIRST_WORD: Final = 5.0
"""Seconds for which the witnesses have the first word on what a node shows that has come."""

VRF_LINE: Final = "vrf"
"""The word before the public key that names users, in a line of each checkpoint."""

REGISTER_LINE: Final = "register"
"""The word before the number of disclosures that the leaves of a checkpoint state, and the head of their chain."""
NO_REGISTER: Final = f"0 {b64encode(merkle.EMPTY_ROOT).decode()}"
"""What stands there while there was none."""


class Shown(NamedTuple):
    """A checkpoint as it is served, of which log, and how far it reaches."""

    note: bytes
    origin: str
    head: Head


def shown_key(node: str) -> tuple[str, str]:
    """What is woken in ``server.wakeups`` when more of a node's log may be seen."""
    return ("key log shown", node)


class KeyLog(Mirror):
    """``node.memory(KeyLog)``. ``shown``: the newest checkpoint that anybody may see; ``cosigned``: the newest that a
    quorum of witnesses has signed, and ``lacking_since_ts``, since when (milliseconds since 1970) there is a newer one
    that they have not; ``fault``: why there is none any more; ``damage``: why there comes no newer one;
    ``generation`` counts the logs of the node that there have been; ``stated``: the version of the policy up to which
    it is known to state all that the directory has; ``followed``: that witnesses are asked by themselves; ``vouched``:
    that they were, since it was opened at ``opened_at`` of the monotonic clock; ``turn`` is held while leaves come into
    the tree, until that is shown. What is remembered of the tree never becomes untrue, but for how wide the tiles at
    its edge are."""

    def __init__(self) -> None:
        self.shown: Shown | None = None
        self.cosigned: Shown | None = None
        self.lacking_since_ts: int | None = None
        self.opened_at: float | None = None
        self.vouched = False
        self.followed = False
        self.fault: str | None = None
        self.damage: str | None = None
        self.generation: int | None = None
        self.stated: int | None = None
        self.turn = asyncio.Lock()
        self.tiles: Lru[TileName, bytes] = Lru(TILES, weigh=len, name="key log tiles")
        self.roots: Lru[Subtree, bytes] = Lru(ROOTS, weigh=lambda _: _ROOT, name="key log roots")

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.shown = self.cosigned = self.lacking_since_ts = self.opened_at = None
        self.vouched = False
        self.fault = self.damage = self.generation = self.stated = None
        self.tiles.clear()
        self.roots.clear()


def label(node: str, generation: int) -> str:
    """How a log is told from others of the deployment: by its node, and ``.2`` for the second log that it has."""
    return node if generation == 1 else f"{node}.{generation}"


def origin_of(server: Server, node: str, generation: int) -> str:
    """What a log is called, which is where it is found, too."""
    return f"{server.name}/_domicile/v1/key-log/{label(node, generation)}"


def generation_of(origin: str) -> int:
    """Which log of its node one of that name is."""
    return int(origin.rpartition("/")[2].partition(".")[2] or 1)


async def generation(server: Server, node: Node) -> int:
    """Which log of the node it is that goes on."""
    memory = node.memory(KeyLog)
    if memory.generation is None:
        memory.generation = (await server.nodes.directory.engine.read(log_heads.of, node.name)).generation
    return memory.generation


async def public_key(server: Server, node: Node) -> NamedKey:
    """What the checkpoints of a node's log are believed by."""
    name = origin_of(server, node.name, await generation(server, node))
    return signed_notes.public_key(name, server.identity.log_key(node.name))


def signed(server: Server, origin: str, node: Node, head: Head, register: str = NO_REGISTER) -> Note:
    """A checkpoint that says so. ``register``: how many disclosures these leaves state, and the head of their chain."""
    vrf = b64encode(names.key_of(server).public).decode()
    made = Checkpoint(origin, head, (f"{VRF_LINE} {vrf}", f"{REGISTER_LINE} {register}"))
    return checkpoints.signed(made, server.identity.log_key(node.name))


async def current(server: Server, node: Node) -> Shown | None:
    """The checkpoint of a node's log that anybody may see; None while there is none, or when it has been set back.

    Raises NodeUnavailable.
    """
    memory = node.memory(KeyLog)
    if memory.shown is None and memory.fault is None:
        await _open(server, node, memory)
    return memory.shown


def told(server: Server, memory: KeyLog) -> Shown | None:
    """What of `current` is told to others. A node that came a moment ago may have been put back from a backup of all
    there is: that only its witnesses know, who are asked first (`cosigning.follow`), for a few seconds at most."""
    if not memory.followed or memory.vouched or not server.policy.now.residency.witnesses:
        return memory.shown
    opened = memory.opened_at
    return None if opened is None or server.clock.monotonic() - opened < FIRST_WORD else memory.shown


async def show(server: Server, node: Node, note: bytes) -> None:
    """Let everybody see a checkpoint, which is in the node's database already."""
    memory = node.memory(KeyLog)
    made = read(note)
    which, head = await generation(server, node), made.head
    if made.origin != origin_of(server, node.name, which):  # it has ended meanwhile
        return
    await server.nodes.directory.engine.write(log_heads.note, node.name, which, head)
    if memory.fault is None and (memory.shown is None or memory.shown.head.size < head.size):
        memory.shown = Shown(note, made.origin, head)
        if memory.cosigned is not None and memory.cosigned[1:] == memory.shown[1:]:
            memory.shown = memory.cosigned
        elif memory.lacking_since_ts is None and server.policy.now.residency.witnessing.quorum:
            memory.lacking_since_ts = server.clock.now_ms()
        server.wakeups.wake(shown_key(node.name))


def cosigned_key(node: str) -> tuple[str, str]:
    """What is woken in ``server.wakeups`` when a quorum of witnesses has signed more of a node's log."""
    return ("key log cosigned", node)


def stir(server: Server) -> None:
    """Have the logs of all nodes state what is new in the directory."""
    for node in server.nodes:
        server.wakeups.wake(shown_key(node.name))


def best(server: Server, memory: KeyLog) -> Shown | None:
    """The checkpoint for whoever asks for none in particular: under a quorum of signatures, unless the witnesses have
    been away for too long; then the newest, with the signatures that it has."""
    if told(server, memory) is None:
        return None
    lacking = memory.lacking_since_ts
    in_time = lacking is None or server.clock.now_ms() - lacking < GRACE_MS
    return memory.cosigned if memory.cosigned is not None and in_time else memory.shown


def reaching(memory: KeyLog, size: int) -> Shown | None:
    """The checkpoint for whoever is shown leaves below ``size``: under a quorum of signatures, if it reaches as far."""
    cosigned = memory.cosigned
    return cosigned if cosigned is not None and cosigned.head.size >= size else memory.shown


def stop(memory: KeyLog, fault: str) -> None:
    """Show nothing of a log any more."""
    memory.shown = memory.cosigned = memory.lacking_since_ts = None
    memory.fault = fault


def read(note: bytes) -> Checkpoint:
    """What a checkpoint of ours says."""
    return checkpoints.read(signed_notes.read(note).text)


async def _open(server: Server, node: Node, memory: KeyLog) -> None:
    """Believe the database, if it is at least what was shown before."""
    noted = await server.nodes.directory.engine.read(log_heads.of, node.name)
    held = await node.read(key_log.progress)
    made = None if held.checkpoint is None else read(held.checkpoint)
    if made is not None and generation_of(made.origin) > noted.generation:  # the directory came back from an archive
        noted = log_heads.Noted(generation_of(made.origin))
        await server.nodes.directory.engine.write(log_heads.learn, node.name, noted.generation)
    memory.generation = noted.generation
    origin = origin_of(server, node.name, noted.generation)
    if made is not None and made.origin != origin and not noted.head.size:
        await node.write(_clear_ended, noted.generation)  # whoever began a new log was cut off before this
        return
    fault = await _fault(node, origin, noted.head, made) if noted.head.size else None
    fault = fault or await _alarm(server, origin)
    if fault is not None:
        stop(memory, fault)
        log.error("key log set back", node=node.name, fault=fault)
        return
    memory.opened_at = server.clock.monotonic()
    if held.checkpoint is not None:
        await _open_cosigned(node, memory, held.checkpoint)
        await show(server, node, held.checkpoint)


async def _open_cosigned(node: Node, memory: KeyLog, newest: bytes) -> None:
    cosigned = await node.read(cosignatures.newest)
    if cosigned.checkpoint is not None:
        made = read(cosigned.checkpoint)
        if made.origin == (now := read(newest)).origin and made.head.size <= now.head.size:
            memory.cosigned = Shown(cosigned.checkpoint, made.origin, made.head)
            memory.lacking_since_ts = cosigned.lacking_since_ts


async def _alarm(server: Server, origin: str) -> str | None:
    alarm = await server.nodes.directory.engine.read(alarms.about, origin, Side.LOG)
    return None if alarm is None else alarms.words(alarm)


async def _clear_ended(tx: Transaction, which: int) -> None:
    held = await key_log.progress(tx)
    if held.checkpoint is not None and generation_of(read(held.checkpoint).origin) < which:
        await key_log.clear(tx)


async def _fault(node: Node, origin: str, noted: Head, made: Checkpoint | None) -> str | None:
    if made is not None and made.origin != origin:
        return f"it is {made.origin}, which has ended"
    size = 0 if made is None else made.head.size
    if size < noted.size:
        return f"the log has {size} leaves, and {noted.size} were shown"
    parts = merkle.frontier_parts(noted.size)
    try:
        roots = await subtrees(node, parts)
    except KeyError:
        return "tiles are missing"
    if merkle.folded([roots[part] for part in parts]) != noted.root:
        return f"the first {noted.size} leaves are not those that were shown"
    return None


# the tree -----------------------------------------------------------------------------------


async def subtrees(node: Node, wanted: Collection[Subtree]) -> dict[Subtree, bytes]:
    """The roots of whole subtrees of what is hashed; mostly from memory. Raises KeyError for one that is not there."""
    memory = node.memory(KeyLog)
    found = memory.roots.find(wanted)
    places = {part: tiles.holding(part) for part in wanted if part not in found}
    if not places:
        return found
    held = memory.tiles.find({TileName(at.level, at.place) for at in places.values()})
    missing = {
        name
        for at in places.values()
        if len(held.get(name := TileName(at.level, at.place), b"")) < (at.offset + at.length) * merkle.HASH_BYTES
    }
    if missing:
        read = await node.read(_tiles, missing)
        held.update(read)
        for name, hashes in read.items():
            memory.tiles[name] = hashes
    for part, at in places.items():
        try:
            root = tiles.root_within(held[TileName(at.level, at.place)], at)
        except ValueError:
            raise KeyError(part) from None
        found[part] = memory.roots[part] = root
    return found


async def _tiles(tx: Transaction, wanted: Collection[TileName]) -> dict[TileName, bytes]:
    return await key_log.tiles(tx, wanted)
