"""In which thread an event is: what receipts and unread counts of threads go by.

spec: client-server-api/#threaded-read-receipts
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol.relations import THREAD, may_relate, relation_in
from homeserver.rooms.receipts import HOPS, MAIN
from homeserver.runtime.lru import Lru
from homeserver.storage import events as stored

if TYPE_CHECKING:
    from collections.abc import Iterable

    from homeserver.rooms.state import Room, Timed
    from homeserver.storage.nodes import Node


class Threads:
    """What has been found of late (``node.memory(Threads)``): an event never changes its thread."""

    def __init__(self) -> None:
        self.of_event: Lru[str, str] = Lru(20_000)


async def of_events(node: Node, room: Room, events: Iterable[Timed]) -> dict[str, str]:
    """The threads of those events that are in one, by event id: the event id of the thread's root.

    No trip unless something relates, otherwise than as a part of a thread, to an event that has not been met lately.
    """
    memory = node.memory(Threads).of_event
    found: dict[str, str] = {}
    ahead: dict[str, list[str]] = {}  # by the event whose thread decides: those that are in the same
    for event in events:
        if not may_relate(event.client):
            continue
        known = memory.get(event.event_id)
        if known is not None:
            found[event.event_id] = known
        else:
            _follow(event.client, [event.event_id], found, ahead)
    for _ in range(HOPS):
        if not ahead:
            break
        waiting, ahead = ahead, {}
        for row in await node.read(stored.by_ids, list(waiting)):
            if row.event_id in waiting and row.verdict == 0:
                _follow(row.client, waiting[row.event_id], found, ahead)
    for event in events:
        if may_relate(event.client):
            memory[event.event_id] = found.setdefault(event.event_id, MAIN)
    return {event_id: thread for event_id, thread in found.items() if thread != MAIN}


def _follow(client: bytes, members: list[str], found: dict[str, str], ahead: dict[str, list[str]]) -> None:
    """One step along the relations from an event; ``members`` are in the same thread as it is."""
    relation = relation_in(client)
    if relation is None:
        found.update(dict.fromkeys(members, MAIN))
    elif relation[0] == THREAD:
        found.update(dict.fromkeys(members, relation[1]))
    else:
        ahead.setdefault(relation[1], []).extend(members)
