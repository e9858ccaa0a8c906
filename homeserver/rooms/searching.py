"""Searching the names and topics of the rooms in which a user is, or was.

Messages are ciphertext to a server, and are not searched: clients do that. Every word of the term must begin a word of
the text.

spec: client-server-api/#server-side-search
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from homeserver.accounts import ignored
from homeserver.protocol.client_format import content_of
from homeserver.protocol.event_view import MEMBER
from homeserver.rooms import sight, state
from homeserver.rooms.state import timed
from homeserver.runtime.parts import in_parts
from homeserver.storage import events, room_texts, rooms
from homeserver.storage import state as stored_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from homeserver.context import Caller, Server
    from homeserver.rooms.sight import Sight
    from homeserver.rooms.state import Room, Timed
    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node

AT_ONCE: Final = 200
"""Rooms that are read in one trip."""

KEYS: Final = {"content.name": "m.room.name", "content.topic": "m.room.topic"}
"""By the key that is searched: the type of the events that have it."""

_WORD: Final = re.compile(r"\w+")


class Place(NamedTuple):
    """Where a hit stands among all, the best first when these are sorted downwards."""

    rank: float
    pos: int


class Hit(NamedTuple):
    """An event that was found. ``rank``: how closely it fits, also where that is not the order."""

    place: Place
    room_id: str
    event: Timed
    rank: float


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched. ``takes``: whether the filter lets an event of a room pass; ``by_rank``: the order."""

    words: Sequence[str]
    keys: Sequence[str]
    takes: Callable[[str, StoredEvent], bool]
    by_rank: bool


def words_of(text: str) -> list[str]:
    """The words of a term or a text, in lower case."""
    return _WORD.findall(text.lower())


async def hits(caller: Caller, search: Search) -> list[Hit]:
    """Everything that fits and that the caller may see, in the order that is asked for."""
    node = caller.node
    types = [KEYS[key] for key in search.keys if key in KEYS]
    room_ids = {each.room_nid: each.room_id for each in await node.read(rooms.memberships_of, caller.user_nid)}
    room_nids = list(room_ids) if search.words and types else []
    fitting: list[tuple[int, float, StoredEvent]] = []
    for part in in_parts(room_nids, AT_ONCE):
        for room_nid, row in await node.read(room_texts.said, part, types):
            rank = _rank(search, row)
            if rank > 0 and search.takes(room_ids[room_nid], row):
                fitting.append((room_nid, rank, row))
    seen = await sight.of_rooms(node, sorted({room_nid for room_nid, *_ in fitting}), caller.user_id)
    hidden = await ignored.of_user(node, caller.user_nid)
    found = [
        Hit(Place(rank if search.by_rank else 0, row.pos or 0), room_ids[room_nid], timed(row), rank)
        for room_nid, rank, row in fitting
        if row.sender not in hidden and seen[room_nid].sees(timed(row))
    ]
    return sorted(found, key=lambda hit: hit.place, reverse=True)


def _rank(search: Search, row: StoredEvent) -> float:
    """How closely an event fits, between 0 (not at all) and 1."""
    content = orjson.loads(content_of(row.client))
    return max((_fit(search.words, words_of(text)) for text in _texts(row.type, content)), default=0)


def _texts(kind: str, content: Mapping[str, object]) -> Iterable[str]:
    for name in ("name",) if kind == "m.room.name" else ("topic",):
        value = content.get(name)
        if isinstance(value, str):
            yield value
    rich = content.get("m.topic")
    parts = rich.get("m.text") if isinstance(rich, dict) else None
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, dict) and part.get("mimetype", "text/plain") == "text/plain":
            body = part.get("body")
            if isinstance(body, str):
                yield body


def _fit(wanted: Sequence[str], words: Sequence[str]) -> float:
    """The share of the words that are asked for, where one that only begins with such a word counts half."""
    whole, total = set(words), 0.0
    for word in wanted:
        if word in whole:
            total += 1
        elif any(each.startswith(word) for each in words):
            total += 0.5
        else:
            return 0
    return total / max(len(wanted), len(words))


# what stands around a hit -------------------------------------------------------------------


async def room_of(server: Server, caller: Caller, room_id: str) -> tuple[Room, Sight]:
    """The room of a hit, and what the caller may see of it."""
    room = await state.get(caller.node, room_id)
    return room, await sight.of_room(caller.node, room, caller.user_id)


async def profiles(node: Node, room: Room, senders: Iterable[str], pos: int) -> dict[str, dict[str, str]]:
    """How users called themselves when the event at ``pos`` happened, by user id."""
    return await node.read(_profiles, room.nid, sorted(set(senders)), pos)


async def _profiles(tx: Transaction, room_nid: int, senders: Sequence[str], pos: int) -> dict[str, dict[str, str]]:
    nids = {user_id: await stored_state.key_at(tx, room_nid, MEMBER, user_id, pos) for user_id in senders}
    rows = await events.by_nids(tx, {nid for nid in nids.values() if nid is not None})
    shown = {row.state_key: orjson.loads(content_of(row.client)) for row in rows}
    return {
        user_id: {name: content[name] for name in ("displayname", "avatar_url") if isinstance(content.get(name), str)}
        for user_id, content in ((user_id, shown.get(user_id, {})) for user_id in senders)
    }
