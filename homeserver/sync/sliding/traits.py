"""What filters ask of rooms beside how their user sorted them: what type they have, and whether they are encrypted.

Known from memory once a room has been looked at: its type never changes, and it stays encrypted when it once is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from homeserver.protocol.client_format import content_of
from homeserver.runtime.lru import Lru
from homeserver.storage import rooms, sliding
from homeserver.storage.nodes import Mirror
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from homeserver.context import Caller
    from homeserver.storage.nodes import Node
    from homeserver.storage.sliding import Listed

OUTSIDE = ("invite", "knock")


class Traits(NamedTuple):
    """``known``: whether the room's creation is; else nothing can be said of its type."""

    known: bool
    type: str | None
    encrypted: bool


UNKNOWN = Traits(False, None, False)


class Known(Mirror):
    """The traits of rooms of which the node has a replica (``node.memory(Known)``), each as of a position."""

    def __init__(self) -> None:
        self.of_room: Lru[int, tuple[int, Traits]] = Lru(200_000)

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.of_room.clear()


async def of_rooms(caller: Caller, listed: Iterable[Listed]) -> dict[int, Traits]:
    """The traits of a caller's rooms by row id; of those to which they are invited, what the invitation tells."""
    listed = list(listed)
    outside = [room.room_nid for room in listed if room.membership in OUTSIDE]
    found = await _of_replicas(caller.node, [room.room_nid for room in listed if room.membership not in OUTSIDE])
    if outside:
        previews = await caller.node.read(rooms.invitations, caller.user_nid, outside)
        found.update((nid, _of_preview(previews.get(nid, b"[]"))) for nid in outside)
    return found


async def _of_replicas(node: Node, nids: Sequence[int]) -> dict[int, Traits]:
    memory = node.memory(Known).of_room
    found: dict[int, Traits] = {}
    missing = []
    for nid in nids:
        held = memory.get(nid)
        if held is not None and (held[1].encrypted or not node.changes.changed(Stream.TIMELINE, nid, held[0])):
            found[nid] = held[1]
        else:
            missing.append(nid)
    if missing:
        at = node.position
        by_room: dict[int, dict[str, bytes]] = {}
        for nid, kind, client in await node.read(sliding.landmarks, missing):
            by_room.setdefault(nid, {})[kind] = client
        for nid in missing:
            found[nid] = _of_state(by_room.get(nid, {}))
            memory[nid] = (at, found[nid])
    return found


def _of_state(by_type: Mapping[str, bytes]) -> Traits:
    creation = by_type.get("m.room.create")
    if creation is None:
        return UNKNOWN
    return Traits(True, _type_in(orjson.loads(content_of(creation))), "m.room.encryption" in by_type)


def _of_preview(stripped: bytes) -> Traits:
    events = {event["type"]: event["content"] for event in orjson.loads(stripped) if event["state_key"] == ""}
    creation = events.get("m.room.create")
    return Traits(creation is not None, _type_in(creation or {}), "m.room.encryption" in events)


def _type_in(content: Mapping[str, object]) -> str | None:
    found = content.get("type")
    return found if isinstance(found, str) else None
