"""Events that another server has a part in before they are committed: an invitation that it signs too, and the template
of a member event that it fills in.

spec: server-server-api/#joining-rooms, server-server-api/#inviting-to-a-room
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from homeserver.protocol import auth_rules, events
from homeserver.protocol.errors import Forbidden
from homeserver.protocol.event_view import CREATE, MEMBER
from homeserver.protocol.identifiers import domain_of
from homeserver.protocol.rejection import Rejected
from homeserver.residency import authors
from homeserver.rooms import references, send, state
from homeserver.rooms.stripped import stripped_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.rooms.send import Draft
    from homeserver.rooms.state import Room
    from homeserver.storage.nodes import Node

MOST_PREV_EVENTS = 20


async def invitation(server: Server, node: Node, room: Room, draft: Draft) -> tuple[Event, list[bytes]]:
    """A draft as an event at the tip of the room that is not submitted, and what the invited may see of the room, as
    canonical JSON of events in federation format. Raises what `send.place` raises, and FlowDenied where the events of
    somebody who has been in the room may not flow to the invited.
    """
    there = server.policy.now.jurisdiction_of_server(domain_of(draft.state_key or ""))
    await authors.check(server, there, room.head.state)
    while True:
        shown = await preview(node, room, draft.sender)
        try:
            return (await send.build(server, node, room, draft)).event, shown
        except LookupError:  # the room has moved on meanwhile, to state that is not in memory
            continue


async def preview(node: Node, room: Room, sender: str) -> list[bytes]:
    """What the invited and the knocking may see of a room, as canonical JSON of events in federation format."""
    while True:
        keys = stripped_keys(room.head, sender)
        await state.require(node, room, keys)
        if not state.lacking(room.head, keys):
            chosen = [room.head.event(key) for key in keys]
            return [event.pdu_bytes() for event in chosen if event is not None]


@dataclass(frozen=True, slots=True)
class _Proposed:
    """A member event without a place in the graph, as the authorisation rules look at it."""

    room_id: str
    sender: str
    content: dict[str, Any]
    prev_events: Sequence[str]
    type: str = MEMBER
    auth_events: Sequence[str] = ()
    event_id: str = ""
    origin_server_ts: int = 0
    depth: int = 0
    redacts: str | None = None

    @property
    def state_key(self) -> str:
        """Whom it is about: the sender."""
        return self.sender


async def template(server: Server, node: Node, room: Room, user_id: str, content: dict[str, Any]) -> dict[str, Any]:
    """The federation format of a user's own member event at the tip of the room, for another server to fill in.

    Raises Forbidden when the room's rules do not allow it.
    """
    while True:
        head = room.head
        prev_events = list(head.tips)[:MOST_PREV_EVENTS]
        proposed = _Proposed(room.room_id, user_id, content, prev_events)
        places = auth_rules.auth_types_for(room.rules, proposed)
        await state.require(node, room, [CREATE, *places])
        auth_events = [entry.event_id for entry in map(head.state.get, places) if entry is not None]
        cited = [*prev_events, *auth_events]
        await references.load(node, room, cited)
        if head is room.head and not state.lacking(head, [CREATE, *places]):
            break
    known = {key: found for key in (CREATE, *places) if (found := head.event(key)) is not None}
    try:
        auth_rules.check(room.rules, proposed, known)
    except Rejected as error:
        raise Forbidden(error.reason) from None
    return events.draft(
        room.rules,
        type=MEMBER,
        sender=user_id,
        room_id=room.room_id,
        content=content,
        state_key=user_id,
        prev_events=prev_events,
        auth_events=auth_events,
        depth=head.depth + 1,
        origin_server_ts=server.clock.now_ms(),
        reference_hashes=references.hashes(node, room, cited),
    )
