"""What a server is to be sent next: from its queue in memory, or, when it has fallen behind that, from the database.

Nothing is taken out of a line before it has been sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from federation.transactions import MOST_EDUS, MOST_PDUS, portion
from homeserver.protocol.events import pdu_bytes
from homeserver.protocol.identifiers import domain_of
from homeserver.protocol.versions import rules_of
from homeserver.rooms.outgoing import Lines, OutgoingPdu
from homeserver.storage import peers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.rooms.outgoing import Fleeting, Item, Line
    from homeserver.storage.engine import Transaction as Tx
    from homeserver.storage.nodes import Node

AHEAD: Final = 1000
"""Items of the database that are looked up together."""

STRETCH: Final = 20_000
"""Positions among which they are looked for: what is behind these is not looked at each time."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What goes to a server at once. It covers what is for it up to the position ``upto``."""

    items: Sequence[Item]
    upto: int
    fleeting: Sequence[Fleeting] = ()


async def next_batch(node: Node, line: Line) -> Batch | None:
    """What to send now; None when nothing waits. Nothing is taken out of the line yet."""
    while True:
        if line.cursor is None:
            await _load(node, line)
        elif line.cursor < line.floor:
            batch = await _from_database(node, line)
            if batch is not None:
                return batch
        else:
            while line.queue and line.queue[0].pos <= line.cursor:
                line.queue.popleft()
            items = portion(line.queue, line.most)
            fleeting, line.fleeting = list(line.fleeting.values()), {}
            if not items and not fleeting:
                return None
            return Batch(items, items[-1].pos if items else line.cursor, fleeting)


async def _load(node: Node, line: Line) -> None:
    """Learn how far the server is."""
    row = await node.read(peers.find, line.server)
    unwritten = node.memory(Lines).written.get(line.server)
    line.floor = max(line.floor, node.position)
    line.gone = row.gone_upto
    line.cursor = row.sent_pos if unwritten is None else max(row.sent_pos, unwritten.sent_pos)


async def _from_database(node: Node, line: Line) -> Batch | None:
    """What of the database is next; None when that has to be looked for anew."""
    assert line.cursor is not None
    cursor = line.cursor
    while line.ahead and line.ahead[0].pos <= cursor:
        line.ahead.popleft()
    if not line.ahead:
        if cursor < line.gone:
            upto = line.gone
            found = await node.read(peers.newest, line.server, cursor, upto)
        else:
            upto = min(node.position, cursor + STRETCH)
            found = await node.read(peers.waiting, line.server, cursor, upto, AHEAD)
        if line.cursor != cursor:
            return None
        if not found:
            line.cursor = max(cursor, upto)
            line.bound = None if line.bound is None or line.bound <= upto else line.bound
            return None
        line.ahead.extend(found)
    chosen = _portion_ahead(line)
    events = {waiting.event_nid: waiting.pos for waiting in chosen if waiting.event_nid is not None}
    end, others = chosen[-1].pos, any(waiting.event_nid is None for waiting in chosen)
    items = await node.read(_items, line.server, events, cursor, end, others)
    return Batch(items, end) if line.cursor == cursor else None


def _portion_ahead(line: Line) -> list[peers.Waiting]:
    """What of the line goes into the next transaction: of one that failed, the same."""
    most = min(MOST_PDUS, MOST_EDUS, line.most or MOST_PDUS)
    chosen = list(takewhile(lambda one: line.bound is None or one.pos <= line.bound, list(line.ahead)[:most]))
    return chosen or [line.ahead[0]]


async def _items(tx: Tx, server: str, events: Mapping[int, int], after: int, upto: int, edus: bool) -> list[Item]:
    """Everything for a server with ``after < position <= upto``, in order; but not what its own users have sent.

    ``events``: the row ids of the events, with the positions at which they stand for it.
    """
    found: list[Item] = [
        OutgoingPdu(
            events[row.event_nid],
            row.event_id,
            row.sender,
            None,
            pdu_bytes(rules_of(row.room_version), row.client, row.rest),
        )
        for row in await peers.events_at(tx, events)
        if domain_of(row.sender) != server
    ]
    if edus:
        found += await peers.edus_at(tx, server, after, upto)
        found += await peers.receipts_at(tx, server, after, upto)
    return sorted(found, key=lambda item: item.pos)
