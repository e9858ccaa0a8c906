"""What the rules of a room look at in an event, so that they run on any class that has these attributes.

spec: server-server-api/#pdus
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

StateKey = tuple[str, str]
"""``(type, state_key)``: the place of a state event in a room's state."""

StateIds = Mapping[StateKey, str]
"""A state of a room, as event ids."""

CREATE: Final[StateKey] = ("m.room.create", "")
POWER_LEVELS: Final[StateKey] = ("m.room.power_levels", "")
JOIN_RULES: Final[StateKey] = ("m.room.join_rules", "")
HISTORY_VISIBILITY: Final[StateKey] = ("m.room.history_visibility", "")

MEMBER: Final = "m.room.member"
THIRD_PARTY_INVITE: Final = "m.room.third_party_invite"


class EventCore(Protocol):
    """The part of an event that exists before it has a place in the room's graph."""

    @property
    def type(self) -> str: ...
    @property
    def state_key(self) -> str | None:
        """None for an event that is not a state event."""

    @property
    def sender(self) -> str: ...
    @property
    def content(self) -> Mapping[str, Any]: ...


class EventView(EventCore, Protocol):
    """An event with its place in the room's graph."""

    @property
    def event_id(self) -> str: ...
    @property
    def room_id(self) -> str:
        """The room; of a create event that has no ``room_id``, its own id with the sigil ``!``."""

    @property
    def origin_server_ts(self) -> int:
        """Milliseconds since the epoch, as its sender claims."""

    @property
    def prev_events(self) -> Sequence[str]:
        """Event ids."""

    @property
    def auth_events(self) -> Sequence[str]:
        """Event ids."""

    @property
    def depth(self) -> int:
        """One more than the greatest depth of ``prev_events``, as claimed."""

    @property
    def redacts(self) -> str | None:
        """The event that an m.room.redaction names, wherever the room version has it."""


State = Mapping[StateKey, EventView]
"""The state of a room, or as much of it as a rule needs."""
