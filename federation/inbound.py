"""Transactions of other servers: each is taken in once, its rooms side by side, the events of a room in their order.

What a server sends may cost it time, and nobody else: how much of it is looked at at once is bounded, one room's fault
is no other room's, and everything that is refused is counted.

spec: server-server-api/#transactions
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from config.residency import DataClass
from federation import edus, gaps, invited
from federation.entering import entered
from federation.pdu_checks import Dropped, check_pdus, id_of
from homeserver.protocol import identifiers, versions
from homeserver.protocol.errors import BadJson, InvalidParam, LimitExceeded, NodeUnavailable, NotFound
from homeserver.protocol.event_view import MEMBER
from homeserver.residency import gate, traffic
from homeserver.rooms import acl, state
from homeserver.runtime.lru import Lru
from homeserver.storage import received, rooms
from homeserver.storage.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.protocol.versions import RoomRules
    from homeserver.rooms.receive import Taken
    from homeserver.rooms.state import Room
    from homeserver.storage.nodes import Node

MOST_PDUS: Final = 50
MOST_EDUS: Final = 100
MOST_AT_ONCE: Final = 4
"""Transactions of one server that are taken in at the same time. It is to send one after the other."""
MOST_OF_ALL: Final = 400
"""The same of all servers together."""
ROOMS_AT_ONCE: Final = 8
"""Rooms of one transaction that are looked at side by side."""
PATIENCE: Final = 15.0
"""Seconds after which the answer to a transaction waits no more for rooms in which a gap is being filled: whoever makes
gaps in one room shall not hold up what the same server sends for others."""
MOST_LATE: Final = 200
"""Rooms in which a gap is being filled though the transaction was answered."""
RETRY_MS: Final = 2_000
"""When who sends too much may try again."""
REMEMBERED: Final = 2_000
"""Answers that are given again without a look."""
KEPT_MS: Final = 7 * 24 * 60 * 60 * 1000
"""How long it is known that a message to devices was delivered."""
HEARD_MS: Final = 2 * 60 * 60 * 1000
"""For how long a server has to be back before that is forgotten: who was cut off for longer, and has not had our last
answer, begins with what we have."""
SILENT_MS: Final = 90 * 24 * 60 * 60 * 1000
"""When it is forgotten of who has not come back."""

Answer = dict[str, dict[str, dict[str, str]]]

log = structlog.get_logger("federation.inbound")


class Inbound:
    """Transactions that are being taken in, and answers to those that were (``directory.memory(Inbound)``)."""

    def __init__(self) -> None:
        self.under_way: dict[tuple[str, str], asyncio.Task[Answer]] = {}
        self.answers: Lru[tuple[str, str], Answer] = Lru(REMEMBERED)
        self.of_origin: Counter[str] = Counter()
        self.late: set[asyncio.Task[None]] = set()

    def admit(self, server: Server, origin: str) -> None:
        """Raise LimitExceeded when one more transaction would be too much."""
        if self.of_origin[origin] >= MOST_AT_ONCE or len(self.under_way) >= MOST_OF_ALL:
            refused(server, "transaction", "flood")
            raise LimitExceeded(RETRY_MS)

    def begin(self, key: tuple[str, str], task: asyncio.Task[Answer]) -> None:
        """A transaction is being taken in."""
        self.under_way[key] = task
        self.of_origin[key[0]] += 1
        task.add_done_callback(lambda done: self._end(key, done))

    def leave(self, task: asyncio.Task[None]) -> None:
        """Events of a room are being taken in, and nobody waits for that."""
        self.late.add(task)
        task.add_done_callback(self.late.discard)

    def _end(self, key: tuple[str, str], task: asyncio.Task[Answer]) -> None:
        del self.under_way[key]
        self.of_origin[key[0]] -= 1
        if not self.of_origin[key[0]]:
            del self.of_origin[key[0]]
        if not task.cancelled() and task.exception() is None:
            self.answers[key] = task.result()


@dataclass(slots=True)
class _Results:
    """What becomes of the events of a transaction, by their ids: None for those that are fine."""

    errors: dict[str, str | None] = field(default_factory=dict)
    down: NodeUnavailable | None = None
    """Why some events could not be stored."""
    available: bool = False
    """Whether others could, or were refused."""
    budgets: dict[str, gaps.Budget] = field(default_factory=dict)
    """What is spent on the gaps of each room."""

    def is_searching(self, room_id: str) -> bool:
        """Whether a gap in a room is being filled."""
        return room_id in self.budgets and self.budgets[room_id].searching

    def note(self, event_id: str | None, error: str | None) -> None:
        """One event, if it has an id."""
        if event_id is not None:
            self.errors[event_id] = error

    def answer(self) -> Answer:
        """spec: server-server-api/#put_matrixfederationv1sendtxnid"""
        return {"pdus": {event_id: {"error": error} if error else {} for event_id, error in self.errors.items()}}


