"""Searching the names and topics of rooms."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from homeserver.protocol.errors import InvalidParam
from homeserver.rooms import history, readable, searching, showing, tokens
from homeserver.rooms.searching import Hit, Place, Search
from homeserver.sync import filters
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Caller, Server
    from homeserver.rooms.sight import Sight
    from homeserver.rooms.state import Room, Timed
    from homeserver.web.messages import Request

USUAL = 10
"""Results of a page when the filter does not say."""
AROUND = 5
"""Events before, and after, a result when the client does not say."""
MOST_AROUND = 50
KEYS = ("content.body", "content.name", "content.topic")
GROUPS = ("room_id", "sender")


@dataclass(frozen=True, slots=True)
class Token:
    """Where a page begins: behind a place; ``group``: within the results that have this value of this key."""

    after: Place
    group: tuple[str, str] | None = None

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(orjson.dumps([*self.after, *(self.group or ())])).decode()

    def begins(self, hit: Hit) -> bool:
        """Whether a hit is on the page that begins here, or on a later one."""
        return hit.place < self.after and (self.group is None or _group(hit, self.group[0]) == self.group[1])


@dataclass(frozen=True, slots=True)
class Around:
    """What is asked for around a result."""

    before: int
    after: int
    profiles: bool


@route(
    "POST",
    "/_matrix/client/v3/search",
    auth=Auth.USER,
    limit=Limit.DIRECTORY,
    also=["r0"],
    spec="client-server-api/#post_matrixclientv3search",
)
async def search(server: Server, request: Request) -> dict[str, Any]:
    """Events whose text has the words of a term."""
    categories = reading.mapping(request.json(), "search_categories", required=True)
    wish = reading.mapping(categories, "room_events")
    token = _token(request.query.get("next_batch"))
    return {"search_categories": {} if wish is None else {"room_events": await _search(server, request, wish, token)}}


async def _search(server: Server, request: Request, wish: Mapping[str, Any], token: Token | None) -> dict[str, Any]:
    caller = request.caller
    term = reading.text(wish, "search_term", required=True)
    keys = reading.strings(wish, "keys") or list(KEYS)
    if not set(keys) <= set(KEYS):
        raise InvalidParam(f"keys may hold: {', '.join(KEYS)}")
    chosen = filters.of_events(orjson.dumps(reading.mapping(wish, "filter") or {}).decode()) or filters.EventFilter()
    by_rank = reading.choice(wish, "order_by", ("recent", "rank"), "rank") == "rank"
    around, keyed = _around(reading.mapping(wish, "event_context")), _groupings(wish)
    include_state = reading.boolean(wish, "include_state")
    words = searching.words_of(term)
    everything = await searching.hits(
        caller, Search(words, keys, lambda room_id, row: chosen.within(room_id)(row), by_rank)
    )
    rest = everything if token is None else [hit for hit in everything if token.begins(hit)]
    limit = min(USUAL if chosen.limit is None else chosen.limit, server.settings.limits.page_size)
    page = rest[:limit]
    named = dict.fromkeys(hit.room_id for hit in page)
    rooms = {room_id: await searching.room_of(server, caller, room_id) for room_id in named}
    answer: dict[str, Any] = {
        "count": len(everything),
        "highlights": sorted(set(words)) if page else [],
        "results": [await _result(server, caller, *rooms[hit.room_id], hit, around) for hit in page],
    }
    if page and len(rest) > len(page):
        answer["next_batch"] = str(Token(page[-1].place, None if token is None else token.group))
    if include_state:
        answer["state"] = {room_id: await _state(server, caller, *rooms[room_id]) for room_id in rooms}
    if keyed:
        answer["groups"] = {key: _grouped(key, page, rest) for key in keyed}
    return answer


async def _result(
    server: Server, caller: Caller, room: Room, seen: Sight, hit: Hit, around: Around | None
) -> dict[str, Any]:
    (shown,) = await _show(server, caller, room, seen, [hit.event])
    found = {"rank": hit.rank, "result": shown}
    if around is None:
        return found
    pos = hit.event.pos
    before = await history.page(caller.node, room, seen, start=pos - 1, to=None, backwards=True, limit=around.before)
    after = await history.page(caller.node, room, seen, start=pos, to=None, backwards=False, limit=around.after)
    context: dict[str, Any] = {
        "start": tokens.between(before.start if before.end is None else before.end, caller.epoch),
        "end": tokens.between(caller.node.position if after.end is None else after.end, caller.epoch),
        "events_before": await _show(server, caller, room, seen, before.events),
        "events_after": await _show(server, caller, room, seen, after.events),
    }
    if around.profiles:
        senders = {event.sender for event in (*before.events, hit.event, *after.events)}
        context["profile_info"] = await searching.profiles(caller.node, room, senders, pos)
    return {**found, "context": context}


async def _show(
    server: Server, caller: Caller, room: Room, seen: Sight, events: Sequence[Timed]
) -> list[orjson.Fragment]:
    return [orjson.Fragment(event) for event in await showing.show_all(server, caller, room, seen, events)]


async def _state(server: Server, caller: Caller, room: Room, seen: Sight) -> list[orjson.Fragment]:
    rows = await readable.state_rows(caller.node, room, seen)
    now, room_id = server.clock.now_ms(), orjson.dumps(room.room_id)
    return [orjson.Fragment(showing.show_stored(row, now, room_id=room_id)) for row in rows]


def _grouped(key: str, page: Sequence[Hit], rest: Sequence[Hit]) -> dict[str, Any]:
    """The results of a page by a key, and where each group goes on; ``rest``: the page and all behind it."""
    groups: dict[str, list[Hit]] = {}
    for hit in page:
        groups.setdefault(_group(hit, key), []).append(hit)
    found: dict[str, Any] = {}
    for order, (value, members) in enumerate(groups.items()):
        found[value] = {"order": order, "results": [hit.event.event_id for hit in members]}
        onwards = Token(members[-1].place, (key, value))
        if any(onwards.begins(hit) for hit in rest):
            found[value]["next_batch"] = str(onwards)
    return found


def _group(hit: Hit, key: str) -> str:
    return hit.room_id if key == "room_id" else hit.event.sender


# reading ------------------------------------------------------------------------------------


def _token(text: str | None) -> Token | None:
    if text is None:
        return None
    try:
        match orjson.loads(base64.urlsafe_b64decode(text.encode())):
            case [float() | int() as rank, int(pos)]:
                return Token(Place(rank, pos))
            case [float() | int() as rank, int(pos), str(key), str(value)] if key in GROUPS:
                return Token(Place(rank, pos), (key, value))
    except (binascii.Error, ValueError):
        pass
    raise InvalidParam("That is no token of this server")


def _around(wish: dict[str, Any] | None) -> Around | None:
    if wish is None:
        return None
    before, after = (_count(wish, name) for name in ("before_limit", "after_limit"))
    return Around(before, after, reading.boolean(wish, "include_profile"))


def _count(wish: Mapping[str, Any], name: str) -> int:
    """How many events to show on one side. Raises BadJson, InvalidParam."""
    limit = reading.integer(wish, name, low=0)
    return AROUND if limit is None else min(limit, MOST_AROUND)


def _groupings(wish: Mapping[str, Any]) -> list[str]:
    asked = reading.mappings(reading.mapping(wish, "groupings") or {}, "group_by")
    found = [reading.choice(each, "key", GROUPS) for each in asked]
    return list(dict.fromkeys(key for key in found if key is not None))
