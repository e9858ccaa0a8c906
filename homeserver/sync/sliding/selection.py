"""Which rooms a request is about: those in the ranges of its lists, and those that it subscribes to.

What a filter lets through is kept with the list of the user's rooms, and looked for anew only when something has
changed that could make a difference to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import orjson

from homeserver.protocol.client_format import content_of
from homeserver.storage import sliding
from homeserver.storage.streams import Stream
from homeserver.sync.sliding import marks, traits
from homeserver.sync.sliding.request import ALL_ROOMS, Config, Filters
from homeserver.sync.sliding.traits import OUTSIDE
from homeserver.sync.sliding.wanted import together

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from homeserver.context import Caller
    from homeserver.storage.sliding import Listed
    from homeserver.sync.sliding.request import Scope, WantedList, Wish
    from homeserver.sync.sliding.room_list import RoomList


class Shown(NamedTuple):
    """What is said of a list: how many rooms it has, and which of them are in each range."""

    length: int
    windows: Sequence[tuple[tuple[int, int], Sequence[int]]]


@dataclass(slots=True)
class Selection:
    """The rooms that a request is about, by row id, each with what is wanted of it from all sides.

    ``lists``: the rooms of each list that are in its ranges; ``subscribed``: row ids by room id.
    """

    rooms: dict[int, Config] = field(default_factory=dict)
    shown: dict[str, Shown] = field(default_factory=dict)
    lists: dict[str, Collection[int]] = field(default_factory=dict)
    subscribed: dict[str, int] = field(default_factory=dict)

    def within(self, scope: Scope) -> Collection[int]:
        """The rooms of which an extension tells."""
        if scope.lists is None and scope.rooms is None:
            return self.rooms.keys()
        found: set[int] = set()
        for name, nids in self.lists.items():
            if scope.lists is None or name in scope.lists:
                found.update(nids)
        for room_id, nid in self.subscribed.items():
            if scope.rooms is None or room_id in scope.rooms:
                found.add(nid)
        return found

    def names(self, room_nid: int) -> list[str]:
        """The lists that a room is in."""
        return [name for name, nids in self.lists.items() if room_nid in nids]


class Filtered(NamedTuple):
    """What the filters of a request let through. ``leaving``: rooms that the user has left and the connection knows: it
    is told of them once more.
    """

    leaving: Collection[int]
    passing: Mapping[Filters, Collection[int]]


async def filtered(caller: Caller, listed: RoomList, wish: Wish, told: Mapping[int, object]) -> Filtered:
    """Apply the filters of a request. ``told``: the rooms that the connection knows, by row id. Usually no trip."""
    leaving = listed.left.keys() & told.keys() if listed.left else set()
    passing = {
        wanted.filters: await _passing(caller, listed, wanted.filters, leaving)
        for wanted in wish.lists.values()
        if wanted.filters != ALL_ROOMS
    }
    return Filtered(leaving, passing)


def select(listed: RoomList, wish: Wish, filtered: Filtered) -> Selection:
    """What a request is about, by the order that the list has at this moment."""
    leaving, passing = filtered
    found = Selection()
    configs: dict[int, list[Config]] = {}
    for name, wanted in wish.lists.items():
        shown = found.shown[name] = _shown(listed, wanted, leaving, passing.get(wanted.filters))
        windows = [nids for _, nids in shown.windows]
        within = found.lists[name] = windows[0] if len(windows) == 1 else dict.fromkeys(n for w in windows for n in w)
        if len(wish.lists) == 1 and not wish.subscriptions:
            found.rooms = dict.fromkeys(within, wanted.config)
        else:
            for nid in within:
                configs.setdefault(nid, []).append(wanted.config)
        if not isinstance(within, dict):
            found.lists[name] = dict.fromkeys(within)
    for room_id, config in wish.subscriptions.items():
        subscribed = _subscribed(listed, room_id, leaving)
        if subscribed is not None:
            found.subscribed[room_id] = subscribed
            configs.setdefault(subscribed, []).append(config)
    if configs:
        known: dict[tuple[int, ...], Config] = {}
        found.rooms = {nid: _combined(each, known) for nid, each in configs.items()}
    return found


def _subscribed(listed: RoomList, room_id: str, leaving: Collection[int]) -> int | None:
    nid = listed.nids.get(room_id)
    if nid is not None:
        return nid
    return next((nid for nid in leaving if listed.left[nid].room_id == room_id), None)


def _combined(configs: Sequence[Config], known: dict[tuple[int, ...], Config]) -> Config:
    if len(configs) == 1:
        return configs[0]
    key = tuple(map(id, configs))
    found = known.get(key)
    if found is None:
        limit = max(config.limit for config in configs)
        found = known[key] = Config(limit, together(config.wanted for config in configs))
    return found


def _shown(listed: RoomList, wanted: WantedList, leaving: Collection[int], passing: Collection[int] | None) -> Shown:
    count = len(listed.rooms) + len(leaving) if passing is None else len(passing)
    if wanted.ranges is None:
        whole = [nid for nid in listed.ordered(leaving) if passing is None or nid in passing]
        return Shown(count, [((0, max(count - 1, 0)), whole)])
    furthest = max((end for _, end in wanted.ranges), default=-1)
    rooms = listed.ordered(leaving)
    chosen = rooms if passing is None else (nid for nid in rooms if nid in passing)
    first = list(islice(chosen, furthest + 1))
    return Shown(count, [((start, end), first[start : end + 1]) for start, end in wanted.ranges])


# filters ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Passing:
    """The rooms that a filter lets through, as of a position; ``watched``: those that could make a difference to it
    by what happens in them."""

    at: int
    rooms: frozenset[int]
    watched: Collection[int]


async def _passing(caller: Caller, listed: RoomList, filters: Filters, leaving: Collection[int]) -> Collection[int]:
    node = caller.node
    held = listed.passing.get(filters)
    changed = node.changes.changed
    if (
        leaving
        or not isinstance(held, _Passing)
        or (_is_sorted_by_user(filters) and changed(Stream.ACCOUNT_DATA, caller.user_nid, held.at))
        or any(changed(Stream.TIMELINE, nid, held.at) for nid in held.watched)
    ):
        held = await _filtered(caller, listed, filters, leaving)
        if not leaving:
            if len(listed.passing) > 20:
                listed.passing.clear()
            listed.passing[filters] = held
    return held.rooms


def _is_sorted_by_user(filters: Filters) -> bool:
    return filters.is_dm is not None or filters.tags is not None or bool(filters.not_tags)


async def _filtered(caller: Caller, listed: RoomList, filters: Filters, leaving: Collection[int]) -> _Passing:
    at = caller.node.position
    rooms: Iterable[Listed] = [*listed.rooms.values(), *(listed.left[nid] for nid in leaving)]
    watched: set[int] = set()
    if filters.is_invite is not None:
        rooms = [room for room in rooms if (room.membership == "invite") == filters.is_invite]
    if filters.is_dm is not None:
        direct = await marks.direct(caller)
        rooms = [room for room in rooms if (room.room_id in direct) == filters.is_dm]
    if filters.tags is not None or filters.not_tags:
        rooms = _tagged(rooms, await marks.tags(caller), filters)
    if filters.spaces is not None:
        spaces = [listed.nids[space] for space in filters.spaces if space in listed.nids]
        spaces = [nid for nid in spaces if listed.rooms[nid].membership == "join"]
        children = await _children(caller, spaces)
        rooms = [room for room in rooms if room.room_id in children]
        watched.update(spaces)
    if filters.is_encrypted is not None or filters.room_types is not None or filters.not_room_types:
        known = await traits.of_rooms(caller, rooms)
        watched.update(nid for nid, found in known.items() if not found.encrypted or not found.known)
        takes = _of_traits(filters, known)
        rooms = [room for room in rooms if takes(room)]
    return _Passing(at, frozenset(room.room_nid for room in rooms), watched)


def _tagged(rooms: Iterable[Listed], tags: Mapping[int, frozenset[str]], filters: Filters) -> list[Listed]:
    none: frozenset[str] = frozenset()
    return [
        room
        for room in rooms
        if not (filters.not_tags & tags.get(room.room_nid, none))
        and (filters.tags is None or filters.tags & tags.get(room.room_nid, none))
    ]


async def _children(caller: Caller, spaces: Collection[int]) -> set[str]:
    rows = await caller.node.read(sliding.children, spaces) if spaces else []
    return {child for child, client in rows if isinstance(orjson.loads(content_of(client)).get("via"), list)}


def _of_traits(filters: Filters, known: Mapping[int, traits.Traits]) -> Callable[[Listed], bool]:
    by_type = filters.room_types is not None or bool(filters.not_room_types)

    def takes(room: Listed) -> bool:
        found = known.get(room.room_nid, traits.UNKNOWN)
        if filters.is_encrypted is not None:
            unknown = not found.encrypted and (room.membership in OUTSIDE or not found.known)
            if unknown or found.encrypted != filters.is_encrypted:
                return False
        if not by_type:
            return True
        return (
            found.known
            and found.type not in filters.not_room_types
            and (filters.room_types is None or found.type in filters.room_types)
        )

    return takes
