"""Where an event is ordered: on the room's home node, or on the sender's own while that is down or no events may cross
the border between them; once, however often a request is repeated.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from config.residency import DataClass
from homeserver.protocol.errors import CommitUnknown, NodeUnavailable, NotFound
from homeserver.residency import gate
from homeserver.rooms import annotating, transactions
from homeserver.rooms.send import place
from homeserver.runtime.lru import Lru
from homeserver.storage import client_transactions

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.rooms.send import Draft
    from homeserver.storage.client_transactions import Echo
    from homeserver.storage.nodes import Node


async def order(server: Server, node: Node, room_id: str, draft: Draft) -> str:
    """Order a draft on ``node``, wait for its commit, and return the event id.

    Raises Forbidden when the room's rules do not allow it, PlaintextRefused, DuplicateAnnotation, NotFound without the
    room, BadJson and TooLarge for what is no event, NodeUnavailable.
    """
    if draft.txn_key is None:
        return await _order(server, node, room_id, draft)
    under_way = node.memory(_UnderWay).events
    earlier = under_way.get(draft.txn_key)
    if earlier is None:  # else: the same request, twice at once
        earlier = under_way[draft.txn_key] = asyncio.ensure_future(_order_once(server, node, room_id, draft))
        earlier.add_done_callback(lambda _: under_way.pop(draft.txn_key or b""))
    return await asyncio.shield(earlier)


async def _order_once(server: Server, node: Node, room_id: str, draft: Draft) -> str:
    assert draft.txn_key is not None
    known = await transactions.event_of(node, draft.txn_key)
    if known is not None:
        return known
    node.memory(transactions.Seen).add(draft.txn_key)
    return await _order(server, node, room_id, draft)


async def _order(server: Server, node: Node, room_id: str, draft: Draft) -> str:
    key = annotating.key_of(draft.content)
    if key is not None and draft.state_key is None:
        async with annotating.once(node, room_id, draft, key):
            return await _put(server, node, room_id, draft)
    return await _put(server, node, room_id, draft)


async def _put(server: Server, node: Node, room_id: str, draft: Draft) -> str:
    event, committed = await place(server, node, room_id, draft)
    await asyncio.shield(committed)
    return event.event_id


class _UnderWay:
    """Transaction keys whose events wait for their commit on one node."""

    def __init__(self) -> None:
        self.events: dict[bytes, asyncio.Future[str]] = {}


async def in_order(server: Server, own: Node, room_id: str, draft: Draft) -> tuple[Node, str]:
    """Order a draft where the room is ordered: on its home node, or on ``own`` while there is no way to that.

    Returns the node on which it was ordered and the event id.
    """
    home = await server.nodes.of_room(room_id)
    if home is None:
        raise NotFound("There is no such room")
    if draft.txn_key is not None:
        earlier = await _ordered_before(server, own, home, draft.txn_key)
        if earlier is not None:
            return earlier
    if home is not own and can_reach(server, own, home):
        try:
            return home, await order(server, home, room_id, await _leave_echo(server, own, home, draft))
        except CommitUnknown:
            raise  # only the same request, repeated, may find out
        except NodeUnavailable:
            pass
    return own, await order(server, own, room_id, draft)


def can_reach(server: Server, own: Node, home: Node) -> bool:
    """Whether a room's home can be asked to order an event of ours: it is up, and events may go there and come back.

    A room may have come to span a border that a later policy closes: both sides then go on for themselves.
    """
    places = own.jurisdiction, home.jurisdiction
    open_both_ways = all(gate.may(server, DataClass.EVENTS, *way) for way in (places, places[::-1]))
    return home.engine.health().up and open_both_ways


async def _ordered_before(server: Server, own: Node, home: Node, txn_key: bytes) -> tuple[Node, str] | None:
    """The event that a request made before where ``home`` would not find it, and the node on which it was ordered: on
    the sender's own, or on another that ordered the room then, and from which it may not have arrived yet.

    Raises NodeUnavailable when it may have been ordered where it cannot be asked for now.
    """
    if home is not own:
        earlier = await _ordered_by(own, txn_key)
        if earlier is not None:
            return own, earlier
    name = await transactions.asked_node(own, txn_key)
    asked = next((node for node in server.nodes if node.name == name), None)
    if asked is None:  # nobody else; or a node that has left, and all that it had ordered was elsewhere before
        return None
    if asked is not own and not can_reach(server, own, asked):
        raise NodeUnavailable(asked.name)
    earlier = None if asked in (own, home) else await _ordered_by(asked, txn_key)
    return None if earlier is None else (asked, earlier)


async def _ordered_by(node: Node, txn_key: bytes) -> str | None:
    """The event that a request made on a node before, also if it is waiting for its commit there."""
    earlier = node.memory(_UnderWay).events.get(txn_key)
    return await transactions.event_of(node, txn_key) if earlier is None else await asyncio.shield(earlier)


async def _leave_echo(server: Server, own: Node, home: Node, draft: Draft) -> Draft:
    """Remember on the sender's node that the event is theirs, before it is ordered on ``home``."""
    if draft.txn_key is None or draft.echo is None:
        return draft
    own.memory(Echoes).sent[draft.txn_key] = draft.echo
    own.memory(transactions.Seen).add(draft.txn_key)
    await own.write(client_transactions.ask, draft.txn_key, draft.echo, server.clock.now_ms(), home.name)
    return replace(draft, echo=None)


class Echoes:
    """Devices that sent events which another node orders, until these arrive (``node.memory(Echoes)``)."""

    def __init__(self) -> None:
        self.sent: Lru[bytes, Echo] = Lru(10_000)