def refused(server: Server, what: str, reason: str, by: int = 1) -> None:
    """Count what of another server was refused."""
    server.telemetry.counter(
        "domicile_federation_refused", "What other servers sent and was not taken in.", ["what", "reason"]
    ).inc(what, reason, by=by)


async def receive(server: Server, origin: str, txn_id: str, body: Mapping[str, Any]) -> Answer:
    """Take in a transaction, once, however often and at however many connections it comes; the answer to it.

    Raises BadJson and InvalidParam for what is no transaction, LimitExceeded, NodeUnavailable when nothing of it could
    be stored.
    """
    pdus, found_edus = _listed(server, body, "pdus", MOST_PDUS), _listed(server, body, "edus", MOST_EDUS)
    memory = server.nodes.directory.memory(Inbound)
    key = (origin, txn_id)
    answer = memory.answers.get(key)
    if answer is not None:
        return answer
    task = memory.under_way.get(key)
    if task is None:
        memory.admit(server, origin)
        task = asyncio.ensure_future(_take(server, origin, pdus, found_edus))
        memory.begin(key, task)
    return await asyncio.shield(task)


def _listed(server: Server, body: Mapping[str, Any], name: str, most: int) -> list[Any]:
    found = body.get(name, [])
    if not isinstance(found, list):
        raise BadJson(f"'{name}' must be a list")
    if len(found) > most:
        refused(server, "transaction", "too_many")
        raise InvalidParam(f"A transaction has at most {most} {name}")
    return found


async def _take(server: Server, origin: str, pdus: Sequence[Any], found_edus: Sequence[Any]) -> Answer:
    """Take in the parts of a transaction. Each of them is taken in once by itself, also by a server that was started
    anew and does not know the transaction: an event by its id, a message to devices by its own, a receipt or a device
    list by what is newer."""
    results = _Results()
    by_room: dict[str, list[Any]] = {}
    for pdu in pdus:
        room_id = pdu.get("room_id") if isinstance(pdu, dict) else None
        if isinstance(room_id, str) and identifiers.is_room_id(room_id):
            by_room.setdefault(room_id, []).append(pdu)
        else:
            refused(server, "pdu", "no_room")
    await _rooms(server, origin, by_room, results)
    await edus.take(server, origin, found_edus)
    if results.down is not None and not results.available:
        raise results.down
    return results.answer()


async def _rooms(server: Server, origin: str, by_room: Mapping[str, Sequence[Any]], results: _Results) -> None:
    """Take in the events of several rooms. Where a gap is still being filled after a while, that goes on when this is
    over: the answer says nothing of those events, which, should they be lost, are fetched as part of a later gap."""
    memory = server.nodes.directory.memory(Inbound)
    turn = asyncio.Semaphore(ROOMS_AT_ONCE)
    left = {
        room_id: asyncio.ensure_future(_one_room(server, origin, room_id, part, results, turn))
        for room_id, part in by_room.items()
    }
    while left:
        await _for_a_while(server, left.values())
        left = {room_id: task for room_id, task in left.items() if not task.done()}
        for room_id in [each for each in left if results.is_searching(each)]:
            if len(memory.late) < MOST_LATE:
                memory.leave(left.pop(room_id))
                turn.release()  # its place is for a room that waits
                server.telemetry.counter(
                    "domicile_federation_late_rooms", "Rooms in which a gap was still being filled after the answer."
                ).inc()


