"""Power levels: who may do how much in a room, and which changes of m.room.power_levels a sender may make.

Reading never fails: whatever an old room version let into the event counts as absent if it is not a level.

spec: client-server-api/#mroompower_levels
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol.identifiers import is_user_id
from homeserver.protocol.rejection import Rejected
from homeserver.protocol.versions import MAX_INTEGER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from homeserver.protocol.event_view import EventCore, EventView
    from homeserver.protocol.versions import RoomRules

UNLIMITED: Final = 2**63
"""The level of creators where they are above every integer; comparisons need no case of their own."""

_DEFAULTS: Final[Mapping[str, int]] = {
    "users_default": 0,
    "events_default": 0,
    "state_default": 50,
    "ban": 50,
    "redact": 50,
    "kick": 50,
    "invite": 0,
}
_CREATOR_WITHOUT_EVENT: Final = 100
_NOTHING: Final[Mapping[str, Any]] = {}
_WRITTEN_INTEGER: Final = re.compile(r"\s*([+-]?)0*([0-9]{1,16})\s*")


class Levels:
    """The power levels of a room at one moment, from its m.room.create and m.room.power_levels (None if it has none).

    Cheap to make: nothing is parsed before it is asked for.
    """

    __slots__ = ("_content", "_create", "_rules", "_users")

    def __init__(self, rules: RoomRules, create: EventCore | None, power_levels: EventCore | None) -> None:
        self._rules = rules
        self._create = create
        self._content = None if power_levels is None else power_levels.content
        users = None if self._content is None else self._content.get("users")
        self._users: Mapping[str, Any] = users if isinstance(users, Mapping) else _NOTHING

    def of(self, user_id: str) -> int:
        """The level of a user; UNLIMITED for creators in room versions that have it so."""
        create = self._create
        if self._rules.creators_unlimited:
            if create is not None and is_creator(create, user_id):
                return UNLIMITED
        elif self._content is None:
            is_first = create is not None and user_id == creator_of(self._rules, create)
            return _CREATOR_WITHOUT_EVENT if is_first else 0
        value = self._users.get(user_id)
        level = value if type(value) is int else parse_level(self._rules, value)
        return self.named("users_default") if level is None else level

    def to_send(self, event_type: str, *, is_state: bool) -> int:
        """The *required power level* of an event type. spec: server-server-api/#definitions"""
        events = None if self._content is None else self._content.get("events")
        if isinstance(events, Mapping):
            value = events.get(event_type)
            level = value if type(value) is int else parse_level(self._rules, value)
            if level is not None:
                return level
        return self.named("state_default" if is_state else "events_default")

    def to_notify(self, name: str) -> int:
        """The level that is needed for the notification ``name``, such as ``room``: 50 unless the event says other.

        spec: client-server-api/#mroompower_levels
        """
        notifications = None if self._content is None else self._content.get("notifications")
        level = parse_level(self._rules, notifications.get(name)) if isinstance(notifications, Mapping) else None
        return 50 if level is None else level

    def named(self, name: str) -> int:
        """The level called ``users_default``, ``events_default``, ``state_default``, ``ban``, ``redact``, ``kick`` or
        ``invite``, or its default."""
        value = None if self._content is None else self._content.get(name)
        level = value if type(value) is int else parse_level(self._rules, value)
        return _DEFAULTS[name] if level is None else level

    @property
    def invite(self) -> int:
        return self.named("invite")

    @property
    def kick(self) -> int:
        return self.named("kick")

    @property
    def ban(self) -> int:
        return self.named("ban")

    @property
    def redact(self) -> int:
        return self.named("redact")


def creator_of(rules: RoomRules, create: EventCore) -> object:
    """The one who made the room: ``content.creator`` or the sender, by version. Anything may stand in the content."""
    return create.content.get("creator") if rules.create_has_creator else create.sender


