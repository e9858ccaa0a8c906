"""Which events are sticky, and until when (protocol/stickiness.py); read by room, and by the positions of the node.

Invariant: a row has a position that no token of the node had passed when it was written, also where the event itself
got a place far back in the timeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from homeserver.protocol import stickiness
from homeserver.protocol.client_format import sticky_ms
from homeserver.runtime.parts import in_parts
from homeserver.storage.events import COLUMNS, StoredEvent, Verdict

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import NewEvent

PER_SENDER: Final = 100
"""Events of one sender in one room that are read: the newest."""

_AT_ONCE: Final = 500


class Sticky(NamedTuple):
    """An event that is sticky. ``pos``: where clients find it; ``expires_ts``: milliseconds since 1970."""

    room_nid: int
    pos: int
    expires_ts: int
    event: StoredEvent


def keep(tx: Transaction, now_ms: int, events: Sequence[NewEvent], pos: int = 0) -> list[int]:
    """Queue those of some new events that are sticky at this moment; returns the rooms that have any.

    ``pos``: a position taken in this transaction, for events that got their places far back.
    """
    rows = []
    for each in events:
        lasts = None if each.pos is None or each.verdict is not Verdict.ACCEPTED else sticky_ms(each.client)
        if lasts is not None and each.pos is not None:
            expires = stickiness.expiry(lasts, each.ts, now_ms)
            if expires > now_ms:
                rows.append((each.event_nid, each.room_nid, max(each.pos, pos), expires))
    if rows:
        tx.later(
            "INSERT INTO sticky_events (event_nid, room_nid, pos, expires_ts) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            rows,
        )
    return sorted({row[1] for row in rows})


async def of_rooms(tx: Transaction, room_nids: Collection[int], after: int, upto: int, now_ms: int) -> list[Sticky]:
    """What is sticky in rooms with ``after < position <= upto``, in order; of each sender in each room the newest."""
    found: list[Sticky] = []
    for part in in_parts(room_nids, _AT_ONCE):
        rows = await tx.all(
            f"SELECT s.room_nid, s.pos, s.expires_ts, {COLUMNS} FROM ("
            "SELECT t.event_nid, t.room_nid, t.pos, t.expires_ts, ROW_NUMBER() OVER"
            " (PARTITION BY t.room_nid, o.sender_nid ORDER BY t.pos DESC) AS place"
            " FROM sticky_events t JOIN events o ON o.event_nid = t.event_nid"
            f" WHERE t.room_nid IN ({','.join('?' * len(part))}) AND t.pos > ? AND t.pos <= ? AND t.expires_ts > ?"
            ") s JOIN events e ON e.event_nid = s.event_nid JOIN users u ON u.user_nid = e.sender_nid"
            " WHERE s.place <= ?",
            *part,
            after,
            upto,
            now_ms,
            PER_SENDER,
        )
        found += [Sticky(row[0], row[1], row[2], StoredEvent(*row[3:])) for row in rows]
    return sorted(found, key=lambda each: each.pos)


async def of_residents(tx: Transaction, room_nid: int, upto: int, now_ms: int) -> list[int]:
    """The row ids of what residents have sent to a room that is sticky, in order, up to a position; of each the
    newest."""
    rows = await tx.all(
        "SELECT event_nid FROM (SELECT s.event_nid, s.pos, ROW_NUMBER() OVER"
        " (PARTITION BY e.sender_nid ORDER BY s.pos DESC) AS place FROM sticky_events s"
        " JOIN events e ON e.event_nid = s.event_nid JOIN residents r ON r.user_nid = e.sender_nid"
        " WHERE s.room_nid = ? AND s.pos <= ? AND s.expires_ts > ?) newest WHERE place <= ? ORDER BY pos",
        room_nid,
        upto,
        now_ms,
        PER_SENDER,
    )
    return [int(row[0]) for row in rows]


async def forget(tx: Transaction, before_ts: int) -> None:
    """Drop those that expired before then."""
    await tx.run("DELETE FROM sticky_events WHERE expires_ts < ?", before_ts)
