"""Recommendations of policy servers: an event of a room that names one needs its signature, or is shown to nobody.

spec: server-server-api/#policy-servers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol import policy_server, signing
from homeserver.protocol.errors import Refusal
from homeserver.protocol.policy_server import POLICY, PolicyServer
from homeserver.rooms import state
from homeserver.runtime.turns import Turns

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.rooms.state import Snapshot
    from homeserver.storage.nodes import Node


def missing(event: Event, snapshot: Snapshot) -> PolicyServer | None:
    """The policy server of a room that has not recommended an event, by the current state, of which the m.room.policy
    has been loaded. None when there is no such server, or none is needed."""
    policy = policy_server.named_by(snapshot.event(POLICY))
    if policy is None or policy.name not in snapshot.servers or not policy_server.is_asked_about(event):
        return None
    signed = signing.event_signed_bytes(event.rules, event.pdu())
    return None if policy_server.recommends(policy, signed, event.signatures) else policy


class Asking(Turns):
    """Rooms whose policy server is asked about an event of ours (``node.memory(Asking)``): about one at a time, so that
    none has to be built and asked about anew because another one was placed meanwhile."""


async def obtained(server: Server, node: Node, event: Event) -> Event:
    """An event of ours that is not placed yet, with the recommendation that it needs.

    Raises what `context.Remote.recommend` raises, NotFound without the room, NodeUnavailable.
    """
    policy = await _lacked(node, event)
    return event if policy is None else await server.remote.recommend(server, node, event, policy)


async def sought(server: Server, node: Node, event: Event) -> Event:
    """An event of another server, with the recommendation that it lacks if the policy server of its room gives one.

    Raises NotFound without the room, NodeUnavailable.
    """
    policy = await _lacked(node, event)
    if policy is None:
        return event
    try:
        return await server.remote.recommend(server, node, event, policy)
    except Refusal:
        return event


async def _lacked(node: Node, event: Event) -> PolicyServer | None:
    room = await state.get(node, event.room_id)
    await state.require(node, room, [POLICY])
    return missing(event, room.head)
