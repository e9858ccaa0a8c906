"""Reading requests of sliding sync, in either form: that of ``org.matrix.simplified_msc3575``, which clients speak, and
that of the text which the specification has accepted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol.errors import BadJson, InvalidParam, UnknownPos
from homeserver.rooms import tokens
from homeserver.sync.sliding import wanted
from homeserver.sync.sliding.request import (
    Config,
    Extensions,
    Filters,
    Form,
    Inbox,
    Pos,
    Scope,
    StickyWish,
    WantedList,
    Wish,
)
from homeserver.sync.sliding.sticky import STICKY
from homeserver.sync.sliding.threads import THREADS
from homeserver.web import reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Caller
    from homeserver.sync.sliding.wanted import Wanted

MOST: Final = 100
"""Lists, and subscriptions, of a request."""
MOST_RANGES: Final = 100
MOST_STATE: Final = 1000
"""Elements of one ``required_state``."""
MOST_TIMELINE: Final = 1000
MOST_MESSAGES: Final = 100
MOST_THREADS: Final = 100
MOST_STICKY: Final = 100
NAME_BYTES: Final = 64
CONN_ID: Final = 255
FURTHEST: Final = 2**31

_POS: Final = re.compile(r"(\d{1,16})/(s\d{1,18}_\d{1,18})")
_POSITION: Final = re.compile(r"\d{1,18}")

Body = "Mapping[str, Any]"


def pos(text: str | None) -> Pos | None:
    """A position that the client was given. Raises UnknownPos."""
    if text is None:
        return None
    found = _POS.fullmatch(text)
    if found is None:
        raise UnknownPos("That position is none of this server")
    return Pos(int(found[1]), tokens.parse(found[2]))


def wish(form: Form, caller: Caller, body: Mapping[str, Any], at: Pos | None, timeout: int) -> Wish:
    """What a body asks. Raises BadJson, InvalidParam, MissingParam."""
    lists = {_name(name): _list(form, caller, each) for name, each in _objects(body, "lists").items()}
    rooms = {room: _config(form, caller, each) for room, each in _objects(body, "room_subscriptions").items()}
    conn_id = reading.text(body, "conn_id") or ""
    if len(conn_id) > CONN_ID:
        raise InvalidParam(f"'conn_id' has at most {CONN_ID} characters")
    return Wish(
        form,
        conn_id,
        at,
        timeout,
        lists,
        rooms,
        _extensions(reading.mapping(body, "extensions") or {}),
        reading.text(body, "txn_id"),
    )


def _objects(body: Mapping[str, Any], field: str) -> dict[str, dict[str, Any]]:
    found = reading.mapping(body, field) or {}
    if len(found) > MOST:
        raise InvalidParam(f"'{field}' has at most {MOST} entries")
    if not all(isinstance(each, dict) for each in found.values()):
        raise BadJson(f"'{field}' must be an object of objects")
    return found


def _name(name: str) -> str:
    if len(name.encode(errors="replace")) > NAME_BYTES:
        raise InvalidParam(f"The name of a list has at most {NAME_BYTES} bytes")
    return name


# lists --------------------------------------------------------------------------------------


def _list(form: Form, caller: Caller, body: Mapping[str, Any]) -> WantedList:
    filters = _filters(form, reading.mapping(body, "filters") or {})
    if form is Form.STABLE:
        whole = body.get("range")
        return WantedList(_config(form, caller, body), None if whole is None else (_range(whole),), filters)
    ranges = reading.array(body, "ranges")
    if len(ranges) > MOST_RANGES:
        raise InvalidParam(f"'ranges' has at most {MOST_RANGES} entries")
    return WantedList(_config(form, caller, body), tuple(_range(each) for each in ranges), filters)


def _range(value: object) -> tuple[int, int]:
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(isinstance(end, int) and not isinstance(end, bool) for end in value)
    ):
        raise BadJson("A range must be an array of two integers")
    start, end = value
    if not 0 <= start <= end:
        raise InvalidParam("A range begins at 0 or later, and does not end before it begins")
    return min(start, FURTHEST), min(end, FURTHEST)


def _filters(form: Form, body: Mapping[str, Any]) -> Filters:
    return Filters(
        _flag(body, "is_dm"),
        _flag(body, "is_encrypted"),
        _flag(body, "is_invited" if form is Form.STABLE else "is_invite"),
        _types(body, "room_types"),
        _types(body, "not_room_types") or frozenset(),
        _words(body, "tags"),
        _words(body, "not_tags") or frozenset(),
        _words(body, "spaces"),
    )


def _flag(body: Mapping[str, Any], name: str) -> bool | None:
    return None if body.get(name) is None else reading.boolean(body, name)


def _words(body: Mapping[str, Any], name: str) -> frozenset[str] | None:
    return None if body.get(name) is None else frozenset(reading.strings(body, name))


def _types(body: Mapping[str, Any], name: str) -> frozenset[str | None] | None:
    """Types of rooms, null being that of those without one."""
    if body.get(name) is None:
        return None
    found = reading.array(body, name)
    if not all(each is None or isinstance(each, str) for each in found):
        raise BadJson(f"'{name}' must be an array of strings and null")
    return frozenset(found)


# rooms --------------------------------------------------------------------------------------


def _config(form: Form, caller: Caller, body: Mapping[str, Any]) -> Config:
    limit = reading.integer(body, "timeline_limit", low=0) or 0
    if limit > MOST_TIMELINE:
        raise InvalidParam(f"'timeline_limit' is at most {MOST_TIMELINE}")
    return Config(limit, _stable_state(caller, body) if form is Form.STABLE else _unstable_state(caller, body))


def _unstable_state(caller: Caller, body: Mapping[str, Any]) -> Wanted:
    pairs = reading.array(body, "required_state")
    _check_size(pairs)
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(each, str) for each in pair):
            raise BadJson("'required_state' must be an array of pairs of strings")
    return wanted.of_pairs([(pair[0], pair[1]) for pair in pairs], caller.user_id)


def _stable_state(caller: Caller, body: Mapping[str, Any]) -> Wanted:
    found = reading.mapping(body, "required_state") or {}
    return wanted.of_elements(
        _elements(found, "include"),
        _elements(found, "exclude"),
        reading.boolean(found, "lazy_members"),
        caller.user_id,
    )


def _elements(body: Mapping[str, Any], name: str) -> list[tuple[str | None, str | None]]:
    found = reading.mappings(body, name)
    _check_size(found)
    return [(reading.text(each, "type"), reading.text(each, "state_key")) for each in found]


def _check_size(elements: list[Any]) -> None:
    if len(elements) > MOST_STATE:
        raise InvalidParam(f"'required_state' has at most {MOST_STATE} elements")


# extensions ---------------------------------------------------------------------------------


def _extensions(body: Mapping[str, Any]) -> Extensions:
    return Extensions(
        _inbox(_enabled(body, "to_device")),
        _enabled(body, "e2ee") is not None,
        _scope(_enabled(body, "account_data")),
        _scope(_enabled(body, "receipts")),
        _scope(_enabled(body, "typing")),
        _threads(_enabled(body, THREADS)),
        _sticky(_enabled(body, STICKY)),
    )


def _threads(body: Mapping[str, Any] | None) -> int | None:
    if body is None:
        return None
    limit = reading.integer(body, "limit", low=1)
    return MOST_THREADS if limit is None else min(limit, MOST_THREADS)


def _sticky(body: Mapping[str, Any] | None) -> StickyWish | None:
    if body is None:
        return None
    limit, since = reading.integer(body, "limit", low=1), reading.text(body, "since")
    if since and not _POSITION.fullmatch(since):
        raise InvalidParam("'since' is none that this server has given")
    return StickyWish(int(since) if since else None, MOST_STICKY if limit is None else min(limit, MOST_STICKY))


def _enabled(body: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    found = reading.mapping(body, name)
    return found if found is not None and reading.boolean(found, "enabled") else None


def _inbox(body: Mapping[str, Any] | None) -> Inbox | None:
    if body is None:
        return None
    limit = reading.integer(body, "limit", low=0)
    text = reading.text(body, "since")
    since: int | None = None
    if text:
        # COMPAT(matrix-rust-sdk, 0.7): a client that comes from `/sync` goes on from its token.
        since = int(text) if _POSITION.fullmatch(text) else tokens.parse(text).position
    return Inbox(since, text, min(max(MOST_MESSAGES if limit is None else limit, 1), MOST_MESSAGES))


def _scope(body: Mapping[str, Any] | None) -> Scope | None:
    return None if body is None else Scope(_some(body, "lists"), _some(body, "rooms"))


def _some(body: Mapping[str, Any], name: str) -> frozenset[str] | None:
    """Names; None: all there are, which ``*`` stands for."""
    found = _words(body, name)
    return None if found is None or "*" in found else found
