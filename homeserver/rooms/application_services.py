"""What in rooms is for application services: noted with what it is about, in the transaction that writes that.

A service is told of what is on its users' node: of an event if one of its users is in the room once it has happened,
sends it, or is whom it is about, or if the room is in its namespace. Who was in the room is thereby decided at that
moment, and not when a service that was away comes back. Without services none of this costs anything.

spec: application-service-api/#registration
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from immutables import Map

from homeserver.protocol.event_view import MEMBER, StateKey
from homeserver.runtime.lru import Lru
from homeserver.storage import application_services as stored
from homeserver.storage.application_services import Kind
from homeserver.storage.events import Verdict
from homeserver.storage.nodes import Mirror

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from config.application_services import ApplicationService
    from homeserver.context import Server
    from homeserver.rooms.state import Entry, Room
    from homeserver.rooms.steps import Step
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

State = Map[StateKey, "Entry"]
Counts = dict[str, int]
"""Joined members by service id."""

REMEMBERED = 20_000
"""Rooms of a node whose members have been counted."""

ALIASES_AT_ONCE = 1000


class Present(Mirror):
    """How many users of each service have joined rooms (``node.memory(Present)``), by room id, with the state that was
    counted, and for which services."""

    def __init__(self) -> None:
        self.held: Lru[str, tuple[State, Sequence[ApplicationService], Counts]] = Lru(REMEMBERED)

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.held.clear()


class Named:
    """The aliases that are in namespaces of services (``directory.memory(Named)``): room id by alias, and aliases by
    room id; and the nodes whose aliases have been read."""

    def __init__(self) -> None:
        self.rooms: dict[str, str] = {}
        self.aliases: dict[str, set[str]] = {}
        self.read: set[str] = set()

    def put(self, alias: str, room_id: str | None) -> None:
        """An alias leads to a room from now on, or nowhere."""
        before = self.rooms.pop(alias, None)
        if before is not None:
            self.aliases[before].discard(alias)
            if not self.aliases[before]:
                del self.aliases[before]
        if room_id is not None:
            self.rooms[alias] = room_id
            self.aliases.setdefault(room_id, set()).add(alias)


# who is interested --------------------------------------------------------------------------


def served(server: Server, node: Node) -> Sequence[ApplicationService]:
    """The services of a node that are sent anything."""
    return [service for service in server.services.on(node.name) if service.url is not None]


def interested(server: Server, node: Node, room: Room) -> list[ApplicationService]:
    """The services that are told of what happens in a room as it is now, whoever does it."""
    services = served(server, node)
    if not services:
        return []
    counts = _present(node, services, room.room_id, room.now.state)
    return [service for service in services if counts.get(service.id) or _names(server, service, room.room_id)]


def _names(server: Server, service: ApplicationService, room_id: str) -> bool:
    """Whether a room is in a namespace of a service, by its id or an alias."""
    if service.has_room(room_id):
        return True
    if not service.aliases:
        return False
    return any(map(service.has_alias, server.nodes.directory.memory(Named).aliases.get(room_id, ())))


def _present(node: Node, services: Sequence[ApplicationService], room_id: str, state: State) -> Counts:
    """The joined members of a room by service: counted once, and from then on only what changes."""
    memory = node.memory(Present).held
    known = memory.get(room_id)
    if known is not None and known[0] is state and known[1] == services:
        return known[2]
    counts: Counts = {}
    for (kind, user_id), entry in state.items():
        if kind == MEMBER and entry.membership == "join":
            _count(counts, services, user_id, 1)
    memory[room_id] = (state, services, counts)
    return counts


def _count(counts: Counts, services: Iterable[ApplicationService], user_id: str, step: int) -> None:
    for service in services:
        if service.has_user(user_id):
            counts[service.id] = counts.get(service.id, 0) + step


def _joined(entry: Entry | None) -> bool:
    return entry is not None and entry.membership == "join"


# events -------------------------------------------------------------------------------------


def mark_steps(tx: Transaction, server: Server, node: Node, steps: Sequence[Step]) -> None:
    """Queue which services are told of the events of steps, which have their positions."""
    services = served(server, node)
    if not services:
        return
    rows: list[tuple[int, Kind, int, Sequence[str]]] = []
    known: dict[Room, tuple[State, Counts]] = {}
    for step in steps:
        room = step.room
        if room not in known:
            state = room.now.state
            known[room] = (state, dict(_present(node, services, room.room_id, state)))
        before, counts = known[room]
        for (kind, user_id), entry in step.changes.items():
            moved = _joined(entry) - _joined(before.get((kind, user_id))) if kind == MEMBER else 0
            if moved:
                _count(counts, services, user_id, moved)
        known[room] = (step.after.state, counts)
        if step.timeline and step.verdict is Verdict.ACCEPTED and step.pos is not None:
            event = step.event
            told = _told(server, services, room.room_id, counts, event.sender, event.type, event.state_key)
            if told:
                rows.append((step.pos, Kind.EVENT, step.nid, told))
    stored.put(tx, rows)

    def remember() -> None:
        held = node.memory(Present).held
        for room, (state, counts) in known.items():
            held[room.room_id] = (state, services, counts)

    tx.after_commit(remember)


def _told(
    server: Server,
    services: Iterable[ApplicationService],
    room_id: str,
    counts: Counts,
    sender: str,
    kind: str,
    state_key: str | None,
) -> list[str]:
    return [
        service.id
        for service in services
        if counts.get(service.id)
        or service.has_user(sender)
        or (kind == MEMBER and state_key is not None and service.has_user(state_key))
        or _names(server, service, room_id)
    ]


def mark_event(
    tx: Transaction,
    server: Server,
    node: Node,
    room_id: str,
    pos: int,
    event_nid: int,
    people: Iterable[str],
    present: Iterable[str] = (),
) -> None:
    """Queue which services are told of an event that is written otherwise: ``people`` it is from or about, and who is
    ``present`` in the room, as far as the node knows."""
    services = served(server, node)
    if not services:
        return
    about = [*people, *present]
    told = [service.id for service in services if any(map(service.has_user, about)) or _names(server, service, room_id)]
    if told:
        stored.put(tx, [(pos, Kind.EVENT, event_nid, told)])


# receipts -----------------------------------------------------------------------------------


def mark_receipts(
    tx: Transaction,
    server: Server,
    node: Node,
    room: Room,
    public: Sequence[int],
    private: Sequence[tuple[int, str, int]],
) -> None:
    """Queue which services are told of receipts: the positions of public ones, and those (position, user id, row id of
    the user) of private ones, which only the user's own service is told of.

    spec: application-service-api/#pushing-ephemeral-data
    """
    services = [service for service in served(server, node) if service.receive_ephemeral]
    if not services:
        return
    rows: list[tuple[int, Kind, int, Sequence[str]]] = []
    told = [service.id for service in interested(server, node, room) if service.receive_ephemeral]
    if told:
        rows += [(pos, Kind.RECEIPT, room.nid, told) for pos in public]
    for pos, user_id, user_nid in private:
        own = [service.id for service in services if service.has_user(user_id)]
        if own:
            rows.append((pos, Kind.PRIVATE_RECEIPT, user_nid, own))
    stored.put(tx, rows)


# messages to devices ------------------------------------------------------------------------


def mark_letters(
    tx: Transaction, server: Server, node: Node, first: int, recipients: Sequence[tuple[str, int]]
) -> None:
    """Queue which services are told of messages to devices at the positions from ``first`` on: (user id, row id of the
    device). A message is for one service, which has it deleted by taking it."""
    services = [service for service in served(server, node) if service.receive_ephemeral]
    if not services:
        return
    rows: list[tuple[int, Kind, int, Sequence[str]]] = []
    for pos, (user_id, device_nid) in enumerate(recipients, first):
        service = next((service for service in services if service.has_user(user_id)), None)
        if service is not None:
            rows.append((pos, Kind.TO_DEVICE, device_nid, [service.id]))
    stored.put(tx, rows)


# aliases ------------------------------------------------------------------------------------


def named(server: Server, alias: str, room_id: str | None) -> None:
    """An alias leads to a room from now on, or nowhere."""
    _name(server, server.services, alias, room_id)


def _name(server: Server, services: Iterable[ApplicationService], alias: str, room_id: str | None) -> None:
    is_theirs = any(service.has_alias(alias) for service in services)
    server.nodes.directory.memory(Named).put(alias, room_id if is_theirs else None)


async def read_aliases(
    server: Server, nodes: Iterable[Node], services: Iterable[ApplicationService] | None = None
) -> None:
    """Learn which rooms have aliases in namespaces, from nodes of which that is not known; ``services``: others than
    those that there are. Raises NodeUnavailable."""
    memory, services = server.nodes.directory.memory(Named), list(server.services if services is None else services)
    if not any(service.aliases for service in services):
        return
    for node in nodes:
        after = ""
        while node.name not in memory.read:
            page = await node.read(stored.aliases, after, ALIASES_AT_ONCE)
            for alias, room_id in page:
                if alias not in memory.rooms:
                    _name(server, services, alias, room_id)
            if len(page) < ALIASES_AT_ONCE:
                memory.read.add(node.name)
            else:
                after = page[-1][0]
