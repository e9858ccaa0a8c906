"""What relates to events, bundled with them as clients read them: threads, replacements, references.

Read for a whole page at once; what the reader may not see, and what is sent by users whom they ignore, is left out.

spec: client-server-api/#aggregations-of-child-events
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from homeserver.protocol.client_format import content_of
from homeserver.protocol.relations import REFERENCE, REPLACE, THREAD, relation_in
from homeserver.rooms import erasure
from homeserver.rooms.state import Room, Timed, timed
from homeserver.storage import relations

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from homeserver.rooms.sight import Sight
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node
    from homeserver.storage.relations import Related

ENCRYPTED = "m.room.encrypted"
REDACTED = b'"redacted_because":'


class Reader(NamedTuple):
    """Who reads: a resident, and whom they ignore; ``erased``: see erasure.py."""

    node: Node
    user_nid: int
    user_id: str
    ignored: frozenset[str]
    erased: Mapping[str, int]


class Parent(NamedTuple):
    """An event that is shown. ``seen`` None: the reader may see all of the room. ``room_id``: the JSON string of the
    room id, where the answer wants it in events.
    """

    event: Timed
    seen: Sight | None
    room: Room
    room_id: bytes = b""


class Look:
    """A look at what relates to events, which is remembered of those to which nothing does: to be made before the
    database is asked. What is committed meanwhile is seen to."""

    def __init__(self, rooms: Iterable[Room]) -> None:
        self._before = {room.nid: room.relations for room in rooms}

    def note(self, room: Room, events: Iterable[Timed], parents: Collection[str]) -> None:
        """``parents``: those of the events, by id, to which something relates."""
        if self._before.get(room.nid) == room.relations:
            for event in events:
                if event.event_id not in parents:
                    event.bare = True


async def bundled(reader: Reader, parents: Sequence[Parent], now_ms: int) -> dict[str, bytes]:
    """By event id, the ``m.relations`` of those events that have any, as a member of ``unsigned``. State has none.

    One trip when nothing relates to any of them; none when that is known.
    """
    shown = {
        parent.event.event_id: parent for parent in parents if parent.event.state_key is None and not parent.event.bare
    }
    if not shown:
        return {}
    look = Look([parent.room for parent in shown.values()])
    found = await reader.node.read(relations.related, list(shown), reader.user_nid, reader.ignored)
    for parent in shown.values():
        look.note(parent.room, [parent.event], found.parents)
    latest = {parent: timed(thread.latest) for parent, thread in found.threads.items()}
    nested: Mapping[str, bytes] = {}
    if latest:  # these have replacements and references of their own
        within = [shown[parent]._replace(event=event) for parent, event in latest.items()]
        nested = await _of_latest(reader, within, now_ms)
    threads = {
        parent: _thread(reader, shown[parent], found, event, nested, now_ms)
        for parent, event in latest.items()
        if _visible(reader, shown[parent], event)
    }
    return _members(reader, shown, found, threads, now_ms)


async def _of_latest(reader: Reader, parents: Sequence[Parent], now_ms: int) -> dict[str, bytes]:
    shown = {parent.event.event_id: parent for parent in parents}
    found = await reader.node.read(relations.related, list(shown), reader.user_nid, reader.ignored, threads=False)
    return _members(reader, shown, found, {}, now_ms)


def _members(
    reader: Reader, shown: Mapping[str, Parent], found: Related, threads: Mapping[str, bytes], now_ms: int
) -> dict[str, bytes]:
    members = {}
    for event_id in {*threads, *found.replacements, *found.references}:
        parent = shown[event_id]
        parts: dict[str, object] = {}
        if event_id in threads:
            parts[THREAD] = orjson.Fragment(threads[event_id])
        replacement = _replacement(reader, parent, found.replacements.get(event_id, ()))
        if replacement is not None:
            parts[REPLACE] = orjson.Fragment(_event(replacement, parent, now_ms))
        if event_id in found.references:
            parts[REFERENCE] = {"chunk": [{"event_id": child} for child in found.references[event_id]]}
        if parts:
            members[event_id] = b'"m.relations":' + orjson.dumps(parts)
    return members


def _thread(
    reader: Reader, parent: Parent, found: Related, latest: Timed, nested: Mapping[str, bytes], now_ms: int
) -> bytes:
    thread = found.threads[parent.event.event_id]
    return orjson.dumps(
        {
            "latest_event": orjson.Fragment(_event(latest, parent, now_ms, nested.get(latest.event_id))),
            "count": thread.size,
            "current_user_participated": thread.participated or parent.event.sender == reader.user_id,
        }
    )


def _replacement(reader: Reader, parent: Parent, candidates: Iterable[StoredEvent]) -> Timed | None:
    """The newest replacement that is valid and visible.

    spec: client-server-api/#validity-of-replacement-events
    """
    relation = relation_in(parent.event.client)
    if _is_redacted(parent.event) or (relation is not None and relation[0] == REPLACE):
        return None
    for row in candidates:
        replaces = row.type == ENCRYPTED or "m.new_content" in orjson.loads(content_of(row.client))
        if replaces and _visible(reader, parent, timed(row)):
            return timed(row)
    return None


def _is_redacted(event: Timed) -> bool:
    return event.unsigned is not None and REDACTED in event.unsigned


def _visible(reader: Reader, parent: Parent, event: Timed) -> bool:
    if parent.seen is None:
        return True
    return parent.seen.sees(event) and not erasure.hides(reader.erased, parent.seen, event)


def _event(event: Timed, parent: Parent, now_ms: int, nested: bytes | None = None) -> bytes:
    """A child as it is shown within its parent: in the same form."""
    parts = [event.client]
    if parent.room_id:
        parts += (b',"room_id":', parent.room_id)
    parts.append(b',"unsigned":{"age":%d' % max(0, now_ms - event.ts))
    for member in (event.unsigned, nested):
        if member is not None:
            parts += (b",", member)
    parts.append(b"}}")
    return b"".join(parts)


def parents_of(room: Room, seen: Sight | None, events: Collection[Timed], *, room_ids: bool) -> list[Parent]:
    """Events of a room as `bundled` takes them."""
    room_id = orjson.dumps(room.room_id) if room_ids else b""
    return [Parent(event, seen, room, room_id) for event in events]
