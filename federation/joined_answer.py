"""The answer to a join through us: the state of the room before it, and all that proves it and the join, in pieces.

spec: server-server-api/#put_matrixfederationv2send_joinroomideventid
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

import orjson

from homeserver.protocol.event_view import MEMBER
from homeserver.protocol.events import pdu_bytes
from homeserver.storage import auth_links, events, state

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.protocol.versions import RoomRules
    from homeserver.rooms.state import Room
    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node

AT_ONCE: Final = 500
"""Events that are read, and sent, together."""


async def pieces(
    server: Server, node: Node, room: Room, event: Event, row: StoredEvent, *, once: bool
) -> AsyncIterator[bytes]:
    """The body of the answer for a join that has been placed in a room of ``node``.

    ``once``: what is in the state does not stand in the auth chain too.
    """
    nids = await node.read(_state_before, event, row)
    yield b'{"event":' + event.pdu_bytes() + b',"members_omitted":false,"origin":' + orjson.dumps(server.name)
    yield b',"state":['
    wanted = iter(list(nids))
    first, shown = True, []
    while part := list(islice(wanted, AT_ONCE)):
        rows = await node.read(events.by_nids, part)
        shown += [each.event_id for each in rows]
        yield _listed(room.rules, rows, first=first)
        first = False
    yield b'],"auth_chain":['
    proving = await node.read(auth_links.chain_of_state, [*shown, event.event_id])
    chain = iter(proving.difference(shown) if once else proving)
    first = True
    while names := list(islice(chain, AT_ONCE)):
        yield _listed(room.rules, await node.read(events.of_room, room.nid, names), first=first)
        first = False
    yield b"]}"


async def _state_before(tx: Transaction, event: Event, row: StoredEvent) -> set[int]:
    """The row ids of the room's state before a member event that is stored with the state after it."""
    assert row.state_group is not None
    nids = await state.group_state(tx, await state.load_group(tx, row.state_group))
    nids.pop((MEMBER, event.state_key or ""), None)
    replaced = None if row.unsigned is None else orjson.loads(b"{" + row.unsigned + b"}").get("replaces_state")
    found = set(nids.values())
    if replaced is not None:
        found |= {nid for nid, _ in (await events.known(tx, [replaced])).values()}
    return found


def _listed(rules: RoomRules, rows: Iterable[StoredEvent], *, first: bool) -> bytes:
    encoded = b",".join(pdu_bytes(rules, row.client, row.rest) for row in rows)
    return encoded if first or not encoded else b"," + encoded
