"""What an event needs in rooms whose event ids are no hashes: an id of its own, and the reference hashes of the events
that it refers to. Where ids are hashes there is nothing to do, and nothing here waits.

spec: rooms/v1/#event-format
"""

from __future__ import annotations

from secrets import token_urlsafe
from typing import TYPE_CHECKING

from homeserver.rooms import state
from homeserver.runtime.lru import Lru
from homeserver.storage import events

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from homeserver.protocol.events import Event
    from homeserver.protocol.versions import RoomRules
    from homeserver.rooms.state import Room
    from homeserver.storage.nodes import Node


class Hashes:
    """Reference hashes by event id (``node.memory(Hashes)``). An event keeps its own for ever, also once redacted."""

    def __init__(self) -> None:
        self.held: Lru[str, str] = Lru(10_000)


def new_event_id(rules: RoomRules, server_name: str) -> str | None:
    """An id for a new event; None where its hash will be the id. spec: rooms/v1/#event-ids"""
    return None if rules.event_id_is_hash else f"${token_urlsafe(18)}:{server_name}"


def remember(node: Node, event: Event) -> None:
    """Note the hash of an event that is about to be committed, so that the next one can refer to it at once."""
    if not event.rules.event_id_is_hash:
        node.memory(Hashes).held[event.event_id] = event.reference_hash


async def load(node: Node, room: Room, event_ids: Collection[str]) -> None:
    """Load the hashes of events that have been committed, as far as they are not in memory."""
    missing = lacking(node, room, event_ids)
    if missing:
        for row in await node.read(events.by_ids, missing):
            remember(node, state.parse(room, row))


def lacking(node: Node, room: Room, event_ids: Collection[str]) -> list[str]:
    """Those of the events whose hashes have to be loaded before another can refer to them."""
    if room.rules.event_id_is_hash:
        return []
    held = node.memory(Hashes).held
    return [event_id for event_id in event_ids if event_id not in held]


def hashes(node: Node, room: Room, event_ids: Collection[str]) -> dict[str, str]:
    """The hashes of events, as far as they are in memory; none where nobody needs them."""
    return {} if room.rules.event_id_is_hash else node.memory(Hashes).held.find(event_ids)


def claims(event: Event) -> list[tuple[str, str]]:
    """The events that an event refers to, each with the hash that it says that one has; none where ids are hashes."""
    if event.rules.event_id_is_hash:
        return []
    return [
        (event_id, hashes["sha256"])
        for name in ("prev_events", "auth_events")
        for event_id, hashes in event.server_fields[name]
        if "sha256" in hashes
    ]


def is_true(event: Event, known: Mapping[str, str]) -> bool:
    """Whether the events that an event refers to have the hashes that it says, as far as theirs are ``known``."""
    return all(known.get(event_id, claim) == claim for event_id, claim in claims(event))
