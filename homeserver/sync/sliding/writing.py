"""The answer as bytes, in either form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from homeserver.sync.sliding.request import Form
from homeserver.sync.sliding.sticky import STICKY
from homeserver.sync.sliding.threads import THREADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from homeserver.e2ee.one_time_keys import Counts
    from homeserver.sync.sliding.extensions import Beside
    from homeserver.sync.sliding.request import Pos, Wish
    from homeserver.sync.sliding.room_list import RoomList
    from homeserver.sync.sliding.rooms import Told
    from homeserver.sync.sliding.selection import Selection, Shown

NAMED_AT_ONCE = 100
"""Rooms of a range that are named in the order of the list; clients know the order by themselves."""


def encoded(
    wish: Wish,
    pos: Pos,
    listed: RoomList,
    selection: Selection,
    told: Told,
    beside: Beside,
    counts: Counts | None,
) -> list[bytes]:
    """The JSON object of an answer. ``counts``: the keys that the device has left, where they are told."""
    parts = [b'{"pos":"%s"' % str(pos).encode()]
    if wish.txn_id is not None:
        parts.append(b',"txn_id":' + orjson.dumps(wish.txn_id))
    lists = {name: _list(wish.form, shown, listed) for name, shown in selection.shown.items()}
    parts += [b',"lists":', orjson.dumps(lists), b',"rooms":{']
    for number, (room_id, entry) in enumerate(told.entries.items()):
        parts += [b"," if number else b"", orjson.dumps(room_id), b":", entry]
    parts.append(b'},"extensions":{')
    for number, extension in enumerate(_extensions(wish, beside, counts)):
        parts += [b"," if number else b"", extension]
    parts.append(b"}}")
    return parts


def _list(form: Form, shown: Shown, listed: RoomList) -> dict[str, object]:
    found: dict[str, object] = {"count": shown.length}
    if form is Form.UNSTABLE:
        found["ops"] = [
            {"op": "SYNC", "range": list(range_), "room_ids": [_room_id(listed, nid) for nid in nids]}
            for range_, nids in shown.windows
            if len(nids) <= NAMED_AT_ONCE
        ]
    return found


def _room_id(listed: RoomList, nid: int) -> str:
    room = listed.find(nid)
    assert room is not None
    return room.room_id


def _extensions(wish: Wish, beside: Beside, counts: Counts | None) -> Iterator[bytes]:
    wanted = wish.extensions
    if wanted.to_device is not None:
        next_batch = orjson.dumps(beside.next_batch)
        yield b'"to_device":{"next_batch":' + next_batch + b',"events":[' + b",".join(beside.messages) + b"]}"
    if counts is not None:
        keys: dict[str, object] = {
            "device_one_time_keys_count": counts.one_time_keys,
            "device_unused_fallback_key_types": counts.unused_fallback,
        }
        if beside.e2ee is not None:
            keys["device_lists"] = {"changed": list(beside.e2ee[0]), "left": list(beside.e2ee[1])}
        yield b'"e2ee":' + orjson.dumps(keys)
    if wanted.account_data is not None:
        rooms = ((room_id, _array(entries)) for room_id, entries in beside.of_rooms.items())
        yield b'"account_data":{"global":' + _array(beside.of_account) + b',"rooms":' + _object(rooms) + b"}"
    if wanted.receipts is not None:
        yield b'"receipts":{"rooms":' + _object(beside.receipts.items()) + b"}"
    if wanted.typing is not None:
        yield b'"typing":{"rooms":' + _object(beside.typing.items()) + b"}"
    if beside.threads:
        yield orjson.dumps(THREADS) + b":" + orjson.dumps(beside.threads)
    if beside.sticky is not None:
        rooms = ((room_id, b'{"events":' + _array(events) + b"}") for room_id, events in beside.sticky.rooms.items())
        next_batch = orjson.dumps(beside.sticky.next_batch)
        yield orjson.dumps(STICKY) + b':{"next_batch":' + next_batch + b',"rooms":' + _object(rooms) + b"}"


def _array(entries: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(entries) + b"]"


def _object(entries: Iterable[tuple[str, bytes]]) -> bytes:
    return b"{" + b",".join(orjson.dumps(name) + b":" + value for name, value in entries) + b"}"
