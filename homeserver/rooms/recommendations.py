"""Recommendations of policy servers: an event of a room that names one needs its signature, or is shown to nobody.

Whoever is slow to recommend is waited for so long and no longer. The policy server may be this one (recommending.py).

spec: server-server-api/#policy-servers
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from homeserver.protocol import policy_server, signing
from homeserver.protocol.errors import FlowDenied, Forbidden, LimitExceeded, ServerUnreachable
from homeserver.protocol.policy_server import POLICY, PolicyServer
from homeserver.rooms import recommending, state
from homeserver.runtime.deadlines import within
from homeserver.runtime.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.rooms.state import Room, Snapshot
    from homeserver.storage.nodes import Node

SENDING: Final = 60.0
"""Seconds that an event of ours waits for the policy server, however often it has to be built anew meanwhile."""
SEEKING: Final = 10.0
"""Seconds that an event of another server waits for the recommendation that it should have come with."""
HISTORY: Final = 30.0
"""Seconds that a page of a room's history waits for recommendations."""
AT_ONCE: Final = 8
"""Events of it about which a policy server is asked at the same time."""


def in_use(server: Server, snapshot: Snapshot) -> PolicyServer | None:
    """The policy server of a room, if it has one, by the current state, of which the m.room.policy has been loaded.

    spec: server-server-api/#determining-if-a-policy-server-is-enabled-in-a-room
    """
    policy = policy_server.named_by(snapshot.event(POLICY))
    if policy is None:
        return None
    is_there = bool(snapshot.nodes) if policy.name == server.name else policy.name in snapshot.servers
    return policy if is_there else None


def missing(server: Server, event: Event, snapshot: Snapshot) -> PolicyServer | None:
    """The policy server of a room that has not recommended an event, by the current state (see `in_use`). None when
    there is no such server, or none is needed."""
    policy = in_use(server, snapshot)
    if policy is None or not policy_server.is_asked_about(event):
        return None
    signed = signing.event_signed_bytes(event.rules, event.pdu())
    return None if policy_server.recommends(policy, signed, event.signatures) else policy


class Asking(Turns):
    """Rooms whose policy server is asked about an event of ours (``node.memory(Asking)``): about one at a time, so that
    none has to be built and asked about anew because another one was placed meanwhile."""


class Patience:
    """How long one who sends something still waits for a policy server."""

    def __init__(self, server: Server) -> None:
        self._clock = server.clock
        self._until = server.clock.monotonic() + SENDING

    @property
    def seconds(self) -> float:
        """How long it lasts. Raises ServerUnreachable when it is over."""
        left = self._until - self._clock.monotonic()
        if left <= 0:
            raise self.over()
        return left

    @staticmethod
    def over() -> ServerUnreachable:
        """What the user is told then."""
        return ServerUnreachable("The policy server of this room did not answer in time; nothing was sent")


async def obtained(server: Server, node: Node, event: Event) -> Event:
    """An event of ours that is not placed yet, with the recommendation that it needs.

    Raises what `given` raises, NotFound without the room, NodeUnavailable.
    """
    _, policy = await _lacked(server, node, event)
    return event if policy is None else await given(server, node, event, policy)


async def given(
    server: Server, node: Node, event: Event, policy: PolicyServer, patience: Patience | None = None
) -> Event:
    """An event of ours with the recommendation of a policy server.

    Raises what `context.Remote.recommend` raises, Forbidden too where it is this server and is not what the room says
    of it, and ServerUnreachable when it takes too long.
    """
    if policy.name == server.name:
        return recommending.recommended(server, event, policy)
    try:
        async with within(server.clock, (patience or Patience(server)).seconds):
            return await server.remote.recommend(server, node, event, policy)
    except TimeoutError:
        raise Patience.over() from None


async def asked_about(server: Server, node: Node, event: Event, seconds: float) -> Event:
    """An event of another server, with the recommendation that it lacks, for which so long is waited.

    Raises Forbidden where it is not recommended, FlowDenied, LimitExceeded and ServerUnreachable where that was not to
    be learnt, NotFound without the room, NodeUnavailable.
    """
    room, policy = await _lacked(server, node, event)
    if policy is None:
        return event
    if policy.name == server.name:
        own = recommending.recommended(server, event, policy)
        await recommending.check(server, node, room, event)
        return own
    late = ServerUnreachable(f"{policy.name}, the policy server of this room, did not answer in time")
    if seconds <= 0:
        raise late
    try:
        async with within(server.clock, seconds):
            return await server.remote.recommend(server, node, event, policy)
    except TimeoutError:
        raise late from None


async def sought(server: Server, node: Node, event: Event, seconds: float = SEEKING) -> Event:
    """An event of another server, with the recommendation that it lacks if the policy server of its room gives one in
    time.

    Raises NotFound without the room, NodeUnavailable.
    """
    try:
        return await asked_about(server, node, event, seconds)
    except (FlowDenied, Forbidden, LimitExceeded, ServerUnreachable):
        return event


async def of_history(server: Server, node: Node, events: Sequence[Event]) -> dict[str, Event | None]:
    """What a room's policy server says of events of its history, by their ids: the event with the recommendation that
    it lacked, None where it is not recommended. It is asked about the first ones first; of what was not to be learnt in
    time nothing is said.

    A room's history is checked as what is new is: by the policy server that it has now. Raises NotFound without the
    room, NodeUnavailable.
    """
    until = server.clock.monotonic() + HISTORY
    said: dict[str, Event | None] = {}
    left = iter(events)

    async def ask() -> None:
        for event in left:
            try:
                said[event.event_id] = await asked_about(server, node, event, until - server.clock.monotonic())
            except Forbidden:
                said[event.event_id] = None
            except (FlowDenied, LimitExceeded, ServerUnreachable):
                return

    await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    return said


async def _lacked(server: Server, node: Node, event: Event) -> tuple[Room, PolicyServer | None]:
    room = await state.get(node, event.room_id)
    await state.require(node, room, [POLICY])
    return room, missing(server, event, room.head)
