"""What a filter may look like; how it is applied is said where syncs and pages are made.

Names that the specification does not know are left alone: they are for other servers, or from a later version.

spec: client-server-api/#filtering
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from homeserver.protocol.errors import BadJson, InvalidParam
from homeserver.protocol.identifiers import is_room_id, is_user_id

Check = Callable[[str, Any], None]


def check(definition: Mapping[str, Any]) -> None:
    """Raise BadJson or InvalidParam unless this is a filter for /sync.

    spec: client-server-api/#post_matrixclientv3useruseridfilter
    """
    _fields("", definition, _FILTER)


def check_events(definition: Mapping[str, Any]) -> None:
    """Raise BadJson or InvalidParam unless this is a RoomEventFilter, as /messages and /context take it.

    spec: client-server-api/#get_matrixclientv3roomsroomidmessages
    """
    _fields("", definition, _ROOM_EVENT_FILTER)


def _fields(path: str, definition: Any, checks: Mapping[str, Check]) -> None:
    if not isinstance(definition, dict):
        raise BadJson(f"{path or 'A filter'} must be an object")
    for name, value in definition.items():
        known = checks.get(name)
        if known is not None:
            known(f"{path}.{name}" if path else name, value)


def _boolean(path: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise BadJson(f"{path} must be true or false")


def _limit(path: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadJson(f"{path} must be a whole number")
    if value < 0:
        raise InvalidParam(f"{path} must not be negative")


def _strings(path: str, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BadJson(f"{path} must be a list of strings")


def _user_ids(path: str, value: Any) -> None:
    _strings(path, value)
    if not all(is_user_id(item) for item in value):
        raise InvalidParam(f"{path} must be a list of user IDs")


def _room_ids(path: str, value: Any) -> None:
    _strings(path, value)
    if not all(is_room_id(item) for item in value):
        raise InvalidParam(f"{path} must be a list of room IDs")


def _format(path: str, value: Any) -> None:
    if not isinstance(value, str):
        raise BadJson(f"{path} must be a string")
    if value not in ("client", "federation"):
        raise InvalidParam(f"{path} must be client or federation")


def _nested(checks: Mapping[str, Check]) -> Check:
    return lambda path, value: _fields(path, value, checks)


_EVENT_FILTER: Final[Mapping[str, Check]] = {
    "limit": _limit,
    "senders": _user_ids,
    "not_senders": _user_ids,
    "types": _strings,
    "not_types": _strings,
}
_ROOM_EVENT_FILTER: Final[Mapping[str, Check]] = {
    **_EVENT_FILTER,
    "rooms": _room_ids,
    "not_rooms": _room_ids,
    "contains_url": _boolean,
    "lazy_load_members": _boolean,
    "include_redundant_members": _boolean,
    "unread_thread_notifications": _boolean,
}
_ROOM_FILTER: Final[Mapping[str, Check]] = {
    "rooms": _room_ids,
    "not_rooms": _room_ids,
    "include_leave": _boolean,
    "account_data": _nested(_ROOM_EVENT_FILTER),
    "ephemeral": _nested(_ROOM_EVENT_FILTER),
    "state": _nested(_ROOM_EVENT_FILTER),
    "timeline": _nested(_ROOM_EVENT_FILTER),
}
_FILTER: Final[Mapping[str, Check]] = {
    "event_fields": _strings,
    "event_format": _format,
    "presence": _nested(_EVENT_FILTER),
    "account_data": _nested(_EVENT_FILTER),
    "room": _nested(_ROOM_FILTER),
}
