"""What a room hands on to the one that replaces it: contents of state events, as the new version has to have them.

spec: client-server-api/#room-upgrades
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol.encryption_rules import MEGOLM, ROTATION_PERIOD_MS, ROTATION_PERIOD_MSGS
from homeserver.protocol.identifiers import is_user_id
from homeserver.protocol.power_levels import UNLIMITED, Levels, parse_level

if TYPE_CHECKING:
    from homeserver.protocol.event_view import EventCore
    from homeserver.protocol.versions import RoomRules

TOMBSTONE: Final = "m.room.tombstone"

_TOP: Final = 100
_ABOVE_TOP: Final = 150
_NAMED: Final = ("users_default", "events_default", "state_default", "ban", "redact", "kick", "invite")
_TABLES: Final = ("users", "events", "notifications")


def power_levels(
    old_rules: RoomRules,
    create: EventCore | None,
    current: EventCore | None,
    rules: RoomRules,
    upgrader: str,
    creators: Collection[str] = (),
) -> dict[str, Any]:
    """The content of m.room.power_levels that gives everybody in the new room the level that they had.

    ``create`` and ``current`` are the m.room.create and m.room.power_levels of the old room; ``creators`` those whom
    the new m.room.create names besides the upgrader. What is no level in the new version is left out. Creators of a
    room are no more than others in the next, unless they are named; where the new version has none above all
    others, the upgrader who was one gets a level that is not below any.
    """
    levels = Levels(old_rules, create, current)
    content = {} if current is None else _readable(old_rules, current.content)
    users: dict[str, int] = content.setdefault("users", {})
    if current is None and not old_rules.creators_unlimited and create is not None:
        users[create.sender] = levels.of(create.sender)
    if rules.creators_unlimited:
        for user_id in {upgrader, *creators}:
            users.pop(user_id, None)
        if not old_rules.creators_unlimited and levels.to_send(TOMBSTONE, is_state=True) >= _TOP:
            content.setdefault("events", {})[TOMBSTONE] = max(
                _ABOVE_TOP, levels.to_send(TOMBSTONE, is_state=True)
            )  # what needed the top level is for the creators now
    elif levels.of(upgrader) == UNLIMITED:
        users[upgrader] = _highest(content)
    return content


def _readable(rules: RoomRules, content: Mapping[str, Any]) -> dict[str, Any]:
    """The levels of a room as integers, without what counts for nothing."""
    kept: dict[str, Any] = {
        name: level for name in _NAMED if (level := parse_level(rules, content.get(name))) is not None
    }
    for part in _TABLES:
        table = content.get(part)
        if isinstance(table, Mapping):
            read = {key: level for key, value in table.items() if (level := parse_level(rules, value)) is not None}
            kept[part] = {key: level for key, level in read.items() if part != "users" or is_user_id(key)}
    return kept


def _highest(content: Mapping[str, Any]) -> int:
    """The highest level that stands in power levels, or that somebody has where none does."""
    named: list[int] = [content[name] for name in _NAMED if name in content]
    listed: list[int] = [level for part in _TABLES for level in content.get(part, {}).values()]
    return max([_TOP, *named, *listed])


def while_furnishing(content: Mapping[str, Any], rules: RoomRules, upgrader: str) -> dict[str, Any]:
    """The same power levels, but the upgrader may set all state, until the room is as the old one was."""
    if rules.creators_unlimited:
        return dict(content)
    return {**content, "users": {**content.get("users", {}), upgrader: _highest(content)}}


def encryption(current: Mapping[str, Any] | None) -> dict[str, Any]:
    """The content of m.room.encryption for the new room: that of the old one, but never weaker than a new room's."""
    content = {**({} if current is None else current), "algorithm": MEGOLM}
    for name, most in (("rotation_period_ms", ROTATION_PERIOD_MS), ("rotation_period_msgs", ROTATION_PERIOD_MSGS)):
        period = content.pop(name, None)
        if type(period) is int and 0 < period <= most:
            content[name] = period
    return content


def join_rules(current: Mapping[str, Any] | None, rules: RoomRules) -> dict[str, Any]:
    """The content of m.room.join_rules for the new room: by invitation only, where its version has not that rule."""
    content = {"join_rule": "invite"} if current is None else dict(current)
    known = {"knock": rules.knock, "restricted": rules.restricted_join, "knock_restricted": rules.knock_restricted}
    rule = content.get("join_rule")
    if isinstance(rule, str) and known.get(rule, True):
        return content
    if rule == "knock_restricted" and rules.restricted_join:
        return {**content, "join_rule": "restricted"}
    return {"join_rule": "invite"}


def closing(rules: RoomRules, current: EventCore | None) -> dict[str, Any] | None:
    """The power levels with which few can still speak in the old room, or invite; None if that is so already.

    Levels are raised only.
    """
    levels = Levels(rules, None, current)
    least = max(50, levels.named("users_default") + 1)
    changes = {name: least for name in ("events_default", "invite") if levels.named(name) < least}
    return {**({} if current is None else current.content), **changes} if changes and current is not None else None
