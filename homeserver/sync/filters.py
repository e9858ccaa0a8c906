"""Filters as `/sync` and its relatives apply them: compiled once from a definition that has been checked.

spec: client-server-api/#filtering
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from homeserver.accounts import filters as stored
from homeserver.protocol import filter_schema
from homeserver.protocol.client_format import content_of
from homeserver.protocol.errors import BadJson, InvalidParam

if TYPE_CHECKING:
    from homeserver.context import Caller
    from homeserver.rooms.state import Timed
    from homeserver.storage.events import StoredEvent

Matcher = Callable[[str], bool]

DEFAULT_TIMELINE = 10


def _any_of(patterns: Sequence[str]) -> Matcher:
    """Whether a type is one of these, where ``*`` stands for any characters."""
    literal = frozenset(pattern for pattern in patterns if "*" not in pattern)
    wild = [pattern for pattern in patterns if "*" in pattern]
    if not wild:
        return literal.__contains__
    form = re.compile("|".join(".*".join(re.escape(piece) for piece in pattern.split("*")) for pattern in wild), re.S)
    return lambda text: text in literal or form.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class RoomFilter:
    """Which rooms a filter, or a part of one, is about."""

    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()

    def has_room(self, room_id: str) -> bool:
        """Whether it is about the room."""
        return (self.rooms is None or room_id in self.rooms) and room_id not in self.not_rooms


@dataclass(frozen=True, slots=True)
class EventFilter(RoomFilter):
    """One of a filter's parts. None in a field: it lets everything through."""

    limit: int | None = None
    types: Matcher | None = None
    not_types: Matcher | None = None
    senders: frozenset[str] | None = None
    not_senders: frozenset[str] = frozenset()
    contains_url: bool | None = None
    lazy_members: bool = False
    redundant_members: bool = False
    thread_counts: bool = False

    @property
    def open(self) -> bool:
        """Whether every event passes."""
        return (
            self.types is None
            and self.not_types is None
            and self.senders is None
            and not self.not_senders
            and self.contains_url is None
        )

    def takes(self, kind: str, sender: str) -> bool:
        """Whether the type and the sender of an event pass."""
        return (
            (self.types is None or self.types(kind))
            and (self.not_types is None or not self.not_types(kind))
            and (self.senders is None or sender in self.senders)
            and sender not in self.not_senders
        )

    def within(self, room_id: str) -> Callable[[Timed | StoredEvent], bool]:
        """What tells which events of a room pass."""
        return self.passes if self.has_room(room_id) else lambda _: False

    def passes(self, event: Timed | StoredEvent) -> bool:
        """Whether an event of a timeline or of the state passes."""
        if not self.takes(event.type, event.sender):
            return False
        if self.contains_url is None:
            return True
        return isinstance(orjson.loads(content_of(event.client)).get("url"), str) == self.contains_url


@dataclass(frozen=True, slots=True)
class SyncFilter(RoomFilter):
    """A whole filter, but for ``event_fields``: events are always given whole, which the specification allows."""

    include_leave: bool = False
    timeline: EventFilter = field(default_factory=EventFilter)
    state: EventFilter = field(default_factory=EventFilter)
    ephemeral: EventFilter = field(default_factory=EventFilter)
    room_account_data: EventFilter = field(default_factory=EventFilter)
    presence: EventFilter = field(default_factory=EventFilter)
    account_data: EventFilter = field(default_factory=EventFilter)
    federation_format: bool = False

    @property
    def timeline_limit(self) -> int:
        """Events of a timeline that are asked for in one answer."""
        return DEFAULT_TIMELINE if self.timeline.limit is None else self.timeline.limit


EVERYTHING = SyncFilter()


def _rooms(part: dict[str, Any]) -> tuple[frozenset[str] | None, frozenset[str]]:
    return _strings(part, "rooms"), _strings(part, "not_rooms") or frozenset()


def _strings(part: dict[str, Any], name: str) -> frozenset[str] | None:
    found = part.get(name)
    return None if found is None else frozenset(found)


def _part(part: dict[str, Any] | None) -> EventFilter:
    if not part:
        return EventFilter()
    types, not_types = part.get("types"), part.get("not_types")
    return EventFilter(
        *_rooms(part),
        part.get("limit"),
        None if types is None else _any_of(types),
        _any_of(not_types) if not_types else None,
        _strings(part, "senders"),
        _strings(part, "not_senders") or frozenset(),
        part.get("contains_url"),
        bool(part.get("lazy_load_members")),
        bool(part.get("include_redundant_members")),
        bool(part.get("unread_thread_notifications")),
    )


@lru_cache(maxsize=2000)
def _compiled(definition: bytes) -> SyncFilter:
    whole = orjson.loads(definition)
    room = whole.get("room") or {}
    return SyncFilter(
        *_rooms(room),
        bool(room.get("include_leave")),
        _part(room.get("timeline")),
        _part(room.get("state")),
        _part(room.get("ephemeral")),
        _part(room.get("account_data")),
        _part(whole.get("presence")),
        _part(whole.get("account_data")),
        whole.get("event_format") == "federation",
    )


class Known:
    """Filters by id that were read lately (``node.memory(Known)``): they never change."""

    def __init__(self) -> None:
        self.by_id: dict[tuple[int, str], SyncFilter] = {}


async def of_sync(caller: Caller, text: str | None) -> SyncFilter:
    """The filter that a request names: the id of one of the caller's, or JSON.

    Raises NotFound, BadJson, InvalidParam.
    """
    if not text:
        return EVERYTHING
    if text.startswith("{"):
        definition = _parse(text)
        filter_schema.check(definition)
        return _compiled(text.encode())
    known = caller.node.memory(Known).by_id
    found = known.get((caller.user_nid, text))
    if found is None:
        found = _compiled(await stored.find(caller, text))
        if len(known) > 10_000:
            known.clear()
        known[caller.user_nid, text] = found
    return found


def of_events(text: str | None) -> EventFilter | None:
    """The filter of a request for events, as JSON; None when it has none. Raises BadJson, InvalidParam."""
    if not text:
        return None
    definition = _parse(text)
    filter_schema.check_events(definition)
    return _part(definition)


def _parse(text: str) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except ValueError:
        raise InvalidParam("'filter' is neither the ID of a filter nor JSON") from None
    if not isinstance(found, dict):
        raise BadJson("'filter' must be an object")
    return found
