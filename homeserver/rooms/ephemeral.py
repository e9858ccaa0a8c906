"""The ephemeral events of a user's rooms, as `/sync` tells them: receipts and who is typing.

Nothing is read unless memory says that something changed; then one trip reads it for all rooms together.

spec: client-server-api/#receipts, client-server-api/#typing-notifications
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import orjson

from homeserver.rooms import receipts, ticks, typing_notices
from homeserver.rooms.receipts import READ, READ_PRIVATE, RECEIPT_PARCELS
from homeserver.runtime.parts import in_parts
from homeserver.storage import receipts as stored
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.receipts import Receipt
    from homeserver.storage.rooms import StoredMembership

__all__ = ["RECEIPT_PARCELS", "Part", "events", "now"]

ROOMS_AT_ONCE = 5000
"""Rooms in one statement."""

now = ticks.now


class Part(Protocol):
    """The part of a filter that is about ephemeral events."""

    def has_room(self, room_id: str) -> bool:
        """Whether it is about the room."""

    def takes(self, kind: str, sender: str) -> bool:
        """Whether events of a type pass; ephemeral events have no sender."""


async def events(
    server: Server,
    caller: Caller,
    mine: Sequence[StoredMembership],
    since: int | None,
    upto: int,
    seen_ephemeral: int,
    part: Part,
) -> dict[int, list[bytes]]:
    """The encoded m.receipt and m.typing events of the caller's joined rooms, by room_nid: what changed with
    ``since < position <= upto``, or after the tick ``seen_ephemeral``. ``since`` None: all.

    Usually no trip.
    """
    node = caller.node
    found: dict[int, list[bytes]] = {}
    joined = [room for room in mine if room.membership == "join" and part.has_room(room.room_id)]
    if part.takes("m.receipt", ""):
        for room_nid, told in (await _receipts(caller, joined, since, upto)).items():
            found.setdefault(room_nid, []).extend(_encoded(told))
    if part.takes("m.typing", "") and typing_notices.changed(node, seen_ephemeral):
        for room in joined:
            event = typing_notices.event_of(node, room.room_id, seen_ephemeral)
            if event is not None:
                found.setdefault(room.room_nid, []).append(event)
    return found


async def _receipts(
    caller: Caller, joined: Sequence[StoredMembership], since: int | None, upto: int
) -> dict[int, list[tuple[str, Receipt]]]:
    """The receipts that are new to the caller, each with its kind, by room_nid."""
    changes = caller.node.changes
    fresh = [room.room_nid for room in joined if since is None or room.pos > since]
    changed = [
        room.room_nid
        for room in joined
        if since is not None and room.pos <= since and changes.changed(Stream.RECEIPTS, room.room_nid, since)
    ]
    private = since is None or changes.changed(Stream.PRIVATE_RECEIPTS, caller.user_nid, since)
    if not (fresh or changed or private):
        return {}
    found: dict[int, list[tuple[str, Receipt]]] = {}
    wanted = {room.room_nid for room in joined}
    for kind, room_nid, receipt in await caller.node.read(
        _read, caller.user_nid, fresh, changed, since or 0, upto, private
    ):
        if room_nid in wanted:
            found.setdefault(room_nid, []).append((kind, receipt))
    return found


async def _read(
    tx: Transaction, user_nid: int, fresh: Sequence[int], changed: Sequence[int], since: int, upto: int, private: bool
) -> list[tuple[str, int, Receipt]]:
    found: list[tuple[str, int, Receipt]] = []
    for room_nids, after in ((fresh, 0), (changed, since)):
        for part in in_parts(room_nids, ROOMS_AT_ONCE):
            rows = await stored.since(tx, part, after, upto)
            found += [(READ, room_nid, receipt) for room_nid, receipt in rows]
    if private:
        rows = await stored.private_since(tx, user_nid, since, upto)
        found += [(READ_PRIVATE, room_nid, receipt) for room_nid, receipt in rows]
    return found


def _encoded(told: Iterable[tuple[str, Receipt]]) -> list[bytes]:
    """m.receipt events. One has room for one receipt of a kind by each user on an event: further ones (a threaded
    and an unthreaded one, say) go into another.

    spec: client-server-api/#mreceipt
    """
    contents: list[dict[str, dict[str, dict[str, Any]]]] = []
    for kind, receipt in told:
        entry: dict[str, Any] = {"ts": receipt.ts}
        if receipt.thread_id != receipts.UNTHREADED:
            entry["thread_id"] = receipt.thread_id
        for content in contents:
            users = content.setdefault(receipt.event_id, {}).setdefault(kind, {})
            if receipt.user_id not in users:
                users[receipt.user_id] = entry
                break
        else:
            contents.append({receipt.event_id: {kind: {receipt.user_id: entry}}})
    return [orjson.dumps({"type": "m.receipt", "content": content}) for content in contents]
