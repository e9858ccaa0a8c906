"""What a client asks for beside rooms: messages to the device, what keys need, account data, receipts, who is typing,
which threads are followed, what is sticky.

All but the first two and the last two are about the rooms of the request only. What changes of the user's own data and
of receipts while a room is not among these is told when it is again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from homeserver.accounts import push_rules
from homeserver.e2ee import device_lists, mailboxes
from homeserver.rooms import typing_notices
from homeserver.runtime.lru import Lru
from homeserver.storage import account_data as stored
from homeserver.storage import sliding
from homeserver.storage.streams import Stream
from homeserver.sync.sliding import receipts, sticky, threads
from homeserver.sync.sliding.connections import LIVE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from homeserver.storage.sliding import Beginnings
    from homeserver.sync.sliding.connections import Sent, Standing
    from homeserver.sync.sliding.request import Inbox, Wish
    from homeserver.sync.sliding.room_list import RoomList
    from homeserver.sync.sliding.rooms import Told
    from homeserver.sync.sliding.selection import Selection
    from homeserver.sync.sliding.sticky import StickyTold
    from homeserver.sync.sliding.telling import Telling

GLOBAL = stored.GLOBAL

FOLLOWED = 200
"""Rooms of which it is looked whether somebody types though nothing has changed."""


@dataclass(slots=True)
class Beside:
    """What is told beside rooms, encoded; by room id where it is about rooms. ``account``: all that is of the account
    has been told. ``e2ee``: None when the connection is new, and lists of devices are none to tell of.
    """

    next_batch: str = ""
    messages: Sequence[bytes] = ()
    e2ee: tuple[Sequence[str], Sequence[str]] | None = None
    account: bool = False
    of_account: Sequence[bytes] = ()
    of_rooms: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    receipts: Mapping[str, bytes] = field(default_factory=dict)
    typing: Mapping[str, bytes] = field(default_factory=dict)
    threads: Mapping[str, Any] = field(default_factory=dict)
    sticky: StickyTold | None = None

    @property
    def worth(self) -> bool:
        """Whether a waiting client is to be answered with this."""
        return bool(
            self.messages
            or (self.e2ee is not None and any(self.e2ee))
            or self.of_account
            or self.of_rooms
            or self.receipts
            or self.typing
            or self.threads
            or (self.sticky is not None and self.sticky.rooms)
        )


@dataclass(slots=True)
class Ledger:
    """What the connection knows of rooms, as it becomes while an answer is made: ``sent`` over what it knew before."""

    before: Standing
    sent: dict[int, Sent | None]

    def of(self, room_nid: int) -> Sent | None:
        """What it knows of a room."""
        return self.sent[room_nid] if room_nid in self.sent else self.before.rooms.get(room_nid)


async def tell(
    telling: Telling, standing: Standing, selection: Selection, listed: RoomList, wish: Wish, told: Told
) -> Beside:
    """What is to be said beside the rooms that are told; adds to what the connection knows afterwards."""
    wanted, found = wish.extensions, Beside()
    ledger = Ledger(standing, told.sent)
    first = told.first
    if wanted.to_device is not None:
        found.next_batch, found.messages = await _messages(telling, wanted.to_device)
    if wanted.e2ee and telling.since is not None:
        found.e2ee = await _device_lists(telling, listed, telling.since)
    if wanted.account_data is not None or standing.account:
        scope = () if wanted.account_data is None else selection.within(wanted.account_data)
        await _account_data(telling, ledger, scope, listed, found, wanted.account_data is not None, first)
    scope = () if wanted.receipts is None else selection.within(wanted.receipts)
    found.receipts = await receipts.tell(telling, ledger, scope, listed, told, first)
    if wanted.typing is not None:
        found.typing = _typing(telling, ledger, selection.within(wanted.typing), listed, wish.conn_id)
    if wanted.threads is not None:
        found.threads = await threads.tell(telling, wanted.threads)
    if wanted.sticky is not None:
        found.sticky = await sticky.tell(telling, wanted.sticky, ledger, listed, told)
    return found


# encryption ---------------------------------------------------------------------------------


async def _messages(telling: Telling, inbox: Inbox) -> tuple[str, Sequence[bytes]]:
    """The messages that wait behind where the device is, and where it is then."""
    node, device_nid = telling.caller.node, telling.caller.device_nid
    if inbox.since is not None and inbox.since > node.position:
        return inbox.text or "", ()
    waiting = await mailboxes.waiting(node, device_nid, inbox.since or 0, telling.upto, inbox.limit)
    last = waiting[-1][0] if len(waiting) == inbox.limit else max(telling.upto, inbox.since or 0)
    return str(last), [message for _, message in waiting]


async def _device_lists(telling: Telling, listed: RoomList, since: int) -> tuple[Sequence[str], Sequence[str]]:
    node = telling.caller.node
    moved = node.changes.after(Stream.MEMBERS, since)
    rooms = listed.rooms if moved is None else [nid for nid, _ in moved]
    joined = [nid for nid in rooms if nid in listed.rooms and listed.rooms[nid].membership == "join"]
    return await device_lists.changed(node, telling.caller.user_nid, since, telling.upto, joined)


# account data -------------------------------------------------------------------------------


async def _account_data(
    telling: Telling,
    ledger: Ledger,
    scope: Collection[int],
    listed: RoomList,
    found: Beside,
    wanted: bool,
    first: Beginnings | None,
) -> None:
    """Everything when it is told for the first time, and then what changed."""
    caller, since = telling.caller, telling.since
    changed: list[stored.Entry] = []
    fresh = since is not None and caller.node.changes.changed(Stream.ACCOUNT_DATA, caller.user_nid, since)
    if fresh and since is not None:
        changed = await caller.node.read(stored.since, caller.user_nid, since, telling.upto)
    if wanted:
        found.account = True
        if first is not None:
            found.of_account = _of_new(telling, first)
        else:
            found.of_account = await _of_account(telling, ledger.before.account, changed)
    else:  # what is missed of the account is told all over when it is asked for again
        found.account = not fresh
    entries: dict[int, list[bytes]] = {}
    due: dict[int, list[int]] = {}
    for nid in scope:
        sent = ledger.of(nid)
        if sent is not None and sent.data != LIVE:
            due.setdefault(max(sent.data, 0), []).append(nid)
            ledger.sent[nid] = sent._replace(data=LIVE)
    late = {nid for nids in due.values() for nid in nids}
    for after, nids in due.items():
        rows = (
            await caller.node.read(sliding.account_data, caller.user_nid, nids, after, telling.upto)
            if first is None
            else [row for row in first.data if row[0] in late]
        )
        for nid, kind, content in rows:
            entries.setdefault(nid, []).append(_entry(kind, content))
    for entry in changed:
        if entry.room_nid == GLOBAL or entry.room_nid in late:
            continue
        sent = ledger.of(entry.room_nid)
        if entry.room_nid in scope:
            entries.setdefault(entry.room_nid, []).append(_entry(entry.type, entry.content))
        elif sent is not None and sent.data == LIVE and since is not None:
            ledger.sent[entry.room_nid] = sent._replace(data=since)
    rooms = ((listed.find(nid), told) for nid, told in entries.items())
    found.of_rooms = {room.room_id: told for room, told in rooms if room is not None}


def _of_new(telling: Telling, first: Beginnings) -> list[bytes]:
    told = [_entry(kind, content) for nid, kind, content in first.data if nid == GLOBAL]
    return [*told, _entry("m.push_rules", push_rules.as_content(first.rules, telling.caller.user_id))]


async def _of_account(telling: Telling, known: bool, changed: Iterable[stored.Entry]) -> list[bytes]:
    caller, since = telling.caller, telling.since
    if known:
        entries = [(entry.type, entry.content) for entry in changed if entry.room_nid == GLOBAL]
    else:
        rows = await caller.node.read(sliding.account_data, caller.user_nid, [GLOBAL], 0, telling.upto)
        entries, since = [(kind, content) for _, kind, content in rows], None
    told = [_entry(kind, content) for kind, content in entries]
    if since is None or caller.node.changes.changed(Stream.ACCOUNT_DATA, caller.user_nid, since):
        rules = await push_rules.changed(caller, since, telling.upto)
        if rules is not None:
            told.append(_entry("m.push_rules", rules))
    return told


def _entry(kind: str, content: bytes) -> bytes:
    return b'{"type":' + orjson.dumps(kind) + b',"content":' + content + b"}"


# typing -------------------------------------------------------------------------------------


class Typists:
    """In which rooms connections were last told that somebody types (``node.memory(Typists)``), by device row id and
    ``conn_id``: for a room that went out of sight meanwhile.
    """

    def __init__(self) -> None:
        self.told: Lru[tuple[int, str], set[int]] = Lru(50_000)


def _typing(
    telling: Telling, ledger: Ledger, scope: Collection[int], listed: RoomList, conn_id: str
) -> dict[str, bytes]:
    """Who is typing, where that has changed; and that it is nobody, where the connection was told otherwise."""
    node, found = telling.caller.node, {}
    memory, key = node.memory(Typists).told, (telling.caller.device_nid, conn_id)
    told = memory.get(key) or set()
    if not told and not typing_notices.changed(node, 0):
        return {}
    follows = len(scope) <= FOLLOWED or typing_notices.changed(node, telling.seen)
    for nid in scope if follows else told & set(scope):
        room = listed.rooms.get(nid)
        if room is None or room.membership != "join" or ledger.of(nid) is None:
            continue
        types = typing_notices.event_of(node, room.room_id, 0) is not None
        seen = telling.seen if nid in ledger.before.rooms and types == (nid in told) else int(nid in told)
        event = typing_notices.event_of(node, room.room_id, seen)
        if event is not None:
            found[room.room_id] = event
            (told.add if types else told.discard)(nid)
    if told:
        memory[key] = told
    else:
        memory.pop(key)
    return found
