"""Canonical JSON: one value, one sequence of bytes, on every server; what hashes and signatures cover.

Encoded by orjson, whose sorted output is the canonical one for every value that `_is_plain` lets through (it sorts
keys by their UTF-8 bytes, which is the order of code points, and escapes exactly what the grammar demands); the rest
goes to ``canonicaljson``.

spec: appendices/#canonical-json
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any, Final, NoReturn

import canonicaljson
import orjson

from homeserver.protocol.errors import BadJson, NotJson
from homeserver.protocol.versions import MAX_INTEGER

_LONG_NUMBER: Final = re.compile(rb"[0-9]{19}")
_WITHOUT_CHILDREN: Final = frozenset((str, bool, type(None)))


def encode(value: object, *, strict: bool = True) -> bytes:
    """The canonical bytes of a JSON value made of dict, list, tuple, str, int, bool and None.

    Raises BadJson for floats, integers beyond ±(2^53-1), lone surrogates and absurd nesting; TypeError for what is not
    JSON at all (a fault of ours). ``strict=False`` is for rooms whose version does not enforce canonical JSON: it
    lets finite floats and integers of any size through, spelled as ``canonicaljson`` spells them.

    spec: appendices/#canonical-json
    """
    plain = _is_plain(value)
    if strict and not plain:
        raise BadJson("Numbers must be integers between -(2^53-1) and 2^53-1")
    if plain:
        try:
            # A copy: what orjson returns holds on to its buffer, 4 KiB for an event of 500 bytes, and events are kept.
            return b"%b" % orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:
            pass  # a lone surrogate, or deeper than orjson goes (254); the slow way tells them apart
    try:
        return canonicaljson.encode_canonical_json(value)
    except UnicodeEncodeError:
        raise BadJson("Strings must not contain surrogate code points") from None
    except RecursionError:
        raise BadJson("The JSON is nested too deeply") from None
    except ValueError:
        raise BadJson("Numbers must be finite") from None


def encode_all(values: Collection[object]) -> list[bytes]:
    """`encode` for many values, which are looked through together. Raises BadJson when it would for one of them."""
    if _is_plain(list(values)):
        try:
            return [orjson.dumps(value, option=orjson.OPT_SORT_KEYS) for value in values]
        except orjson.JSONEncodeError:
            pass  # see `encode`
    return [encode(value) for value in values]


def check(value: object) -> None:
    """Raise BadJson, as `encode` would, if the numbers of a parsed JSON value do not fit canonical JSON."""
    if not _is_plain(value):
        raise BadJson("Numbers must be integers between -(2^53-1) and 2^53-1")


def parse(body: bytes, *, strict: bool = True) -> Any:
    """The JSON value of UTF-8 bytes. Raises NotJson.

    Numbers are not judged here (`encode` and `check` do that), but an integer of more than 64 bits becomes a float,
    which they refuse. ``strict=False`` keeps such integers exact.
    """
    if not strict and _LONG_NUMBER.search(body):
        return _parse_exactly(body)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise NotJson(f"The body is not valid JSON: {error}") from None


def parse_object(body: bytes, *, strict: bool = True) -> dict[str, Any]:
    """The JSON object of UTF-8 bytes, as `parse` gives it. Raises NotJson, or BadJson if it is JSON but no object."""
    value = parse(body, strict=strict)
    if not isinstance(value, dict):
        raise BadJson("The body must be a JSON object")
    return value


def _is_plain(value: object) -> bool:
    """Whether ``value`` has only numbers of canonical JSON. Raises TypeError for a type that JSON does not know.

    Runs for every event, hence the exact type tests and the loops without calls.
    """
    plain = True
    pending = [value]
    while pending:
        parent = pending.pop()
        children: Any
        if type(parent) is dict:
            for key in parent:
                if type(key) is not str:
                    raise TypeError(f"keys of JSON objects are strings, not {type(key).__name__}")
            children = parent.values()
        elif type(parent) is list or type(parent) is tuple:
            children = parent
        else:
            children = (parent,)
        for child in children:
            kind = type(child)
            if kind in _WITHOUT_CHILDREN:
                continue
            if kind is int:
                if not -MAX_INTEGER <= child <= MAX_INTEGER:
                    plain = False
            elif kind is dict or kind is list or kind is tuple:
                pending.append(child)
            elif kind is float:
                plain = False
            else:
                raise TypeError(f"{kind.__name__} is not a type of JSON")
    return plain


def _parse_exactly(body: bytes) -> Any:
    try:
        value = json.loads(body.decode(), parse_constant=_refuse_constant)
        if b"\\ud" in body or b"\\uD" in body:
            json.dumps(value, ensure_ascii=False).encode()  # lone surrogates, which orjson refuses too
        return value
    except (ValueError, RecursionError) as error:
        raise NotJson(f"The body is not valid JSON: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise NotJson(f"The body is not valid JSON: {name}")
