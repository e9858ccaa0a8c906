"""What is told with a user's public keys, so that who is shown them can check that everybody is shown the same: their
last leaf in the log of their node, that it is theirs, what its digest is of, and that it is in the tree.

It is told to whom the keys are told, and only of users who rest on the node that is asked.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
import structlog

from homeserver.protocol import key_log as leaves
from homeserver.protocol import key_proofs, merkle
from homeserver.protocol.errors import NodeUnavailable, NotFound
from homeserver.protocol.key_log import Leaf
from homeserver.runtime.lru import Lru
from homeserver.storage import device_keys, key_log
from homeserver.storage.device_keys import Proof, UserKeys
from homeserver.storage.nodes import Mirror
from homeserver.storage.streams import Stream
from homeserver.transparency import heads, names
from homeserver.transparency.agreement import for_others, manifest_of
from homeserver.transparency.heads import KeyLog

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.key_log import Placed
    from homeserver.storage.nodes import Node
    from homeserver.transparency.heads import Shown

log = structlog.get_logger("transparency")


FIELD: Final = key_proofs.FIELD
"""The property of an answer in which this stands."""

MOST: Final = 250
"""Users of whom one answer tells this; who wants it of more asks several times."""

LONGEST: Final = 255
"""Characters of a user id."""

KEPT: Final = 4 * 2**20
"""Bytes of such that a node remembers."""


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of a user but for the tree, as of a position of their node, from the log ``origin``.

    ``said``: JSON of it, ``{…`` without the end; ``fits``: whether the keys that are stored are those of which the log
    speaks."""

    user_nid: int
    position: int
    origin: str
    place: int
    said: bytes
    fits: bool


class Remembered(Mirror):
    """What is told of a node's residents, by user id (``node.memory(Remembered)``)."""

    def __init__(self) -> None:
        self.told: Lru[str, Told] = Lru(KEPT, weigh=lambda told: len(told.said) + 300, name="key log leaves")
        self.misfits: set[str] = set()

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.told.clear()


async def of_users(server: Server, node: Node, user_ids: Collection[str]) -> dict[str, Any]:
    """What is told of those of these users who rest on ``node``: the property `FIELD` and its value, or nothing.

    No query of keys fails for it: what cannot be told is left out.
    """
    try:
        return await _of_users(server, node, user_ids)
    except NodeUnavailable:
        return {}
    except LookupError:
        log.exception("tiles of the key log are missing", node=node.name)
        return {}


async def _of_users(server: Server, node: Node, user_ids: Collection[str]) -> dict[str, Any]:
    shown = heads.told(server, node.memory(KeyLog))
    if shown is None:
        return {}
    homes = await server.nodes.of_users(user_ids)
    residents = [user_id for user_id, home in homes.items() if home == node.name][:MOST]
    told = await _told(server, node, residents, shown.origin)
    if not told:
        return {}
    shown = heads.reaching(node.memory(KeyLog), 1 + max(each.place for each in told.values())) or shown
    size = shown.head.size
    proofs = await _proofs(node, {each.place for each in told.values() if each.place < size}, size)
    users = {user_id: _as_json(each, proofs.get(each.place)) for user_id, each in told.items()}
    key = await heads.public_key(server, node)
    return {FIELD: {shown.origin: {"checkpoint": shown.note.decode(), "key": key.write(), "users": users}}}


def opening_of(server: Server, user_id: str) -> str:
    """The proof of a user's name, in Base64. Whoever has it can tell which leaves are about the user, for ever."""
    return _base64(names.opening(server, user_id))


async def to_bearer(server: Server, user_id: str, opening: str) -> dict[str, Any]:
    """What is told of a user to whoever has the proof of their name, who may know nothing else of them.

    Raises NotFound, whether there is no such user or that is not the proof; NodeUnavailable.
    """
    known = len(user_id) <= LONGEST and hmac.compare_digest(
        opening_of(server, user_id).encode(), opening.encode(errors="replace")
    )
    node = await server.nodes.of_user(user_id) if known else None
    if node is None:
        raise NotFound("There is nobody of this name in the log")
    return await of_users(server, node, [user_id])


def _as_json(told: Told, proof: Sequence[bytes] | None) -> orjson.Fragment:
    if proof is None:  # it is not in the tree yet
        return orjson.Fragment(told.said + b"}")
    return orjson.Fragment(told.said + b',"inclusion":' + orjson.dumps([_base64(each) for each in proof]) + b"}")


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode()


class ForCopies(NamedTuple):
    """What is told of residents to those who keep copies of their keys. ``waiting``: of whom nothing can be told yet;
    ``unsigned``: whose proofs no quorum of witnesses has signed yet, and how far it has to sign."""

    proofs: dict[str, Proof]
    waiting: set[str]
    unsigned: dict[str, int]


