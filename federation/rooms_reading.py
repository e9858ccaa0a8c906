"""What another server may read of a room here: whether at all, and which events whole.

Every answer about a room's graph begins with `open_room`. Who is in the room gets its whole graph, with what it may not
see redacted; who has been gets what it could see, and nothing else. What somebody wrote who is erased is redacted for
servers that had not got it by then. What users wrote whose node may send nothing there is given to nobody there.

spec: server-server-api/#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from config.residency import DataClass
from homeserver.protocol import access, server_acl
from homeserver.protocol.errors import FlowDenied, Forbidden, NodeUnavailable, NotFound
from homeserver.protocol.events import from_stored, pdu_bytes
from homeserver.residency import authors, gate, traffic
from homeserver.rooms import erasure, sight, state
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
    ``erased``: the erased users of the room, and since which position they are. ``withheld``: those of our users who
    ever were in the room and whose events may not flow to the server, with their jurisdictions.
    """

    node: Node
    room: Room
    origin: str
    in_room: bool
    visibilities: Sequence[tuple[int, str]]
    stays: Mapping[str, Sequence[tuple[int, str]]] | None
    erased: Mapping[str, int] = field(default_factory=dict)
    withheld: Mapping[str, str] = field(default_factory=dict)

    def sees(self, row: StoredEvent) -> bool:
        """Whether the server may have the content of an event."""
        if self._is_state(row):
            return True  # the state of a room is theirs who are in it
        if row.pos is None:
            return False
        visibility = sight.value_before(self.visibilities, row.pos, access.DEFAULT_VISIBILITY)
        if self.stays is None:
            return access.server_may_see(visibility, (), in_room=self.in_room)
        later = self.in_room or any(_joins_after(stay, row.pos) for stay in self.stays.values())
        return access.server_may_see(visibility, self._memberships(row.pos), in_room=later)

    def _is_state(self, row: StoredEvent) -> bool:
        """Whether an event is of the state that the server has to have."""
        if row.state_key is None or not self.in_room:
            return False
        entry = self.room.now.state.get((row.type, row.state_key))
        return row.pos is None or (entry is not None and entry.event_id == row.event_id)

    def _is_forgotten(self, row: StoredEvent) -> bool:
        """Whether the sender of an event was erased before the server could have got it."""
        since = self.erased.get(row.sender)
        if since is None or self._is_state(row):
            return False
        stays = {
            user_id: [entry for entry in stay if entry[0] <= since] for user_id, stay in (self.stays or {}).items()
        }
        if not any(value == "join" for stay in stays.values() for _, value in stay):
            return True
        in_room = any(stay[-1][1] == "join" for stay in stays.values() if stay)
        return not replace(self, stays=stays, in_room=in_room).sees(row)

    def _memberships(self, pos: int) -> Iterable[str]:
        """What its users were when the event at a position came: before it, and once it had happened."""
        for stay in (self.stays or {}).values():
            yield sight.value_before(stay, pos, "leave")
            yield sight.value_before(stay, pos + 1, "leave")

    def gives(self, row: StoredEvent) -> bool:
        """Whether the event is given away at all, whole or redacted: rejected events never are."""
        if row.verdict == events.Verdict.REJECTED or row.sender in self.withheld:
            return False
        return self.in_room or self.sees(row)

    def pdu(self, row: StoredEvent) -> bytes:
        """An event that is given away, in federation format."""
        if self.sees(row) and not self._is_forgotten(row):
            return self.whole(row)
        return from_stored(self.room.rules, self.room.room_id, row.client, row.rest).redacted().pdu_bytes()

    def whole(self, row: StoredEvent) -> bytes:
        """An event in federation format, whatever the server could see of it."""
        return pdu_bytes(self.room.rules, row.client, row.rest)


def _joins_after(stay: Sequence[tuple[int, str]], pos: int) -> bool:
    return any(value == "join" for _, value in stay[bisect_left(stay, pos, key=_position) :])


def _position(entry: tuple[int, str]) -> int:
    return entry[0]


async def open_room(server: Server, origin: str, room_id: str, *, whole: bool = False) -> Reading:
    """The room for a server that wants to read it, from its home node, or from another while that is down.

    ``whole``: its state and authority are asked for, of which a part would be of no use. Raises Forbidden for who is
    not in the room and never was, and for whom its ACL keeps out; FlowDenied, NodeUnavailable. What is refused is
    counted.
    """
    try:
        reading = await _open(server, origin, room_id)
        if whole:
            _check_places(server, reading.withheld.values(), origin)
        return reading
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
    reading = await _reading(server, node, room, origin)
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
    names = {node.name, *(name for name, members in room.now.nodes.items() if members)}
    _check_places(server, {server.policy.now.jurisdiction_of_node(name) for name in names}, origin)


async def check_authors(server: Server, origin: str, room_id: str) -> None:
    """Raise FlowDenied unless the events of all our users who ever were in a room may flow to a server, which is about
    to get the state of it whole. A room that is not here is none of this function's business."""
    home = await server.nodes.of_room(room_id)
    room = None if home is None else await state.find(home, room_id)
    if room is not None:
        await authors.check(server, server.policy.now.jurisdiction_of_server(origin), room.now.state)


def _check_places(server: Server, places: Iterable[str], origin: str) -> None:
    there = server.policy.now.jurisdiction_of_server(origin)
    for here in sorted(set(places)):
        gate.check(server, DataClass.EVENTS, here, there)


async def _reading(server: Server, node: Node, room: Room, origin: str) -> Reading:
    in_room = origin in room.now.servers
    gone = await erasure.of_room(node, room)
    visibilities, stays = await node.read(_look, room.nid, None if in_room and not gone else origin)
    if in_room and not gone and any(value not in ("shared", "world_readable") for _, value in visibilities):
        visibilities, stays = await node.read(_look, room.nid, origin)
    there = server.policy.now.jurisdiction_of_server(origin)
    withheld = await authors.among(server, there, room.now.state)
    return Reading(node, room, origin, in_room, visibilities, stays, gone, withheld)


async def _look(
    tx: Transaction, room_nid: int, origin: str | None
) -> tuple[list[tuple[int, str]], dict[str, list[tuple[int, str]]] | None]:
    """The visibilities of a room over time, and the memberships of a server's users if it is named."""
    visibilities = (await sight.visibilities(tx, [room_nid]))[room_nid]
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
