"""What another server may read of a room here: whether at all, and which events whole.

Every answer about a room's graph begins with `open_room`. Who is in the room gets its whole graph, with what it may not
see redacted; who has been gets what it could see, and nothing else.

spec: server-server-api/#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from config.residency import DataClass
from homeserver.protocol import access, server_acl
from homeserver.protocol.errors import FlowDenied, Forbidden, NodeUnavailable, NotFound
from homeserver.protocol.events import from_stored, pdu_bytes
from homeserver.residency import gate, traffic
from homeserver.rooms import history, state
from homeserver.storage import events

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.rooms.state import Room
    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node


@dataclass(frozen=True, slots=True)
class Reading:
    """A room as one of our nodes has it, and what the server that asks may see of it.

    ``stays``: the memberships of each of its users as (position, value); None when they make no difference.
    """

    node: Node
    room: Room
    origin: str
    in_room: bool
    visibilities: Sequence[tuple[int, str]]
    stays: Mapping[str, Sequence[tuple[int, str]]] | None

    def sees(self, row: StoredEvent) -> bool:
        """Whether the server may have the content of an event."""
        if row.state_key is not None and self.in_room:
            entry = self.room.now.state.get((row.type, row.state_key))
            if row.pos is None or (entry is not None and entry.event_id == row.event_id):
                return True  # the state of a room is theirs who are in it
        if row.pos is None:
            return False
        visibility = history.value_before(self.visibilities, row.pos, access.DEFAULT_VISIBILITY)
        if self.stays is None:
            return access.server_may_see(visibility, (), in_room=self.in_room)
        later = self.in_room or any(_joins_after(stay, row.pos) for stay in self.stays.values())
        return access.server_may_see(visibility, self._memberships(row.pos), in_room=later)

    def _memberships(self, pos: int) -> Iterable[str]:
        """What its users were when the event at a position came: before it, and once it had happened."""
        for stay in (self.stays or {}).values():
            yield history.value_before(stay, pos, "leave")
            yield history.value_before(stay, pos + 1, "leave")

    def gives(self, row: StoredEvent) -> bool:
        """Whether the event is given away at all, whole or redacted: rejected events never are."""
        return row.verdict != events.Verdict.REJECTED and (self.in_room or self.sees(row))

    def pdu(self, row: StoredEvent) -> bytes:
        """An event that is given away, in federation format."""
        if self.sees(row):
            return self.whole(row)
        return from_stored(self.room.rules, self.room.room_id, row.client, row.rest).redacted().pdu_bytes()

    def whole(self, row: StoredEvent) -> bytes:
        """An event in federation format, whatever the server could see of it."""
        return pdu_bytes(self.room.rules, row.client, row.rest)


def _joins_after(stay: Sequence[tuple[int, str]], pos: int) -> bool:
    return any(value == "join" for _, value in stay[bisect_left(stay, pos, key=_position) :])


def _position(entry: tuple[int, str]) -> int:
    return entry[0]


async def open_room(server: Server, origin: str, room_id: str) -> Reading:
    """The room for a server that wants to read it, from its home node, or from another while that is down.

    Raises Forbidden for who is not in the room and never was, and for whom its ACL keeps out; FlowDenied,
    NodeUnavailable. What is refused is counted.
    """
    try:
        return await _open(server, origin, room_id)
    except (Forbidden, FlowDenied) as refusal:
        server.telemetry.counter(
            "domicile_federation_readings_refused",
            "Questions of other servers about rooms, refused, by why.",
            ["reason"],
        ).inc("no_flow" if isinstance(refusal, FlowDenied) else "forbidden")
        raise


async def _open(server: Server, origin: str, room_id: str) -> Reading:
    node, room = await find(server, room_id)
    await check_acl(node, room, origin)
    check_flows(server, node, room, origin)
    reading = await _reading(node, room, origin)
    if not reading.in_room and not any(value == "join" for stay in (reading.stays or {}).values() for _, value in stay):
        raise Forbidden("Your server is not in that room")
    return reading


async def find(server: Server, room_id: str) -> tuple[Node, Room]:
    """A room and the node that answers for it. Raises Forbidden when there is none here, NodeUnavailable."""
    home = await server.nodes.of_room(room_id)
    if home is None:
        raise Forbidden("Your server is not in that room")
    away: NodeUnavailable | None = None
    for node in (home, *(node for node in server.nodes if node is not home)):
        try:
            room = await state.find(node, room_id)
        except NodeUnavailable as error:
            away = away or error
            continue
        if room is not None:
            traffic.concerns(node)
            return node, room
        if away is None:
            break  # the home node knows all rooms whose home it is
    if away is not None:
        raise away
    raise Forbidden("Your server is not in that room")


async def check_acl(node: Node, room: Room, origin: str) -> None:
    """Raise Forbidden when the room keeps a server out. spec: server-server-api/#server-access-control-lists-acls"""
    now = room.now
    while missing := state.lacking(now, [server_acl.SERVER_ACL]):
        await state.load_entries(node, room, missing)
    if not server_acl.allows(now.event(server_acl.SERVER_ACL), origin):
        raise Forbidden("Your server is kept out of that room")


def check_flows(server: Server, node: Node, room: Room, origin: str) -> None:
    """Raise FlowDenied unless events may flow to a server from every node that has members in the room."""
    there = server.policy.now.jurisdiction_of_server(origin)
    names = {node.name, *(name for name, members in room.now.nodes.items() if members)}
    for here in sorted({server.policy.now.jurisdiction_of_node(name) for name in names}):
        gate.check(server, DataClass.EVENTS, here, there)


async def _reading(node: Node, room: Room, origin: str) -> Reading:
    in_room = origin in room.now.servers
    visibilities, stays = await node.read(_look, room.nid, None if in_room else origin)
    if in_room and any(value not in ("shared", "world_readable") for _, value in visibilities):
        visibilities, stays = await node.read(_look, room.nid, origin)
    return Reading(node, room, origin, in_room, visibilities, stays)


async def _look(
    tx: Transaction, room_nid: int, origin: str | None
) -> tuple[list[tuple[int, str]], dict[str, list[tuple[int, str]]] | None]:
    """The visibilities of a room over time, and the memberships of a server's users if it is named."""
    visibilities = (await history.visibilities(tx, [room_nid]))[room_nid]
    if origin is None:
        return visibilities, None
    stays: dict[str, list[tuple[int, str]]] = {}
    for pos, user_id, client in await events.members_of_server(tx, room_nid, origin):
        stays.setdefault(user_id, []).append((pos, state.membership_in(client)))
    return visibilities, stays


async def event_of(server: Server, origin: str, event_id: str) -> tuple[Reading, StoredEvent]:
    """An event that a server may have. Raises NotFound, also for what is not its business; NodeUnavailable."""
    away: NodeUnavailable | None = None
    for node in server.nodes:
        try:
            room_id = await node.read(events.room_of, event_id)
        except NodeUnavailable as error:
            away = error
            continue
        if room_id is None:
            continue
        try:
            reading = await open_room(server, origin, room_id)
        except (Forbidden, FlowDenied):
            break
        row = await reading.node.read(events.by_id, reading.room.nid, event_id)
        if row is not None and reading.gives(row):
            return reading, row
    if away is not None:
        raise away
    raise NotFound("There is no such event, or your server may not have it")


async def known_event(reading: Reading, event_id: str) -> StoredEvent:
    """An event of the room that the server names, and may. Raises NotFound."""
    row = await reading.node.read(events.by_id, reading.room.nid, event_id)
    if row is None or not reading.gives(row):
        raise NotFound("There is no such event, or your server may not have it")
    return row
