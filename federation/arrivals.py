"""The answer to a join, checked as a whole: what comes out of it is a room that the rules allow, or nothing.

Signatures, hashes and the authorisation rules are asked of each event. Single ones that fail are left out, as if the
other server did not have them; an answer that is about another room, or by which nobody could have joined, is refused.

spec: server-server-api/#put_matrixfederationv2send_joinroomideventid
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from federation.handshake import BadAnswer
from federation.pdu_checks import Dropped, Fault, check_pdus, passed
from federation.slices import Malformed
from homeserver.protocol import auth_rules, versions
from homeserver.protocol.errors import UnsupportedRoomVersion
from homeserver.protocol.event_view import CREATE
from homeserver.protocol.rejection import Rejected
from homeserver.rooms import references
from homeserver.rooms.adoption import Arrival
from homeserver.runtime.breath import unhurried

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.protocol.event_view import StateKey
    from homeserver.protocol.events import Event
    from homeserver.protocol.versions import RoomRules

LISTS: Final = frozenset(("state", "auth_chain"))
"""The properties of an answer that may be long."""


@dataclass(slots=True)
class Described:
    """What an answer to a join says, of which signatures and hashes have been checked, and nothing else.

    ``state`` and ``auth_chain`` are None where it has no such list; ``join`` is what came back as our join.
    """

    state: dict[str, Event] | None = None
    auth_chain: dict[str, Event] | None = None
    members_omitted: bool = False
    join: object = None


async def read(server: Server, rules: RoomRules, room_id: str, parts: AsyncIterator[tuple[str, Any]]) -> Described:
    """Take an answer as it comes (see `parts.ask_for`), and check each event of it.

    Raises BadAnswer, ServerUnreachable, NodeUnavailable (of the key ring).
    """
    described = Described()
    try:
        async for name, value in parts:
            if name in LISTS and isinstance(value, list):
                await _take(server, rules, room_id, described, name, value)
            elif name == "event":
                described.join = value
            elif name == "members_omitted":
                described.members_omitted = bool(value)
    except Malformed as fault:
        raise BadAnswer(f"it is no answer: {fault}") from None
    return described


async def _take(
    server: Server, rules: RoomRules, room_id: str, described: Described, name: str, pdus: Sequence[Any]
) -> None:
    """Keep those of some events that are what their servers signed."""
    results = await check_pdus(server, rules, room_id, pdus)
    if any(isinstance(each, Dropped) and each.fault is Fault.WRONG_ROOM for each in results):
        raise BadAnswer("there are events of another room")
    held = described.state if name == "state" else described.auth_chain
    held = {} if held is None else held
    held.update((event.event_id, event) for event in passed(results))
    if name == "state":
        described.state = held
    else:
        described.auth_chain = held


async def check(server: Server, rules: RoomRules, join: Event, answer: Described) -> Arrival:
    """The room that an answer to our join describes. Raises BadAnswer."""
    if answer.members_omitted:
        raise BadAnswer("members were left out, for which nobody asked")
    described, chain = answer.state, answer.auth_chain
    if described is None or chain is None:
        raise BadAnswer("there is no state, or no auth chain")
    known = {**chain, **described}
    create = _create(rules, described)
    accepted = {event.event_id: event async for event in _authorised(rules, create, known)}
    if create.event_id not in accepted:
        raise BadAnswer("the m.room.create event is not allowed")
    _count(server, len(known) - len(accepted))
    current: dict[StateKey, Event] = {}
    async for event in unhurried(described.values()):
        if event.state_key is None or current.setdefault((event.type, event.state_key), event) is not event:
            raise BadAnswer("the state is none")
    current = {key: event for key, event in current.items() if event.event_id in accepted}
    _check_join(rules, join, current, accepted)
    others = [event for event_id, event in accepted.items() if event_id not in described]
    return Arrival(join.room_id, rules, current, others, join)


def _create(rules: RoomRules, described: Mapping[str, Event]) -> Event:
    found = [event for event in described.values() if (event.type, event.state_key) == CREATE]
    if len(found) != 1:
        raise BadAnswer("the state has no m.room.create event that can be believed, or several")
    try:
        version = versions.rules_of_create(found[0].content)
    except UnsupportedRoomVersion:
        version = None
    if version is not rules:
        raise BadAnswer("the room has another version than was said")
    return found[0]


class _Order:
    """Events in an order in which each comes after those it cites. Who cites what is not there never comes."""

    def __init__(self, known: Mapping[str, Event]) -> None:
        self._known = known
        self._citing: dict[str, list[str]] = {}
        self._lacks: dict[str, int] = {}

    async def look(self) -> None:
        """Find out who cites whom."""
        async for event in unhurried(self._known.values()):
            cited = set(event.auth_events)
            self._lacks[event.event_id] = len(cited)
            for event_id in cited:
                self._citing.setdefault(event_id, []).append(event.event_id)

    def __iter__(self) -> Iterator[Event]:
        ready = deque(event_id for event_id, count in self._lacks.items() if not count)
        while ready:
            event_id = ready.popleft()
            yield self._known[event_id]
            for citing in self._citing.get(event_id, ()):
                self._lacks[citing] -= 1
                if not self._lacks[citing]:
                    ready.append(citing)


async def _authorised(rules: RoomRules, create: Event, known: Mapping[str, Event]) -> AsyncIterator[Event]:
    """Those of the events that are allowed by the events they cite, which are so themselves."""
    accepted: dict[str, Event] = {}
    order = _Order(known)
    await order.look()
    async for event in unhurried(order):
        if _allowed(rules, create, event, [accepted.get(event_id) for event_id in event.auth_events]):
            accepted[event.event_id] = event
            yield event


def _allowed(rules: RoomRules, create: Event, event: Event, cited: Sequence[Event | None]) -> bool:
    found = [each for each in cited if each is not None]
    if len(found) < len(cited) or (event.type == CREATE[0] and event is not create):
        return False
    if not rules.event_id_is_hash and not references.is_true(
        event, {each.event_id: each.reference_hash for each in found}
    ):
        return False
    state = {(each.type, each.state_key or ""): each for each in found}
    state.setdefault(CREATE, create)
    try:
        auth_rules.check_auth_events(rules, event, found)
        auth_rules.check(rules, event, state)
    except Rejected:
        return False
    return True


def _check_join(
    rules: RoomRules, join: Event, current: Mapping[StateKey, Event], accepted: Mapping[str, Event]
) -> None:
    """Whether our join is allowed by what it cites, and by the state it came upon. Raises BadAnswer."""
    create = current[CREATE]
    if not _allowed(rules, create, join, [accepted.get(event_id) for event_id in join.auth_events]):
        raise BadAnswer("the join is not allowed by the events that it cites")
    try:
        auth_rules.check(rules, join, current)
    except Rejected as error:
        raise BadAnswer(f"the state does not allow the join: {error.reason}") from None


def _count(server: Server, number: int) -> None:
    counter = server.telemetry.counter(
        "domicile_federation_join_events_left_out",
        "Events in answers to joins that the rules of their rooms do not allow.",
    )
    counter.inc(by=number)
