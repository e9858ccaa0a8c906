"""Fetches what happened in a room earlier from servers that were there, and makes sure that it did.

What they give counts only where a chain of events leads to it from one that is here, and passes the checks of every
event; what it cites is fetched too. Bounded in servers, in requests, and in events.

spec: server-server-api/#backfilling-and-retrieving-missing-events
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from config.residency import DataClass
from federation import asking_rooms, reach
from federation.pdu_checks import check_pdus, passed
from federation.remote import RemoteRefusal, ask_for
from homeserver.context import Past
from homeserver.protocol import auth_chain, identifiers
from homeserver.protocol.errors import FlowDenied, ServerUnreachable
from homeserver.protocol.event_view import CREATE, HISTORY_VISIBILITY, POWER_LEVELS
from homeserver.protocol.identifiers import domain_of
from homeserver.rooms import outliers, references, state
from homeserver.storage import graph, timeline_gaps
from homeserver.storage.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.rooms.state import Room
    from homeserver.storage.nodes import Node

MOST_SERVERS: Final = 5
"""Servers that are asked for the same."""
MOST_SINGLE: Final = 30
"""Events that are asked for one by one."""
MOST_BYTES: Final = 16 * 1024
MOST_CHAINS: Final = 3
"""Auth chains that are asked for."""


async def fetch_history(
    server: Server, node: Node, room_id: str, before: Collection[str], hashes: Mapping[str, Collection[str]]
) -> list[Past]:
    """See `context.Remote.fetch_history`."""
    room = await state.get(node, room_id)
    for destination in await servers_of(server, node, room):
        source = _Source(server, node, room, destination)
        try:
            found = await source.history(before, hashes)
        except (FlowDenied, ServerUnreachable):
            continue
        if found:
            return found
    return []


async def fetch_nearest(
    server: Server, node: Node, room_id: str, moment: int, limit: int | None, *, backwards: bool
) -> Past | None:
    """See `context.Remote.fetch_nearest`."""
    room = await state.get(node, room_id)
    for destination in await servers_of(server, node, room):
        source = _Source(server, node, room, destination)
        try:
            found = await source.nearest(moment, backwards=backwards)
        except (FlowDenied, ServerUnreachable):
            continue
        if found is None:
            continue
        ts = found.event.origin_server_ts
        is_right = ts <= moment if backwards else ts >= moment
        if is_right and (limit is None or abs(moment - ts) < abs(moment - limit)):
            return found
    return None


async def servers_of(server: Server, node: Node, room: Room) -> list[str]:
    """Servers in the room, those first that are likely to have its history: whose users made it, or govern it; and last
    those that could not be reached a short while ago."""
    await state.require(node, room, [CREATE, POWER_LEVELS])
    creation, levels = room.head.event(CREATE), room.head.event(POWER_LEVELS)
    people = [] if creation is None else [creation.sender]
    users = {} if levels is None else levels.content.get("users", {})
    if isinstance(users, dict):
        people += sorted(users, key=lambda user_id: -users[user_id] if isinstance(users[user_id], int) else 0)
    names = [domain_of(user_id) for user_id in people]
    names += sorted(room.now.servers, key=lambda name: (-room.now.servers[name], name))
    return reach.away_last(server, [name for name in names if name in room.now.servers])[:MOST_SERVERS]


class _Source:
    """One server that is asked about one room."""

    def __init__(self, server: Server, node: Node, room: Room, destination: str) -> None:
        self._server = server
        self._node = node
        self._room = room
        self._destination = destination

    async def history(self, before: Collection[str], hashes: Mapping[str, Collection[str]]) -> list[Past]:
        """Events and what precedes them, the newest first. Raises FlowDenied, ServerUnreachable."""
        pdus = await asking_rooms.backfill(
            self._server,
            self._node,
            self._destination,
            self._room.room_id,
            before=before,
            limit=asking_rooms.BACKFILL_AT_ONCE,
        )
        events = await self._checked(pdus)
        placed = await self._node.read(
            timeline_gaps.placed, self._room.nid, [event.event_id for event in events]
        )  # what is before these belongs into another gap
        found = newest_first([event for event in events if event.event_id not in placed], before, hashes)
        _count(self._server, len(events) - len(placed) - len(found))
        judged = await self._judged({event.event_id: event for event in found})
        past = [Past(event, judged[event.event_id]) for event in found if event.event_id in judged]
        await self._learn_visibility(past)
        return past

    async def nearest(self, moment: int, *, backwards: bool) -> Past | None:
        """The event that the server has nearest to a moment. Raises FlowDenied, ServerUnreachable."""
        query = urlencode({"ts": moment, "dir": "b" if backwards else "f"})
        target = f"{asking_rooms.PATH}/timestamp_to_event/{quote(self._room.room_id, safe='')}?{query}"
        try:
            answer = await ask_for(
                self._server,
                self._node,
                DataClass.EVENTS,
                self._destination,
                "GET",
                target,
                most=MOST_BYTES,
                inward=True,
            )
        except RemoteRefusal:
            return None
        event_id = answer.get("event_id")
        if not identifiers.is_event_id(event_id):
            return None
        pdu = await asking_rooms.event(self._server, self._node, self._destination, str(event_id))
        found = {event.event_id: event for event in await self._checked([pdu]) if event.event_id == event_id}
        judged = await self._judged(found)
        return next((Past(found[each], rejected) for each, rejected in judged.items()), None)

    async def _checked(self, pdus: Sequence[Any]) -> list[Event]:
        return passed(await check_pdus(self._server, self._room.rules, self._room.room_id, pdus))

    async def _judged(self, found: Mapping[str, Event]) -> dict[str, bool]:
        """Whether each event is rejected, by its id; those that cite what nobody gives are left out."""
        if not found:
            return {}
        await self._fetch_cited(found)
        creation = state.creation(self._room).event_id
        cited = {each for event in found.values() for each in event.auth_events}
        rows = await self._node.read(graph.of_room, self._room.nid, {creation, *cited, *found})
        known = {row.event_id: state.parse(self._room, row) for row in rows}
        rejected = {row.event_id for row in rows if row.verdict == Verdict.REJECTED}
        untrue = _untrue(found, known)
        judged = auth_chain.judge(self._room.rules, found, known, rejected | untrue)
        verdicts = {event_id: event_id in judged.rejected or event_id in untrue for event_id in judged.ordered}
        return {event_id: event_id in rejected for event_id in found.keys() & known.keys()} | verdicts

    async def _fetch_cited(self, found: Mapping[str, Event]) -> None:
        """Fetch and keep what events cite and is not here, as far as it is to be had."""
        lacking = await self._lacking({each for event in found.values() for each in event.auth_events} - found.keys())
        chains = 0
        for event in reversed(list(found.values())):  # the chain of the oldest is in those of most others
            if not lacking or chains == MOST_CHAINS:
                break
            if lacking.isdisjoint(event.auth_events):
                continue
            chains += 1
            authorities: list[Event] = []

            async def take(pdus: list[Any], into: list[Event] = authorities) -> None:
                into.extend(await self._checked(pdus))

            await asking_rooms.event_auth(
                self._server, self._node, self._destination, self._room.room_id, event.event_id, take
            )
            await outliers.keep(self._server, self._node, self._room.room_id, authorities)
            lacking = await self._lacking(lacking)
        await self._fetch_single(lacking)

    async def _lacking(self, event_ids: Collection[str]) -> set[str]:
        return await outliers.lacking(self._node, self._room, event_ids) if event_ids else set()

    async def _keep(self, pdus: Sequence[Any]) -> None:
        await outliers.keep(self._server, self._node, self._room.room_id, await self._checked(pdus))

    async def _fetch_single(self, event_ids: Collection[str]) -> None:
        """Fetch and keep events one by one, if they are few."""
        if not event_ids or len(event_ids) > MOST_SINGLE:
            return
        pdus = []
        for event_id in sorted(event_ids):
            try:
                pdus.append(await asking_rooms.event(self._server, self._node, self._destination, event_id))
            except ServerUnreachable:
                continue
        if pdus:
            await self._keep(pdus)

    async def _learn_visibility(self, past: Sequence[Past]) -> None:
        """Learn who could see what came before a change of the history visibility, so that readers need not be kept
        from it out of doubt.
        """
        if any(each.event.type == CREATE[0] for each in past):
            return
        changes = [each for each in past if (each.event.type, each.event.state_key) == HISTORY_VISIBILITY]
        if not changes:
            return
        try:
            found = await asking_rooms.state_ids(
                self._server, self._node, self._destination, self._room.room_id, changes[-1].event.event_id
            )
            await self._fetch_single(await self._lacking(found.state))
        except ServerUnreachable:
            return


def newest_first(
    events: Sequence[Event], before: Collection[str], hashes: Mapping[str, Collection[str]]
) -> list[Event]:
    """Those of the events to which a chain leads from ``before``, each ahead of all that it follows on.

    Where event ids are no hashes, a chain leads to an event only if it has the hash that is named beside its id: one of
    ``hashes``, or that of the event that follows on it. Else a server could give another event under an id of history.

    spec: rooms/v1/#event-format
    """
    given = {event.event_id: event for event in reversed(events)}
    leads = {event_id: _leads(event, given) for event_id, event in given.items()}
    reached = {
        event_id
        for event_id in before
        if event_id in given and (event_id not in hashes or given[event_id].reference_hash in hashes[event_id])
    }
    pending = list(reached)
    followers = dict.fromkeys(given, 0)
    while pending:
        for each in leads[pending.pop()]:
            followers[each] += 1
            if each not in reached:
                reached.add(each)
                pending.append(each)
    ready: list[tuple[int, int, str]] = []
    for event_id in reached:
        if not followers[event_id]:
            _push(ready, given[event_id])
    ordered: list[Event] = []
    while ready:
        event = given[heappop(ready)[2]]
        ordered.append(event)
        for each in leads[event.event_id]:
            followers[each] -= 1
            if not followers[each]:
                _push(ready, given[each])
    return ordered


def _leads(event: Event, given: Mapping[str, Event]) -> set[str]:
    """The ids of those of the given events on which an event follows, as they are."""
    follows = set(event.prev_events) & given.keys()
    wrong = {
        event_id
        for event_id, claim in references.claims(event)
        if event_id in follows and given[event_id].reference_hash != claim
    }
    return follows - wrong


def _untrue(found: Mapping[str, Event], known: Mapping[str, Event]) -> set[str]:
    """The ids of events that refer to others which are here, or came along, but with other hashes."""
    cited = {event_id for event in found.values() for event_id, _ in references.claims(event)}
    everything = {**found, **known}
    hashes = {event_id: everything[event_id].reference_hash for event_id in cited & everything.keys()}
    return {event_id for event_id, event in found.items() if not references.is_true(event, hashes)}


def _count(server: Server, number: int) -> None:
    counter = server.telemetry.counter(
        "domicile_federation_history_left_out",
        "Events given as history of a room to which no chain leads from what is here.",
    )
    counter.inc(by=number)


def _push(ready: list[tuple[int, int, str]], event: Event) -> None:
    heappush(ready, (-event.depth, -event.origin_server_ts, event.event_id))
