"""Account data: what a user's clients keep on the server for one another, and tags, which are account data of a room.

spec: client-server-api/#client-config
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import orjson

from homeserver.accounts import push_rules
from homeserver.protocol.errors import InvalidParam, NotFound, ServerControlled, TooLarge
from homeserver.protocol.identifiers import is_room_id
from homeserver.storage import account_data as stored
from homeserver.storage import streams
from homeserver.storage.account_data import GLOBAL
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

FULLY_READ: Final = "m.fully_read"
PUSH_RULES: Final = "m.push_rules"
TAG: Final = "m.tag"

SERVERS: Final = frozenset({FULLY_READ, PUSH_RULES})
"""The types that the server alone sets."""

MAX_TYPE = 255
MAX_TAG = 255
"""Bytes of the name of a tag."""


async def put(server: Server, caller: Caller, kind: str, content: dict[str, Any], room_id: str | None = None) -> None:
    """Set an entry, of the account or of a room. Raises ServerControlled, TooLarge, InvalidParam, NotFound.

    spec: client-server-api/#put_matrixclientv3useruseridaccount_datatype
    """
    if kind in SERVERS:
        raise ServerControlled(f"Cannot set {kind} through this API")
    if len(kind.encode(errors="replace")) > MAX_TYPE:
        raise InvalidParam(f"A type of account data has at most {MAX_TYPE} bytes")
    _check_room_id(room_id)
    await caller.node.advance(_put, server, caller, room_id, kind, _encoded(server, content))


async def delete(server: Server, caller: Caller, kind: str, room_id: str | None = None) -> None:
    """Delete an entry, of the account or of a room, if it is there; clients see it become empty (MSC3391).

    Raises ServerControlled, InvalidParam, NotFound for a room that the caller has never been in.
    """
    if kind in SERVERS:
        raise ServerControlled(f"Cannot delete {kind} through this API")
    _check_room_id(room_id)
    await caller.node.advance(_delete, server, caller, room_id, kind)


async def find(caller: Caller, kind: str, room_id: str | None = None) -> bytes:
    """The content of an entry, as JSON. Raises NotFound, InvalidParam.

    spec: client-server-api/#get_matrixclientv3useruseridaccount_datatype
    """
    _check_room_id(room_id)
    if kind == PUSH_RULES and room_id is None:
        ruleset = await push_rules.of_caller(caller)
        return orjson.dumps({"global": ruleset.as_json(caller.user_id)})
    content = await caller.node.read(_find, caller.user_nid, room_id, kind)
    if content is None:
        raise NotFound("Account data not found")
    return content


async def tags(caller: Caller, room_id: str) -> dict[str, Any]:
    """The caller's tags of a room. Raises InvalidParam. spec: client-server-api/#room-tagging"""
    _check_room_id(room_id)
    return _tags_in(await caller.node.read(_find, caller.user_nid, room_id, TAG))


async def put_tag(server: Server, caller: Caller, room_id: str, tag: str, content: dict[str, Any]) -> None:
    """Tag a room. Raises InvalidParam, TooLarge, NotFound."""
    _check_room_id(room_id)
    if len(tag.encode(errors="replace")) > MAX_TAG:
        raise InvalidParam(f"The name of a tag has at most {MAX_TAG} bytes")
    order = content.get("order")
    if order is not None and (isinstance(order, bool) or not isinstance(order, int | float) or not isfinite(order)):
        raise InvalidParam("order must be a number between 0 and 1")
    await caller.node.advance(_change_tag, server, caller, room_id, tag, content)


async def delete_tag(server: Server, caller: Caller, room_id: str, tag: str) -> None:
    """Remove a tag from a room, if it is there. Raises InvalidParam, NotFound."""
    _check_room_id(room_id)
    await caller.node.advance(_change_tag, server, caller, room_id, tag, None)


async def write(
    tx: Transaction, server: Server, node: Node, user_nid: int, room_nid: int, kind: str, content: bytes
) -> None:
    """Set an entry of a resident and tell their clients after the commit: for whatever the server itself sets.

    Only inside `Node.advance`.
    """
    pos = await streams.allocate(tx)
    await stored.put(tx, user_nid, room_nid, kind, content, pos)

    def announce() -> None:
        node.announce(pos, [(Stream.ACCOUNT_DATA, [user_nid])])
        server.wake_residents(node, [user_nid])

    tx.after_commit(announce)


def _check_room_id(room_id: str | None) -> None:
    if room_id is not None and not is_room_id(room_id):
        raise InvalidParam("That is not a room ID")


def _encoded(server: Server, content: dict[str, Any]) -> bytes:
    encoded = orjson.dumps(content)
    if len(encoded) > server.settings.limits.account_data:
        raise TooLarge(f"Account data has at most {server.settings.limits.account_data} bytes")
    return encoded


async def _room(tx: Transaction, user_nid: int, room_id: str | None) -> int:
    if room_id is None:
        return GLOBAL
    room_nid = await stored.room_of(tx, user_nid, room_id)
    if room_nid is None:
        raise NotFound("You have never been in that room")
    return room_nid


async def _put(tx: Transaction, server: Server, caller: Caller, room_id: str | None, kind: str, content: bytes) -> None:
    room_nid = await _room(tx, caller.user_nid, room_id)
    await write(tx, server, caller.node, caller.user_nid, room_nid, kind, content)


async def _delete(tx: Transaction, server: Server, caller: Caller, room_id: str | None, kind: str) -> None:
    room_nid = await _room(tx, caller.user_nid, room_id)
    if await stored.find(tx, caller.user_nid, room_nid, kind) is not None:
        await write(tx, server, caller.node, caller.user_nid, room_nid, kind, stored.DELETED)


async def _find(tx: Transaction, user_nid: int, room_id: str | None, kind: str) -> bytes | None:
    room_nid = GLOBAL if room_id is None else await stored.room_of(tx, user_nid, room_id)
    return None if room_nid is None else await stored.find(tx, user_nid, room_nid, kind)


def _tags_in(content: bytes | None) -> dict[str, Any]:
    """The tags of an m.tag entry, which a client may have set to anything."""
    found = orjson.loads(content).get("tags") if content is not None else None
    return found if isinstance(found, dict) else {}


async def _change_tag(
    tx: Transaction, server: Server, caller: Caller, room_id: str, tag: str, content: dict[str, Any] | None
) -> None:
    room_nid = await _room(tx, caller.user_nid, room_id)
    found = _tags_in(await stored.find(tx, caller.user_nid, room_nid, TAG))
    if content is None:
        if tag not in found:
            return
        del found[tag]
    else:
        found[tag] = content
    await write(tx, server, caller.node, caller.user_nid, room_nid, TAG, _encoded(server, {"tags": found}))
