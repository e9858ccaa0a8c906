"""Pushers: where a user's notifications are to be sent, as clients set them. watching.py and sending.py do the rest.

spec: client-server-api/#post_matrixclientv3pushersset
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from config.residency import DataClass
from homeserver.protocol.errors import BadJson, InvalidParam, MissingParam, TooLarge
from homeserver.protocol.threepids import email_address
from homeserver.push import digests, displacing, gateways
from homeserver.push.notification import EVENT_ID_ONLY
from homeserver.residency import gate, places
from homeserver.rooms.onlookers import Onlookers
from homeserver.storage import pushers as stored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Transaction

MAX_APP_ID = 64
MAX_PUSHKEY = 512
"""Bytes."""

MAX_DEFINITION = 16 * 1024
MOST_PUSHERS = 100

_STRINGS = ("app_display_name", "device_display_name", "lang")


async def of_caller(caller: Caller) -> list[dict[str, Any]]:
    """The caller's pushers. spec: client-server-api/#get_matrixclientv3pushers"""
    return [orjson.loads(definition) for definition in await caller.node.read(stored.of_user, caller.user_nid)]


async def put(server: Server, caller: Caller, body: Mapping[str, Any]) -> None:
    """Set, or with the kind null delete, a pusher as a client describes it.

    Raises MissingParam, BadJson, InvalidParam, TooLarge, and FlowDenied where nothing may go that far.
    """
    app_id, pushkey = _bounded(body, "app_id", MAX_APP_ID), _bounded(body, "pushkey", MAX_PUSHKEY)
    if "kind" not in body:
        raise MissingParam("Missing parameter: kind")
    if body["kind"] is None:
        await caller.node.write(_delete, caller, app_id, pushkey)
        return
    pusher = read(body)
    definition = orjson.dumps(pusher)
    if len(definition) > MAX_DEFINITION:
        raise TooLarge(f"A pusher has at most {MAX_DEFINITION} bytes")
    append = body.get("append", False)
    if not isinstance(append, bool):
        raise BadJson("append must be true or false")
    if pusher["kind"] == "email":
        await _check_address(server, caller, app_id, pushkey)
    else:
        gateways.check(server, caller.node, pusher["data"]["url"])
    await caller.node.write(_put, server, caller, app_id, pushkey, definition, append)
    if not append and len(list(server.nodes)) > 1:
        await displacing.displace(server, caller.node)


def read(body: Mapping[str, Any]) -> dict[str, Any]:
    """The pusher that a client describes, as it is shown to it afterwards."""
    if body["kind"] not in ("http", "email"):
        raise InvalidParam("A pusher is of one of the kinds http, email")
    missing = [name for name in (*_STRINGS, "data") if name not in body]
    if missing:
        raise MissingParam(f"Missing parameters: {', '.join(missing)}")
    pusher: dict[str, Any] = {name: _text(body, name) for name in ("app_id", "pushkey", "kind", *_STRINGS)}
    if "profile_tag" in body:
        pusher["profile_tag"] = _text(body, "profile_tag")
    pusher["data"] = _read_data(body["data"], pusher["kind"])
    return pusher


def _read_data(data: object, kind: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise BadJson("data must be an object")
    if kind == "http":
        if "url" not in data:
            raise MissingParam("Missing parameter: data.url")
        _text(data, "url")
    if data.get("format") is not None and data["format"] != EVENT_ID_ONLY:
        raise InvalidParam(f"data.format must be {EVENT_ID_ONLY}")
    return data


async def _check_address(server: Server, caller: Caller, app_id: str, address: str) -> None:
    """Refuse letters to what is no address of the caller, where none are written, or where none may go."""
    if server.settings.email is None:
        raise InvalidParam("This server writes no letters")
    if app_id != digests.APP_ID:
        raise InvalidParam(f"The app of a pusher of the kind email is {digests.APP_ID}")
    if email_address(address).address != address:
        raise InvalidParam("Write the e-mail address as your account has it")
    if not await caller.node.read(digests.is_own, caller.user_nid, address):
        raise InvalidParam("That is no e-mail address of your account")
    there = places.of_host(server, address.rpartition("@")[2])
    gate.check(server, DataClass.NOTIFICATIONS, caller.node.jurisdiction, there)


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


async def _delete(tx: Transaction, caller: Caller, app_id: str, pushkey: str) -> None:
    await stored.delete(tx, caller.user_nid, app_id, pushkey)
    tx.after_commit(lambda: caller.node.memory(Onlookers).change(caller.user_nid))


async def _put(
    tx: Transaction, server: Server, caller: Caller, app_id: str, pushkey: str, definition: bytes, append: bool
) -> None:
    node, user_nid = caller.node, caller.user_nid
    if not append:
        await stored.delete_of_others(tx, user_nid, app_id, pushkey)
    now, position = server.clock.now_ms(), node.position
    if not append and len(list(server.nodes)) > 1:
        displacing.ask(tx, user_nid, app_id, pushkey, now)
    await stored.put(tx, user_nid, caller.device_nid, app_id, pushkey, definition, now, position)
    if await stored.count(tx, user_nid) > MOST_PUSHERS:
        raise TooLarge(f"An account has at most {MOST_PUSHERS} pushers")
    tx.after_commit(lambda: node.memory(Onlookers).change(user_nid))
