"""What is said of a room to who is not in it: its name, size and ways in, as room directories and spaces show it.

Remembered for each node until something happens in the room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from homeserver.protocol.identifiers import is_room_id
from homeserver.runtime.lru import Lru
from homeserver.storage import published as stored
from homeserver.storage.nodes import Mirror
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.storage.nodes import Node
    from homeserver.storage.published import Outline

REMEMBERED = 4 * 2**20
"""Bytes of summaries that a node remembers."""

_TEXTS = {
    "name": ("m.room.name", "name"),
    "topic": ("m.room.topic", "topic"),
    "canonical_alias": ("m.room.canonical_alias", "alias"),
    "avatar_url": ("m.room.avatar", "url"),
    "room_type": ("m.room.create", "type"),
    "encryption": ("m.room.encryption", "algorithm"),
}
_TYPES = (
    *(kind for kind, _ in _TEXTS.values()),
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
)


@dataclass(frozen=True, slots=True)
class Summary:
    """A room in short. ``shown`` is what others are told; ``allowed``: rooms whose members may join (restricted)."""

    room_nid: int
    room_id: str
    shown: dict[str, Any]
    allowed: tuple[str, ...]

    @property
    def join_rule(self) -> str:
        """Its join rule."""
        return str(self.shown["join_rule"])

    @property
    def world_readable(self) -> bool:
        """Whether anybody may read it."""
        return bool(self.shown["world_readable"])


class _Remembered(Mirror):
    """Summaries of a node's rooms by row id, each with the position as of which it is."""

    def __init__(self) -> None:
        self.held: Lru[int, tuple[int, Summary]] = Lru(REMEMBERED, lambda known: 500 + len(str(known[1].shown)))
        self.generation = 0

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.held.clear()
        self.generation += 1


async def of_rooms(node: Node, room_nids: Sequence[int]) -> dict[int, Summary]:
    """The summaries of those rooms whose state the node holds, by row id."""
    await node.start()
    memory = node.memory(_Remembered)
    changed, position, generation = node.changes.changed, node.position, memory.generation
    found = {
        room_nid: summary
        for room_nid, (since, summary) in memory.held.find(room_nids).items()
        if not changed(Stream.TIMELINE, room_nid, since) and not changed(Stream.MEMBERS, room_nid, since)
    }
    missing = [room_nid for room_nid in room_nids if room_nid not in found]
    for outline in await node.read(stored.outlines, missing, _TYPES) if missing else ():
        summary = found[outline.room_nid] = _summary(outline)
        if generation == memory.generation:
            memory.held[outline.room_nid] = (position, summary)
    return found


async def find(node: Node, room_id: str) -> Summary | None:
    """The summary of a room whose state the node holds."""
    room_nid = await node.read(stored.known_nid, room_id)
    return None if room_nid is None else (await of_rooms(node, [room_nid])).get(room_nid)


def _summary(outline: Outline) -> Summary:
    """spec: client-server-api/#get_matrixclientv3publicrooms"""
    contents = {kind: orjson.loads(client + b"}")["content"] for kind, client in outline.state.items()}

    def text(kind: str, name: str) -> str | None:
        value = contents.get(kind, {}).get(name)
        return value if isinstance(value, str) else None

    rule = text("m.room.join_rules", "join_rule") or "invite"
    shown: dict[str, Any] = {
        "room_id": outline.room_id,
        "num_joined_members": outline.joined,
        "world_readable": text("m.room.history_visibility", "history_visibility") == "world_readable",
        "guest_can_join": text("m.room.guest_access", "guest_access") == "can_join",
        "join_rule": rule,
        "room_version": outline.version,
    }
    for name, (kind, field) in _TEXTS.items():
        value = text(kind, field)
        if value:
            shown[name] = value
    allowed = _allowed(contents.get("m.room.join_rules", {})) if rule in ("restricted", "knock_restricted") else ()
    return Summary(outline.room_nid, outline.room_id, shown, allowed)


def _allowed(rules: dict[str, Any]) -> tuple[str, ...]:
    """The rooms of which membership opens this one. spec: client-server-api/#restricted-rooms"""
    conditions = rules.get("allow")
    return tuple(
        condition["room_id"]
        for condition in (conditions if isinstance(conditions, list) else ())
        if isinstance(condition, dict)
        and condition.get("type") == "m.room_membership"
        and is_room_id(condition.get("room_id"))
    )