async def for_copies(server: Server, node: Node, user_ids: Sequence[str]) -> ForCopies:
    """What is told of residents of ``node`` to those who keep copies of their keys.

    Raises NodeUnavailable; LookupError when tiles are missing.
    """
    memory = node.memory(KeyLog)
    shown = memory.shown
    if shown is None:
        return ForCopies({}, set(user_ids), {})
    told = await _told(server, node, user_ids, shown.origin)
    ready = {user_id: each for user_id, each in told.items() if each.place < shown.head.size}
    needed = 1 + max((each.place for each in ready.values()), default=-1)
    shown = heads.reaching(memory, needed) or shown
    proofs = await _proofs(node, {each.place for each in ready.values()}, shown.head.size)
    note = b',"checkpoint":' + orjson.dumps(shown.note.decode()) + b"}"
    made = {
        user_id: Proof(shown.origin, orjson.dumps(_as_json(each, proofs[each.place]))[:-1] + note)
        for user_id, each in ready.items()
    }
    asked = server.policy.now.residency.witnessing.quorum and shown is not memory.cosigned
    return ForCopies(made, told.keys() - ready.keys(), dict.fromkeys(made, needed) if asked else {})


async def of_places(node: Node, shown: Shown, placed: Iterable[Placed | None]) -> dict[int, dict[str, Any]]:
    """Leaves, by their places, with what proves that they are in a tree; but for those that it does not reach.

    Raises KeyError when tiles are missing.
    """
    known = {each.place: each.leaf for each in placed if each is not None and each.place < shown.head.size}
    proofs = await _proofs(node, known, shown.head.size)
    return {
        place: {"index": place, "leaf": leaf.decode(), "inclusion": [_base64(each) for each in proofs[place]]}
        for place, leaf in known.items()
    }


async def _proofs(node: Node, places: Collection[int], size: int) -> dict[int, list[bytes]]:
    parts = {place: merkle.inclusion_parts(place, size) for place in places}
    wanted = {part for each in parts.values() for group in each for part in group}
    roots = await heads.subtrees(node, wanted)
    return {place: merkle.assembled(each, roots) for place, each in parts.items()}


async def _told(server: Server, node: Node, user_ids: Sequence[str], origin: str) -> dict[str, Told]:
    await node.start()
    memory = node.memory(Remembered)
    found = {
        user_id: told
        for user_id, told in memory.told.find(user_ids).items()
        if told.origin == origin and not node.changes.changed(Stream.DEVICE_LISTS, told.user_nid, told.position)
    }
    missing = [user_id for user_id in user_ids if user_id not in found]
    if missing:
        position = node.position
        for user_id, keys, placed in await node.read(_read, server, missing):
            told = _tell(server, user_id, keys, placed, position, origin)
            _note_misfit(node, memory, user_id, told)
            found[user_id] = memory.told[user_id] = told
    return found


async def _read(tx: Transaction, server: Server, user_ids: Sequence[str]) -> list[tuple[str, UserKeys, Placed]]:
    tags = {user_id: names.tag(server, user_id) for user_id in user_ids}
    keys = await device_keys.of_users(tx, user_ids)
    placed = await key_log.newest(tx, tags.values())
    return [
        (user_id, keys[user_id], placed[tag])
        for user_id, tag in tags.items()
        if tag in placed and user_id in keys and not keys[user_id].copied
    ]


def _tell(server: Server, user_id: str, keys: UserKeys, placed: Placed, position: int, origin: str) -> Told:
    found, last = manifest_of(keys), Leaf.read(placed.leaf).digest
    made = found.write()
    fits = last == leaves.digest(made)
    if not fits and keys.manifest is not None and last == leaves.digest(keys.manifest):
        made = keys.manifest  # what was put in by hand is not shown, and what is shown is proved
    withheld = sorted(keys.devices.keys() - for_others(keys).devices.keys())
    said: Mapping[str, Any] = {
        "index": placed.place,
        "leaf": placed.leaf.decode(),
        "keys": made.decode(),
        "opening": _base64(names.opening(server, user_id)),
        **({"withheld": withheld} if withheld else {}),
    }
    return Told(keys.user_nid, position, origin, placed.place, orjson.dumps(said)[:-1], fits)


def _note_misfit(node: Node, memory: Remembered, user_id: str, told: Told) -> None:
    """Say once that keys were changed past the log: what is served then proves it to everybody who looks."""
    if told.fits:
        memory.misfits.discard(user_id)
    elif user_id not in memory.misfits:
        memory.misfits.add(user_id)
        log.error("keys are not those of the key log", node=node.name, index=told.place)
