"""Pushers: where a user's notifications are to be sent. Stored here; delivery reads them.

spec: client-server-api/#post_matrixclientv3pushersset
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from homeserver.protocol.errors import BadJson, InvalidParam, MissingParam, TooLarge
from homeserver.storage import pushers as stored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Caller
    from homeserver.storage.engine import Transaction

MAX_APP_ID = 64
MAX_PUSHKEY = 512
"""Bytes."""

MAX_DEFINITION = 16 * 1024
MOST_PUSHERS = 100

GATEWAY_PATH = "/_matrix/push/v1/notify"

_STRINGS = ("app_display_name", "device_display_name", "lang")


async def of_caller(caller: Caller) -> list[dict[str, Any]]:
    """The caller's pushers. spec: client-server-api/#get_matrixclientv3pushers"""
    return [orjson.loads(definition) for definition in await caller.node.read(stored.of_user, caller.user_nid)]


async def put(caller: Caller, body: Mapping[str, Any]) -> None:
    """Set, or with the kind null delete, a pusher as a client describes it.

    Raises MissingParam, BadJson, InvalidParam, TooLarge.
    """
    app_id, pushkey = _bounded(body, "app_id", MAX_APP_ID), _bounded(body, "pushkey", MAX_PUSHKEY)
    if "kind" not in body:
        raise MissingParam("Missing parameter: kind")
    if body["kind"] is None:
        await caller.node.write(stored.delete, caller.user_nid, app_id, pushkey)
        return
    definition = orjson.dumps(read(body))
    if len(definition) > MAX_DEFINITION:
        raise TooLarge(f"A pusher has at most {MAX_DEFINITION} bytes")
    append = body.get("append", False)
    if not isinstance(append, bool):
        raise BadJson("append must be true or false")
    await caller.node.write(_put, caller, app_id, pushkey, definition, append)


def read(body: Mapping[str, Any]) -> dict[str, Any]:
    """The pusher that a client describes, as it is shown to it afterwards."""
    if body["kind"] != "http":
        raise InvalidParam("This server knows pushers of the kind http only")
    missing = [name for name in (*_STRINGS, "data") if name not in body]
    if missing:
        raise MissingParam(f"Missing parameters: {', '.join(missing)}")
    pusher: dict[str, Any] = {name: _text(body, name) for name in ("app_id", "pushkey", "kind", *_STRINGS)}
    if "profile_tag" in body:
        pusher["profile_tag"] = _text(body, "profile_tag")
    pusher["data"] = _read_target(body["data"])
    return pusher


def _read_target(target: object) -> dict[str, Any]:
    if not isinstance(target, dict):
        raise BadJson("data must be an object")
    if "url" not in target:
        raise MissingParam("Missing parameter: data.url")
    url = _text(target, "url")
    try:
        parts = urlsplit(url)
        good = parts.scheme == "https" and bool(parts.hostname) and parts.path == GATEWAY_PATH and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise InvalidParam(f"data.url must be an https:// URL with the path {GATEWAY_PATH}")
    if target.get("format") is not None and target["format"] != "event_id_only":
        raise InvalidParam("data.format must be event_id_only")
    return target


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body[name]
    if not isinstance(value, str):
        raise BadJson(f"{name} must be a string")
    return value


def _bounded(body: Mapping[str, Any], name: str, most: int) -> str:
    if name not in body:
        raise MissingParam(f"Missing parameter: {name}")
    value = _text(body, name)
    if not value or "\0" in value or len(value.encode(errors="replace")) > most:
        raise InvalidParam(f"{name} must have 1 to {most} bytes")
    return value


async def _put(tx: Transaction, caller: Caller, app_id: str, pushkey: str, definition: bytes, append: bool) -> None:
    if not append:
        await stored.delete_of_others(tx, caller.user_nid, app_id, pushkey)
    await stored.put(tx, caller.user_nid, caller.device_nid, app_id, pushkey, definition)
    if await stored.count(tx, caller.user_nid) > MOST_PUSHERS:
        raise TooLarge(f"An account has at most {MOST_PUSHERS} pushers")
