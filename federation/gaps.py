"""Gaps: an event of another server that follows on, or cites, events that are not here.

What is between is asked for and placed, oldest first; where that does not reach what is here, the state before an event
is asked for too. Everything passes the same checks as if it had been sent. All of it is bounded by a `Budget`, and
there is one walk per room at a time, so that whoever invents gaps makes their own room wait, and nothing else.

spec: server-server-api/#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Final

import structlog

from federation import asking_rooms, reach
from federation.pdu_checks import check_pdus, passed
from homeserver.protocol.errors import FlowDenied, ServerUnreachable
from homeserver.protocol.event_view import CREATE
from homeserver.protocol.identifiers import domain_of
from homeserver.rooms import outliers, recommendations, state
from homeserver.rooms.branches import Lacking, TooMuch
from homeserver.rooms.receive import submit_foreign
from homeserver.storage import graph
from homeserver.storage.events import Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.protocol.event_view import StateKey
    from homeserver.protocol.events import Event
    from homeserver.rooms.receive import Taken
    from homeserver.storage.nodes import Node

MOST_WALKED: Final = 12_000
"""Events that are fetched to fill the gaps of one batch."""
MOST_ASKED: Final = 400
"""Requests for that."""
MOST_WALKS: Final = 5
"""Events of a batch before which others are looked for."""
MOST_STATES: Final = 4
"""States that are fetched for that."""
SECONDS: Final = 120.0
"""How long that may take."""
RECOMMENDING: Final = 10.0
"""Seconds after which the policy server of a room is asked about no more events of a batch."""
MOST_SERVERS: Final = 3
"""Servers that are asked the same."""
ONE_BY_ONE: Final = 50
"""Events that are fetched singly; when more are lacking, they are asked for together."""
AT_ONCE: Final = 8
"""Single events that are asked for at the same time."""
MOST_WAITING: Final = 4
"""Walks in a room that wait for the one that is under way; whoever wants one more is refused."""
ROUNDS: Final = 4
"""How often what is lacking to fetched events is fetched in turn."""

log = structlog.get_logger("federation.gaps")


class Unplaceable(Exception):
    """An event that cannot be placed, since what it needs is not to be had; the reason is for its sender."""


@dataclass(slots=True)
class Budget:
    """What may still be spent to fill the gaps of one batch of events; ``until`` in seconds of the monotonic clock."""

    until: float
    events: int = MOST_WALKED
    requests: int = MOST_ASKED
    states: int = MOST_STATES
    walked: set[str] = field(default_factory=set)
    """The events for which a walk was made."""
    searching: bool = False
    """Whether other servers are being asked at this moment."""
    recommending: float = RECOMMENDING
    """Seconds for which policy servers may still be waited for."""

    def walk(self, event_id: str) -> bool:
        """Whether a walk is to be made for an event, once."""
        if event_id in self.walked or len(self.walked) >= MOST_WALKS:
            return False
        self.walked.add(event_id)
        return True

    def spend(self, now: float) -> None:
        """Before each request. Raises Unplaceable when nothing is left."""
        self.requests -= 1
        if self.requests < 0 or now > self.until:
            raise Unplaceable("Too many events are missing before it")


class Walks:
    """Rooms in which a gap is being filled (``node.memory(Walks)``)."""

    def __init__(self) -> None:
        self.locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def one(self, room_id: str) -> AsyncIterator[None]:
        """Wait until nobody else walks in the room. Raises Unplaceable where too many wait for that."""
        lock, waiting = self.locks.get(room_id) or (asyncio.Lock(), 0)
        if waiting > MOST_WAITING:
            raise Unplaceable("Too much is being looked for in that room")
        self.locks[room_id] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self.locks.pop(room_id)
            if waiting > 1:
                self.locks[room_id] = lock, waiting - 1


def budget(server: Server) -> Budget:
    """What is spent on one batch."""
    return Budget(server.clock.monotonic() + SECONDS)


async def place(server: Server, node: Node, origin: str, room_id: str, event: Event, spend: Budget) -> Taken | None:
    """`receive.submit_foreign`, with what lacks for it fetched from ``origin``, or others in the room.

    Raises Unplaceable, NotFound without the room, NodeUnavailable.
    """
    try:
        return await submit_foreign(server, node, room_id, event)
    except (Lacking, TooMuch):
        pass
    spend.searching = True
    try:
        async with node.memory(Walks).one(room_id):
            filling = _Filling(server, node, await servers_of(server, node, origin, room_id, event), room_id, spend)
            return await filling.place(event, walk=True)
    finally:
        spend.searching = False


async def recommended(server: Server, node: Node, event: Event, spend: Budget) -> Event:
    """`recommendations.sought`, for no longer than the events of a batch may wait for policy servers altogether."""
    before = server.clock.monotonic()
    event = await recommendations.sought(server, node, event, spend.recommending)
    spend.recommending -= server.clock.monotonic() - before
    return event


async def servers_of(server: Server, node: Node, origin: str, room_id: str, event: Event) -> list[str]:
    """Whom to ask: who sent the event, whose it is, others in the room; those last that could not be reached a short
    while ago."""
    room = await state.get(node, room_id)
    named = [origin, domain_of(event.sender), *sorted(room.head.servers)]
    return reach.away_last(server, [name for name in named if name != server.name])[:MOST_SERVERS]


@dataclass(frozen=True, slots=True)
class _Filling:
    """One gap in the course of being filled."""

    server: Server
    node: Node
    servers: Sequence[str]
    room_id: str
    spend: Budget

    async def place(self, event: Event, *, walk: bool) -> Taken | None:
        """Place an event, with what it lacks fetched first. Raises Unplaceable."""
        given: Mapping[StateKey, str] | None = None
        tried: set[str] = set()
        while True:
            try:
                return await submit_foreign(self.server, self.node, self.room_id, event, given=given)
            except TooMuch:
                raise Unplaceable("The state of the room cannot be resolved with reasonable effort") from None
            except Lacking as lacking:
                if lacking.auth:
                    if lacking.auth <= tried:
                        raise Unplaceable("Events that prove it are not to be had") from None
                    tried |= lacking.auth
                    await self._fetch_auth(event, lacking.auth)
                elif walk and self.spend.walk(event.event_id):
                    await self._walk(event)
                elif given is None:
                    given = await self._state_before(event)
                else:
                    raise Unplaceable("Events before it are not to be had") from None

    # what is between ------------------------------------------------------------------------

    async def _walk(self, event: Event) -> None:
        """Fetch the events between what is here and one that came, and place them, oldest first."""
        found = await self._between(event)
        for each in in_order(found.values()):
            try:
                await self.place(await recommended(self.server, self.node, each, self.spend), walk=False)
            except Unplaceable as reason:
                log.info("an event of a gap was left out", event_id=each.event_id, reason=str(reason))

    async def _between(self, event: Event) -> dict[str, Event]:
        """The events before one, back to what is here or as far as the budget goes."""
        found: dict[str, Event] = {}
        edge = await self._unknown(event.prev_events)
        while edge:
            given = await self._step_back(event if not found else None, edge)
            unknown = await self._unknown({each.event_id for each in given})
            fresh = {each.event_id: each for each in given if each.event_id in unknown - found.keys()}
            if not fresh:
                break
            found |= fresh
            self.spend.events -= len(fresh)
            wanted = {prev for each in fresh.values() for prev in each.prev_events}
            edge = await self._unknown(((edge - fresh.keys()) | wanted) - found.keys() - {event.event_id})
            if self.spend.events <= 0:
                break
        return found

    async def _step_back(self, event: Event | None, edge: set[str]) -> list[Event]:
        """Ask for events that are lacking, and those before them. None when nobody has any."""
        room = await state.get(self.node, self.room_id)
        for name in self.servers:
            try:
                self.spend.spend(self.server.clock.monotonic())
            except Unplaceable:
                return []
            try:
                if event is not None:
                    pdus = await asking_rooms.missing_events(
                        self.server,
                        self.node,
                        name,
                        self.room_id,
                        latest=[event.event_id],
                        earliest=list(room.head.tips),
                    )
                else:
                    pdus = await asking_rooms.backfill(
                        self.server,
                        self.node,
                        name,
                        self.room_id,
                        before=sorted(edge),
                        limit=asking_rooms.BACKFILL_AT_ONCE,
                    )
            except (ServerUnreachable, FlowDenied) as fault:
                log.info("missing events could not be asked for", server=name, reason=fault.message)
                continue
            events = await self._checked(pdus)
            if events:
                return events
        return []

    async def _unknown(self, event_ids: Collection[str]) -> set[str]:
        """Those of the events that are not here with a state after them."""
        room = await state.get(self.node, self.room_id)
        others = [event_id for event_id in event_ids if event_id not in room.head.tips]
        rows = await self.node.read(graph.of_room, room.nid, others) if others else []
        return set(others) - {row.event_id for row in rows if row.state_group is not None}

    async def _checked(self, pdus: Sequence[Any]) -> list[Event]:
        room = await state.get(self.node, self.room_id)
        return passed(await check_pdus(self.server, room.rules, self.room_id, pdus))

    # states and authorities -----------------------------------------------------------------

    async def _state_before(self, event: Event) -> Mapping[StateKey, str]:
        """The state before an event, as another server has it; its events are stored. Raises Unplaceable."""
        self.spend.states -= 1
        if self.spend.states < 0:
            raise Unplaceable("Too many states are unknown before it")
        for name in self.servers:
            self.spend.spend(self.server.clock.monotonic())
            try:
                ids = await asking_rooms.state_ids(self.server, self.node, name, self.room_id, event.event_id)
                await self._fetch_state(name, event, ids)
            except (ServerUnreachable, FlowDenied) as fault:
                log.info("a state could not be asked for", server=name, reason=fault.message)
                continue
            found = await self._named(ids.state)
            if found is not None:
                return found
        raise Unplaceable("The state of the room before it is not to be had")

    async def _fetch_state(self, name: str, event: Event, ids: asking_rooms.StateIds) -> None:
        room = await state.get(self.node, self.room_id)
        missing = await outliers.lacking(self.node, room, {*ids.state, *ids.auth_chain})
        if len(missing) > ONE_BY_ONE:
            found: list[Event] = []

            async def take(pdus: list[Any]) -> None:
                found.extend(await self._checked(pdus))

            await asking_rooms.whole_state(self.server, self.node, name, self.room_id, event.event_id, take)
            await self._keep(found)
        else:
            await self._keep(await self._singly(missing))

    async def _named(self, event_ids: Sequence[str]) -> dict[StateKey, str] | None:
        """The state that some events make up; None when it is none. Those that are not here, or were rejected, are left
        out."""
        room = await state.get(self.node, self.room_id)
        found: dict[StateKey, str] = {}
        for row in await self.node.read(graph.of_room, room.nid, event_ids):
            if row.state_key is None or (row.type, row.state_key) in found:
                return None
            if row.verdict != Verdict.REJECTED:
                found[row.type, row.state_key] = row.event_id
        return found if found.get(CREATE) == state.creation(room).event_id else None

    async def _fetch_auth(self, event: Event, lacking: Collection[str]) -> None:
        """Fetch events that an event cites, or that its state is to be resolved with."""
        found: list[Event] = []

        async def take(pdus: list[Any]) -> None:
            found.extend(await self._checked(pdus))

        for name in self.servers:
            self.spend.spend(self.server.clock.monotonic())
            found.clear()
            try:
                await asking_rooms.event_auth(self.server, self.node, name, self.room_id, event.event_id, take)
            except (ServerUnreachable, FlowDenied) as fault:
                log.info("an auth chain could not be asked for", server=name, reason=fault.message)
                continue
            await self._keep(found)
            room = await state.get(self.node, self.room_id)
            if not await outliers.lacking(self.node, room, lacking):
                return
        await self._keep(await self._singly(lacking))

    async def _keep(self, events: Sequence[Event]) -> None:
        """Store events as state and authority, with what they cite fetched one by one, to a certain depth."""
        for _ in range(ROUNDS):
            kept = await outliers.keep(self.server, self.node, self.room_id, events)
            if not kept.lacking or len(kept.lacking) > ONE_BY_ONE:
                return
            more = await self._singly(kept.lacking)
            if not more:
                return
            events = [*events, *more]

    async def _singly(self, event_ids: Collection[str]) -> list[Event]:
        """Fetch single events, several at the same time, from the first server that has them."""
        left = list(event_ids)[:ONE_BY_ONE]
        found: list[Any] = []

        async def fetch() -> None:
            while left:
                pdu = await self._one(left.pop())
                if pdu is not None:
                    found.append(pdu)

        await asyncio.gather(*(fetch() for _ in range(AT_ONCE)))
        wanted = set(event_ids)
        return [event for event in await self._checked(found) if event.event_id in wanted]

    async def _one(self, event_id: str) -> Any:
        for name in self.servers:
            try:
                self.spend.spend(self.server.clock.monotonic())
                return await asking_rooms.event(self.server, self.node, name, event_id)
            except (ServerUnreachable, FlowDenied, Unplaceable):
                continue
        return None


def in_order(events: Collection[Event]) -> list[Event]:
    """Events, each after those of them that it follows; else the less deep first. What goes in a circle comes last."""
    by_id = {event.event_id: event for event in events}
    left = {each.event_id: len(by_id.keys() & set(each.prev_events)) for each in by_id.values()}
    following: dict[str, list[str]] = {}
    for event in by_id.values():
        for prev in set(event.prev_events) & by_id.keys():
            following.setdefault(prev, []).append(event.event_id)
    ready = [(by_id[event_id].depth, event_id) for event_id, count in left.items() if not count]
    heapify(ready)
    ordered: list[Event] = []
    while ready:
        _, event_id = heappop(ready)
        ordered.append(by_id.pop(event_id))
        for each in following.get(event_id, ()):
            left[each] -= 1
            if not left[each]:
                heappush(ready, (by_id[each].depth, each))
    return [*ordered, *sorted(by_id.values(), key=lambda event: event.depth)]
