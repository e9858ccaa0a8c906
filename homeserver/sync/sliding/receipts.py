"""The receipts of the rooms of an answer: at first those on the events shown, and the user's own; then what came.

One event tells those of a room. Where somebody has two on one event, for a thread and for all, it has the latter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from homeserver.rooms.receipts import READ, READ_PRIVATE, UNTHREADED
from homeserver.rooms.state import Rooms
from homeserver.storage import receipts as stored
from homeserver.storage import sliding
from homeserver.storage.streams import Stream
from homeserver.sync.sliding.connections import LIVE, NEVER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from homeserver.storage.engine import Transaction
    from homeserver.storage.receipts import Receipt
    from homeserver.storage.sliding import Beginnings
    from homeserver.sync.sliding.extensions import Ledger
    from homeserver.sync.sliding.room_list import RoomList
    from homeserver.sync.sliding.rooms import Told
    from homeserver.sync.sliding.telling import Telling

LATEST = 20
"""Events of a room that is not told of at this moment on which receipts are told, at most."""

Found = list[tuple[str, int, "Receipt"]]
"""Receipts, each with its kind and the room's row id."""


async def tell(
    telling: Telling,
    ledger: Ledger,
    scope: Collection[int],
    listed: RoomList,
    told: Told,
    first: Beginnings | None,
) -> dict[str, bytes]:
    """The m.receipt events to be told, by room id; adds to what the connection knows afterwards."""
    node, user_nid = telling.caller.node, telling.caller.user_nid
    joined = [nid for nid in scope if nid in listed.rooms and listed.rooms[nid].membership == "join"]
    fresh, late, live = _sorted(ledger, joined, told)
    came = await _with_news(telling, ledger, listed)
    within = set(live)
    found: Found = []
    if fresh and first is not None:
        found += _began(first, set(fresh))
    elif fresh:
        event_ids = [event_id for nid in fresh for event_id in _shown(telling, nid, listed, told)]
        found += await node.read(_first, user_nid, fresh, event_ids, telling.upto)
    for after, nids in late.items():
        found += await node.read(_missed, user_nid, nids, after, telling.upto)
    since = telling.since
    if since is not None:
        rooms = [nid for nid in came if nid in within]
        private = node.changes.changed(Stream.PRIVATE_RECEIPTS, user_nid, since)
        if rooms or private:
            rows = await node.read(_news, user_nid, rooms, since, telling.upto, private)
            found += [row for row in rows if row[1] in within]
            _note_missed(ledger, [*came, *(nid for _, nid, _ in rows)], set(joined), since)
        else:
            _note_missed(ledger, came, set(joined), since)
    by_room: dict[int, list[tuple[str, Receipt]]] = {}
    for kind, nid, receipt in found:
        by_room.setdefault(nid, []).append((kind, receipt))
    return {listed.rooms[nid].room_id: _encoded(each) for nid, each in by_room.items() if nid in listed.rooms}


def _sorted(ledger: Ledger, joined: Iterable[int], told: Told) -> tuple[list[int], dict[int, list[int]], list[int]]:
    """The rooms that are told for the first time, or whose events are; those that are behind, by the position up to
    which they were told; and those that are not. All of them are told up to now."""
    fresh: list[int] = []
    late: dict[int, list[int]] = {}
    live: list[int] = []
    for nid in joined:
        sent = ledger.of(nid)
        if sent is None:
            continue
        draft = told.drafts.get(nid)
        if sent.receipts == NEVER or (draft is not None and (draft.initial or draft.expanded)):
            fresh.append(nid)
        elif sent.receipts != LIVE:
            late.setdefault(sent.receipts, []).append(nid)
        else:
            live.append(nid)
        if sent.receipts != LIVE:
            ledger.sent[nid] = sent._replace(receipts=LIVE)
    return fresh, late, live


def _shown(telling: Telling, nid: int, listed: RoomList, told: Told) -> Sequence[str]:
    """The events of a room on which receipts are told."""
    draft = told.drafts.get(nid)
    if draft is not None:
        return [event.event_id for event in draft.events]
    room = telling.caller.node.memory(Rooms).get(listed.rooms[nid].room_id)
    return [] if room is None else [event.event_id for event in list(room.recent)[-LATEST:]]


async def _with_news(telling: Telling, ledger: Ledger, listed: RoomList) -> list[int]:
    """The user's rooms in which public receipts came since, as far as the connection was told of any."""
    if telling.since is None:
        return []
    changed = telling.caller.node.changes.after(Stream.RECEIPTS, telling.since)
    known = ledger.before.rooms
    if changed is not None:
        return [nid for nid, _ in changed if nid in listed.rooms and nid in known and known[nid].receipts == LIVE]
    live = [nid for nid, sent in known.items() if sent.receipts == LIVE and nid in listed.rooms]
    return await telling.caller.node.read(sliding.rooms_with_receipts, live, telling.since)


def _note_missed(ledger: Ledger, nids: Iterable[int], told: Collection[int], since: int) -> None:
    for nid in nids:
        sent = ledger.of(nid)
        if nid not in told and sent is not None and sent.receipts == LIVE:
            ledger.sent[nid] = sent._replace(receipts=since)


def _began(first: Beginnings, rooms: set[int]) -> Found:
    found = [(READ, nid, receipt) for nid, receipt in first.receipts if nid in rooms]
    return found + [(READ_PRIVATE if own else READ, nid, receipt) for own, nid, receipt in first.own if nid in rooms]


# from the database --------------------------------------------------------------------------


async def _first(
    tx: Transaction, user_nid: int, room_nids: Collection[int], event_ids: Sequence[str], upto: int
) -> Found:
    rooms = set(room_nids)
    found = [(READ, nid, each) for nid, each in await sliding.receipts_on(tx, event_ids, upto) if nid in rooms]
    own = await sliding.own_receipts(tx, user_nid, room_nids, upto)
    return found + [(READ_PRIVATE if private else READ, nid, receipt) for private, nid, receipt in own]


async def _missed(tx: Transaction, user_nid: int, room_nids: Collection[int], after: int, upto: int) -> Found:
    found = [(READ, nid, receipt) for nid, receipt in await stored.since(tx, room_nids, after, upto)]
    private = await stored.private_since(tx, user_nid, after, upto)
    rooms = set(room_nids)
    return found + [(READ_PRIVATE, nid, receipt) for nid, receipt in private if nid in rooms]


async def _news(
    tx: Transaction, user_nid: int, room_nids: Collection[int], since: int, upto: int, private: bool
) -> Found:
    found = [(READ, nid, receipt) for nid, receipt in await stored.since(tx, room_nids, since, upto)]
    if private:
        rows = await stored.private_since(tx, user_nid, since, upto)
        found += [(READ_PRIVATE, nid, receipt) for nid, receipt in rows]
    return found


def _encoded(told: Iterable[tuple[str, Receipt]]) -> bytes:
    """The m.receipt event. spec: client-server-api/#mreceipt"""
    content: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for kind, receipt in told:
        entry: dict[str, Any] = {"ts": receipt.ts}
        if receipt.thread_id != UNTHREADED:
            entry["thread_id"] = receipt.thread_id
        users = content.setdefault(receipt.event_id, {}).setdefault(kind, {})
        if receipt.user_id not in users or receipt.thread_id == UNTHREADED:
            users[receipt.user_id] = entry
    return orjson.dumps({"type": "m.receipt", "content": content})
