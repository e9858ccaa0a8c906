"""Reading the fields of JSON bodies: each of the right type, or an error that names the field.

``within`` is what the error says before the name of a field, when the object is a part of another.

A missing field that is required is M_MISSING_PARAM, one of the wrong type M_BAD_JSON; JSON null counts as missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from homeserver.protocol import identifiers
from homeserver.protocol.errors import BadJson, InvalidParam, MissingParam

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

T = TypeVar("T")
Body = "Mapping[str, Any]"

_NAMES: dict[type, str] = {
    str: "a string",
    int: "an integer",
    bool: "a boolean",
    dict: "an object",
    list: "an array",
}


def _field(body: Mapping[str, Any], name: str, kind: type[T], required: bool, within: str = "") -> T | None:
    value = body.get(name)
    if value is None:
        if required:
            raise MissingParam(f"'{within}{name}' is missing")
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadJson(f"'{within}{name}' must be {_NAMES[kind]}")
    return value


@overload
def text(body: Mapping[str, Any], name: str, *, required: Literal[True], within: str = "") -> str: ...
@overload
def text(body: Mapping[str, Any], name: str, *, required: Literal[False] = False, within: str = "") -> str | None: ...
def text(body: Mapping[str, Any], name: str, *, required: bool = False, within: str = "") -> str | None:
    """A string without U+0000, which no identifier or name may hold."""
    value = _field(body, name, str, required, within)
    if value is not None and "\0" in value:
        raise InvalidParam(f"'{within}{name}' must not contain U+0000")
    return value


@overload
def integer(
    body: Mapping[str, Any], name: str, *, required: Literal[True], low: int | None = None, high: int | None = None
) -> int: ...
@overload
def integer(
    body: Mapping[str, Any],
    name: str,
    *,
    required: Literal[False] = False,
    low: int | None = None,
    high: int | None = None,
) -> int | None: ...
def integer(
    body: Mapping[str, Any], name: str, *, required: bool = False, low: int | None = None, high: int | None = None
) -> int | None:
    """An integer between two bounds."""
    value = _field(body, name, int, required)
    if value is not None and ((low is not None and value < low) or (high is not None and value > high)):
        raise InvalidParam(f"'{name}' is out of range")
    return value


def boolean(body: Mapping[str, Any], name: str, *, default: bool = False, required: bool = False) -> bool:
    """A boolean."""
    value = _field(body, name, bool, required)
    return default if value is None else value


@overload
def mapping(body: Mapping[str, Any], name: str, *, required: Literal[True], within: str = "") -> dict[str, Any]: ...
@overload
def mapping(
    body: Mapping[str, Any], name: str, *, required: Literal[False] = False, within: str = ""
) -> dict[str, Any] | None: ...
def mapping(body: Mapping[str, Any], name: str, *, required: bool = False, within: str = "") -> dict[str, Any] | None:
    """A JSON object."""
    return _field(body, name, dict, required, within)


def array(body: Mapping[str, Any], name: str, *, required: bool = False) -> list[Any]:
    """A JSON array; empty when it is missing and may be."""
    return _field(body, name, list, required) or []


def strings(body: Mapping[str, Any], name: str, *, required: bool = False) -> list[str]:
    """A JSON array of strings."""
    found = array(body, name, required=required)
    if not all(isinstance(item, str) for item in found):
        raise BadJson(f"'{name}' must be an array of strings")
    return found


def strings_and_null(body: Mapping[str, Any], name: str) -> list[str | None] | None:
    """A JSON array of strings, and null among them; None when it is missing."""
    if body.get(name) is None:
        return None
    found = array(body, name)
    if not all(item is None or isinstance(item, str) for item in found):
        raise BadJson(f"'{name}' must be an array of strings and null")
    return found


def mappings(body: Mapping[str, Any], name: str, *, required: bool = False) -> list[dict[str, Any]]:
    """A JSON array of objects."""
    found = array(body, name, required=required)
    if not all(isinstance(item, dict) for item in found):
        raise BadJson(f"'{name}' must be an array of objects")
    return found


def choice(body: Mapping[str, Any], name: str, choices: Collection[str], default: str | None = None) -> str | None:
    """One of some strings."""
    value = text(body, name)
    if value is None:
        return default
    if value not in choices:
        raise InvalidParam(f"'{name}' must be one of: {', '.join(choices)}")
    return value


def user_id(body: Mapping[str, Any], name: str = "user_id") -> str:
    """A user id that is required."""
    value = text(body, name, required=True)
    if not identifiers.is_user_id(value):
        raise InvalidParam(f"'{name}' is no user ID")
    return value
