"""The rooms of a user beside those that they are in: what they know of them by one event goes along as a row.

A room to which they are invited, at which they knock, or that they have left, need not be on the node that they go to.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import orjson

from homeserver.storage import events, rooms, users
from homeserver.storage import moves as stored
from homeserver.storage.belongings import BelongingRow
from homeserver.storage.events import NewEvent, Verdict

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import StoredEvent


async def memberships(tx: Transaction, user_nid: int) -> list[BelongingRow]:
    """A row for each room in which a user has a membership, with the event that says so where they are not in it."""
    held = await stored.rooms_of(tx, user_nid)
    outside = [each.event_id for each in held if each.membership != "join"]
    by_id = {row.event_id: row for row in await events.by_ids(tx, outside)}
    return [
        BelongingRow(
            orjson.dumps([each.room_id]).decode(),
            orjson.dumps(
                {
                    "membership": each.membership,
                    "version": each.version,
                    "event_id": each.event_id,
                    "event": _plain(by_id[each.event_id]) if each.event_id in by_id else None,
                },
                option=orjson.OPT_SORT_KEYS,
            ),
        )
        for each in held
    ]


def _plain(row: StoredEvent) -> dict[str, Any]:
    return {
        "depth": row.depth,
        "ts": row.ts,
        "type": row.type,
        "state_key": row.state_key,
        "sender": row.sender,
        "client": b64encode(row.client).decode(),
        "rest": b64encode(row.rest).decode(),
        "unsigned": None if row.unsigned is None else b64encode(row.unsigned).decode(),
    }


class Membership:
    """A row of `memberships`, read."""

    def __init__(self, row: BelongingRow) -> None:
        self.room_id: str = orjson.loads(row.key)[0]
        read = orjson.loads(row.content)
        self.membership: str = read["membership"]
        self.version: str = read["version"]
        self.event_id: str = read["event_id"]
        self.event: dict[str, Any] | None = read["event"]


def write(
    tx: Transaction,
    user_id: str,
    held: Sequence[Membership],
    room_nids: Mapping[str, int],
    known: Mapping[str, tuple[int, int | None]],
    replicas: Collection[str],
    first: int,
) -> None:
    """Queue the memberships of a user who arrives in rooms of which there is no replica here, at the positions from
    ``first`` on, one for each of ``held``; and since when they have been in the others."""
    stored.date_memberships(
        tx, user_id, [(room_nids[each.room_id], each.event_id) for each in held if each.room_id in replicas]
    )
    outside = [(at, each) for at, each in enumerate(held, first) if each.room_id not in replicas and each.event]
    users.intern(tx, {each.event["sender"] for _, each in outside if each.event is not None})
    events.insert(
        tx,
        [_event(each, known.get(each.event_id, (at, None))[0], room_nids[each.room_id]) for at, each in outside],
    )
    rooms.set_membership(
        tx,
        [
            (user_id, room_nids[each.room_id], each.membership, known.get(each.event_id, (at, None))[0], at)
            for at, each in outside
        ],
    )


def _event(held: Membership, nid: int, room_nid: int) -> NewEvent:
    assert held.event is not None
    found = held.event
    return NewEvent(
        nid,
        held.event_id,
        room_nid,
        None,
        found["depth"],
        found["ts"],
        found["type"],
        found["state_key"],
        found["sender"],
        None,
        Verdict.ACCEPTED,
        b64decode(found["client"]),
        b64decode(found["rest"]),
        None if found["unsigned"] is None else b64decode(found["unsigned"]),
    )
