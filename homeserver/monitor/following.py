"""Reading a key log from where it was read last: that it only grew, that each leaf has its place, and which of them are
about one user.

Nothing is believed but the key of the log, which is known since the first time, and what was seen before.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from homeserver.protocol import checkpoints, key_log, signed_notes, tiles
from homeserver.protocol.checkpoints import Head
from homeserver.protocol.key_log import Leaf, NoLeaf
from homeserver.protocol.merkle import Frontier, leaf_hash
from homeserver.protocol.signed_notes import InvalidNote, NamedKey
from homeserver.protocol.tiles import ENTRIES, WIDTH, Tile

MOST_NOTE: Final = 64 * 1024
MOST_ENTRIES: Final = WIDTH * (2 + 0xFFFF)

Fetch = Callable[[str, int], bytes]
"""Gives what is under a path of the deployment, of at most so many bytes."""


class Contradiction(Exception):
    """What a log shows is not what it has shown, or not what it can be; says in which way."""


class Own(NamedTuple):
    """A leaf about the user who is watched over."""

    place: int
    leaf: Leaf


@dataclass(frozen=True)
class Followed:
    """A log as far as it was read. ``tree``: enough of it to see that it goes on; ``time``: of its last leaf; ``mine``:
    the leaves about the user; ``vrf``: the key of the names; ``witnesses``: who else has signed the last checkpoint."""

    key: str
    vrf: str
    tree: Frontier = field(default_factory=Frontier)
    time: int = 0
    mine: tuple[Own, ...] = ()
    note: str = ""
    witnesses: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """What the log is called."""
        return NamedKey.read(self.key).name

    def write(self) -> dict[str, Any]:
        """As JSON, to go on from."""
        return {
            "key": self.key,
            "vrf": self.vrf,
            "size": self.tree.size,
            "roots": [b64encode(root).decode() for root in self.tree.roots],
            "time": self.time,
            "mine": [[each.place, each.leaf.write().decode()] for each in self.mine],
            "checkpoint": self.note,
        }

    @classmethod
    def read(cls, said: dict[str, Any]) -> Followed:
        """What was written. Raises ValueError, KeyError, TypeError for what was not."""
        return cls(
            str(said["key"]),
            str(said["vrf"]),
            Frontier(said["size"], tuple(b64decode(root) for root in said["roots"])),
            said["time"],
            tuple(Own(place, Leaf.read(raw.encode())) for place, raw in said["mine"]),
            str(said["checkpoint"]),
        )


def believed(followed: Followed, raw: bytes) -> Head:
    """How far a checkpoint says that the log is. Raises Contradiction when the log did not sign that."""
    try:
        found = checkpoints.opened(signed_notes.read(raw), NamedKey.read(followed.key))
    except InvalidNote as fault:
        raise Contradiction(f"the checkpoint is none of {followed.origin}: {fault}") from None
    if found.extension("vrf") != followed.vrf:
        raise Contradiction("the key by which users are named has changed")
    return found.head


def advance(
    followed: Followed,
    base: str,
    fetch: Fetch,
    tag: bytes,
    *,
    witnesses: tuple[NamedKey, ...] = (),
    roots: dict[int, bytes] | None = None,
) -> Followed:
    """Read on to the newest checkpoint; ``base``: the path of the log, ``tag``: the name of the user in it.

    ``roots``: sizes of which the root is wanted, filled in. Raises Contradiction, and what ``fetch`` raises.
    """
    raw = fetch(f"{base}/checkpoint", MOST_NOTE)
    head, tree = believed(followed, raw), followed.tree
    try:
        signed = tuple(sorted(key.name for key in checkpoints.witnesses(signed_notes.read(raw), witnesses)))
    except InvalidNote as fault:
        raise Contradiction(f"a signature of a witness is none: {fault}") from None
    if head.size < tree.size:
        raise Contradiction(f"the log has {head.size} leaves, and had {tree.size}: it was set back")
    time, mine = followed.time, list(followed.mine)
    known = {} if roots is None else roots
    while True:
        if tree.size in known:
            known[tree.size] = tree.root()
        if tree.size >= head.size:
            break
        for entry in _entries(base, fetch, tree.size, head.size):
            time = _checked(entry, tree.size, time, tag, mine)
            tree, _ = tree.append(leaf_hash(entry))
            if tree.size in known:
                known[tree.size] = tree.root()
    if tree.root() != head.root:
        what = "its first leaves are not those that it has shown" if followed.tree.size else "its leaves are not those"
        raise Contradiction(f"{what}, or not those that it signed: there are two histories")
    return replace(
        followed, tree=tree, time=time, mine=tuple(mine), note=raw.decode(errors="replace"), witnesses=signed
    )


def _entries(base: str, fetch: Fetch, start: int, size: int) -> list[bytes]:
    """The entries of one tile, from ``start`` on."""
    place, offset = divmod(start, WIDTH)
    width = min(WIDTH, size - place * WIDTH)
    raw = fetch(f"{base}/{tiles.path(Tile(ENTRIES, place, width))}", MOST_ENTRIES)
    found: list[bytes] = []
    while raw:
        end = 2 + int.from_bytes(raw[:2], "big")
        if len(raw) < end:
            raise Contradiction("a tile of entries ends within one")
        found.append(raw[2:end])
        raw = raw[end:]
    if len(found) != width:
        raise Contradiction(f"a tile of {width} entries has {len(found)}")
    return found[offset:]


def _checked(entry: bytes, index: int, time: int, tag: bytes, mine: list[Own]) -> int:
    """Note a leaf that is about the user; returns its time. Raises Contradiction for what stands wrongly."""
    try:
        leaf = key_log.read(entry)
    except NoLeaf as fault:
        raise Contradiction(f"leaf {index}: {fault}") from None
    if leaf.time < time:
        raise Contradiction(f"leaf {index} is older than the one before it")
    if isinstance(leaf, Leaf) and leaf.tag == tag:
        if leaf.previous != (mine[-1].place if mine else None):
            raise Contradiction(f"leaf {index} does not follow on the last one about the user: one is missing")
        mine.append(Own(index, leaf))
    return leaf.time