def is_creator(create: EventCore, user_id: str) -> bool:
    """Whether a user is among the *room creators*, where the room version has them. spec: rooms/v12/#event-format"""
    if user_id == create.sender:
        return True
    additional = create.content.get("additional_creators")
    return isinstance(additional, list) and user_id in additional


def parse_level(rules: RoomRules, value: object) -> int | None:
    """A level as it stands in an event, or None if it is none in this room version.

    spec: rooms/v9/#mroompower_levels-events-accept-values-as-strings
    """
    if type(value) is int:
        return value
    if rules.integer_power_levels:
        return None
    if type(value) is str:
        match = _WRITTEN_INTEGER.fullmatch(value)
        level = int(match[1] + match[2]) if match else None
        return level if level is not None and abs(level) <= MAX_INTEGER else None
    if type(value) is float and not rules.strict_canonical_json and isfinite(value):
        return int(value)
    return None


def check_change(
    rules: RoomRules, event: EventCore, create: EventCore, current: EventView | None, sender_level: int
) -> None:
    """The rules for an m.room.power_levels event that is to replace ``current``. Raises Rejected.

    spec: rooms/v12/#authorisation-rules
    """
    new = event.content
    _check_form(rules, new)
    _check_users(rules, new.get("users", _NOTHING), create)
    if current is None:
        return
    old = current.content
    for _name, before, after in _alterations(rules, old, new, _DEFAULTS):
        _check_reach(before, after, sender_level)
    for part in ("events", "notifications") if rules.notification_levels_checked else ("events",):
        for _type, before, after in _entries_altered(rules, old, new, part):
            _check_reach(before, after, sender_level)
    for user_id, before, after in _entries_altered(rules, old, new, "users"):
        if before is not None and before >= sender_level and user_id != event.sender:
            raise Rejected("The power level of a user who is not below the sender cannot be changed")
        if after is not None and after > sender_level:
            raise Rejected("The sender cannot give a power level above their own")


def _check_form(rules: RoomRules, content: Mapping[str, Any]) -> None:
    if not rules.integer_power_levels:
        return
    for name in _DEFAULTS:
        if name in content and type(content[name]) is not int:
            raise Rejected(f"The power level {name} is not an integer")
    for part in ("events", "notifications"):
        if part in content and not _is_table(rules, content[part]):
            raise Rejected(f"In the power levels, {part} is not an object of integers")


def _check_users(rules: RoomRules, users: object, create: EventCore) -> None:
    if not isinstance(users, Mapping) or not _is_table(rules, users):
        raise Rejected("In the power levels, users is not an object of integers")
    if not all(map(is_user_id, users)):
        raise Rejected("In the power levels, users has a key that is not a user ID")
    if rules.creators_unlimited and any(is_creator(create, user) for user in users):
        raise Rejected("The power levels must not list a creator of the room")


def _is_table(rules: RoomRules, value: object) -> bool:
    return isinstance(value, Mapping) and all(parse_level(rules, level) is not None for level in value.values())


def _check_reach(before: int | None, after: int | None, sender_level: int) -> None:
    if before is not None and before > sender_level:
        raise Rejected("The sender cannot change a power level that is above their own")
    if after is not None and after > sender_level:
        raise Rejected("The sender cannot raise a power level above their own")


def _entries_altered(
    rules: RoomRules, old: Mapping[str, Any], new: Mapping[str, Any], part: str
) -> Iterator[tuple[str, int | None, int | None]]:
    before, after = old.get(part), new.get(part)
    before = before if isinstance(before, Mapping) else _NOTHING
    after = after if isinstance(after, Mapping) else _NOTHING
    return _alterations(rules, before, after, before.keys() | after.keys())


def _alterations(
    rules: RoomRules, old: Mapping[str, Any], new: Mapping[str, Any], names: Any
) -> Iterator[tuple[str, int | None, int | None]]:
    """``(name, level before, level after)`` of what was added, changed or removed; None where it stands in no event."""
    for name in names:
        before, after = parse_level(rules, old.get(name)), parse_level(rules, new.get(name))
        if before != after:
            yield name, before, after