async def _for_a_while(server: Server, tasks: Iterable[asyncio.Task[None]]) -> None:
    """Wait until all are done, but no longer than PATIENCE."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = server.clock.call_later(PATIENCE, over.cancel)
    waited_for: set[asyncio.Future[Any]] = {asyncio.gather(*tasks), over}
    try:
        await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
        over.cancel()


async def forget_old(server: Server) -> None:
    """Forget which messages to devices were delivered so long ago that nobody sends them again."""
    now = server.clock.now_ms()
    for node in server.nodes:
        try:
            await node.write(received.forget, now - KEPT_MS, now - HEARD_MS, now - SILENT_MS)
        except NodeUnavailable:
            continue


# the events of one room ---------------------------------------------------------------------------


async def _one_room(
    server: Server, origin: str, room_id: str, pdus: Sequence[Any], results: _Results, turn: asyncio.Semaphore
) -> None:
    """Take in the events of one room."""
    async with turn:
        try:
            home, room = await _here(server, room_id)
            if room is None and await entered(server, room_id):
                home, room = await _here(server, room_id)
            if home is None or room is None:
                await _outside(server, origin, room_id, pdus, results)
            else:
                await _inside(server, origin, home, room, pdus, results)
        except NodeUnavailable as down:
            results.down = down
            refused(server, "pdu", "unavailable", len(pdus))
            return
        except Exception:
            log.exception("the events of a room could not be taken in", server=origin)
            refused(server, "pdu", "fault", len(pdus))
        results.available = True


async def _here(server: Server, room_id: str) -> tuple[Node | None, Room | None]:
    """The home node of a room, and the room if anybody of ours is in it."""
    home = await server.nodes.of_room(room_id)
    room = None if home is None else await state.find(home, room_id)
    return home, room if room is not None and room.head.nodes else None


async def _inside(server: Server, origin: str, home: Node, room: Room, pdus: Sequence[Any], results: _Results) -> None:
    """Events of a room that we are in. Raises NodeUnavailable."""
    traffic.concerns(home)
    rules, room_id = room.rules, room.room_id
    why = await _barred(server, origin, home, room)
    if why is not None:
        refused(server, "pdu", why[0], len(pdus))
        for pdu in pdus:
            results.note(id_of(rules, pdu), why[1])
        return
    brought = []
    for pdu in pdus:
        if _may_bring(room, origin, pdu):
            brought.append(pdu)
        else:
            refused(server, "pdu", "stranger")
            results.note(id_of(rules, pdu), "Your server is not in that room")
    events = []
    for each in await check_pdus(server, rules, room_id, brought):
        if isinstance(each, Dropped):
            results.note(each.event_id, each.reason)
        else:
            events.append(each)
    spend, taken = gaps.budget(server), {}
    results.budgets[room_id] = spend
    for event in gaps.in_order(events):
        found = await _place(server, home, origin, event, spend, results)
        if found is not None:
            taken[event.event_id] = found.done
    await _committed(taken, results)


async def _committed(taken: Mapping[str, asyncio.Future[None]], results: _Results) -> None:
    """Wait until events are committed. Raises what kept the first of them from it, when the others are done."""
    outcomes = await asyncio.shield(asyncio.gather(*taken.values(), return_exceptions=True))
    faults = []
    for event_id, outcome in zip(taken, outcomes, strict=True):
        if outcome is not None:
            results.note(event_id, "This server could not store that event")
            faults.append(outcome)
    if faults:
        raise faults[0]


async def _barred(server: Server, origin: str, home: Node, room: Room) -> tuple[str, str] | None:
    """Why nothing is taken from a server for a room: for the counter, and for the server."""
    if not await acl.lets_in(home, room, origin):
        return "acl", "The room's access control list does not let your server in"
    there = server.policy.now.jurisdiction_of_server(origin)
    if not gate.may_in_time(server, DataClass.EVENTS, there, home.jurisdiction):
        return "policy", "The residency policy lets no events flow from your server to the home of that room"
    return None


def _may_bring(room: Room, origin: str, pdu: Mapping[str, Any]) -> bool:
    """Whether a server may send an event: it is in the room, or the event is of its own user, who may have got in by an
    event that has not come here yet. Asked before anybody's keys are: a stranger names whom they like."""
    sender = pdu.get("sender")
    return origin in room.head.servers or (isinstance(sender, str) and identifiers.domain_of(sender) == origin)


async def _place(
    server: Server, home: Node, origin: str, event: Event, spend: gaps.Budget, results: _Results
) -> Taken | None:
    try:
        event = await gaps.recommended(server, home, event, spend)
        taken = await gaps.place(server, home, origin, event.room_id, event, spend)
    except gaps.Unplaceable as reason:
        refused(server, "pdu", "unplaceable")
        results.note(event.event_id, str(reason))
        return None
    except NotFound:  # the room was given up meanwhile
        results.note(event.event_id, "This server is not in that room")
        return None
    is_rejected = taken is not None and taken.verdict is Verdict.REJECTED
    results.note(event.event_id, "The rules of the room do not allow that event" if is_rejected else None)
    return taken


# of rooms that we are not in ----------------------------------------------------------------------


async def _outside(server: Server, origin: str, room_id: str, pdus: Sequence[Any], results: _Results) -> None:
    """Events of a room that we are not in: they concern us only where they end an invitation or a knock.

    Raises NodeUnavailable.
    """
    there = server.policy.now.jurisdiction_of_server(origin)
    for pdu in pdus:
        concerned = await _concerned(server, room_id, pdu)
        if concerned is not None:
            node, rules = concerned
            kept = gate.may_in_time(server, DataClass.EVENTS, there, node.jurisdiction)
            (event,) = await check_pdus(server, rules, room_id, [pdu])
            if isinstance(event, Dropped):
                results.note(event.event_id, event.reason)
                continue
            is_ended = identifiers.domain_of(event.sender) == origin and await invited.ended(server, event, kept=kept)
            if not kept:
                refused(server, "pdu", "policy")
                results.note(event.event_id, "The residency policy lets no events flow from your server to that user")
                continue
            if is_ended:
                results.note(event.event_id, None)
                continue
            results.note(event.event_id, "This server is not in that room")
        refused(server, "pdu", "not_in_room")


async def _concerned(server: Server, room_id: str, pdu: Any) -> tuple[Node, RoomRules] | None:
    """The node of a local user and the version of a room that they may be invited to, if the event is about that."""
    member = pdu.get("state_key")
    if pdu.get("type") != MEMBER or not identifiers.is_user_id(member):
        return None
    node = await server.nodes.of_user(member)
    room = None if node is None else await node.read(rooms.find, room_id)
    rules = None if room is None else versions.VERSIONS.get(room.version)
    return None if node is None or rules is None else (node, rules)
