"""Profiles: display name, avatar and other fields. They rest with their owner and are read there, under the gate.

A changed display name or avatar asks, by a chore, for new member events in the owner's rooms.

spec: client-server-api/#profiles
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from config.residency import UNKNOWN, DataClass
from homeserver.application_services import queries
from homeserver.protocol.errors import (
    BadJson,
    GuestAccessForbidden,
    InvalidParam,
    KeyTooLarge,
    NotFound,
    ProfileTooLarge,
)
from homeserver.protocol.identifiers import is_namespaced, parse_mxc, parse_user_id
from homeserver.residency import gate, traffic
from homeserver.storage import chores
from homeserver.storage import profiles as stored

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

CHANGED: Final = "profile"
"""The kind of chore that asks to bring a changed display name or avatar into the member events of its owner."""

DISPLAY_NAME: Final = "displayname"
AVATAR: Final = "avatar_url"
TIME_ZONE: Final = "m.tz"

MAX_PROFILE = 64 * 1024 - 1
"""Bytes of a whole profile as JSON."""

MAX_KEY = 255
MAX_TEXT = 256
"""Characters of a display name or time zone: they are copied into every member event."""

MAX_URI = 1000


async def fields(server: Server, user_id: str, asking: Node | None) -> dict[str, Any]:
    """The profile of a user, for a user of the node ``asking`` (None for who has not said who they are).

    That of a user of another server is asked for there, for users of ours only.

    Raises NotFound, InvalidParam for what is no user id, FlowDenied if profiles may not go there, Forbidden and
    ServerUnreachable when the other server does not tell.

    spec: client-server-api/#get_matrixclientv3profileuserid
    """
    parse_user_id(user_id)
    if server.nodes.is_local(user_id):
        return await of_local(server, user_id, UNKNOWN if asking is None else asking.jurisdiction)
    if asking is None:
        raise NotFound("Log in to ask other servers for their users' profiles")
    return await server.remote.profile(server, asking, user_id)


async def of_local(server: Server, user_id: str, jurisdiction: str) -> dict[str, Any]:
    """The profile of a local user, for somebody in ``jurisdiction``. Raises NotFound, FlowDenied, NodeUnavailable."""
    node = await server.nodes.of_user(user_id)
    if node is None and server.services and await queries.user(server, user_id):
        node = await server.nodes.of_user(user_id)
    if node is None:
        raise NotFound("There is no such user")
    traffic.concerns(node)
    gate.check(server, DataClass.PROFILE, node.jurisdiction, jurisdiction)
    found = await node.read(stored.of_user, user_id)
    if found is None:
        raise NotFound("There is no such user")
    return {name: orjson.loads(value) for name, value in found.items()}


async def one_field(server: Server, user_id: str, name: str, asking: Node | None) -> dict[str, Any]:
    """One field of a profile. Raises what `fields` raises, and NotFound when it is not set.

    spec: client-server-api/#get_matrixclientv3profileuseridkeyname
    """
    check_name(name)
    found = await fields(server, user_id, asking)
    if name not in found:
        raise NotFound("This profile has no such field")
    return {name: found[name]}


async def set_field(server: Server, caller: Caller, name: str, value: Any) -> None:
    """Set a field of the caller's profile; an empty display name or avatar removes it.

    Raises InvalidParam, KeyTooLarge, ProfileTooLarge, BadJson, GuestAccessForbidden.

    spec: client-server-api/#put_matrixclientv3profileuseridkeyname
    """
    _check_guest(caller, name)
    check_name(name)
    _check_value(name, value)
    if name in (DISPLAY_NAME, AVATAR) and value == "":
        await caller.node.write(_delete, server, caller, name)
    else:
        await caller.node.write(_set, server, caller, name, orjson.dumps(value))


async def delete_field(server: Server, caller: Caller, name: str) -> None:
    """Remove a field of the caller's profile, if it is there.

    spec: client-server-api/#delete_matrixclientv3profileuseridkeyname
    """
    _check_guest(caller, name)
    check_name(name)
    await caller.node.write(_delete, server, caller, name)


def check_name(name: str) -> None:
    """Raise KeyTooLarge or InvalidParam unless this can be the name of a profile field."""
    if len(name.encode(errors="replace")) > MAX_KEY:
        raise KeyTooLarge(f"The name of a profile field has at most {MAX_KEY} bytes")
    if name in (DISPLAY_NAME, AVATAR):
        return
    if "." not in name or not is_namespaced(name):
        raise InvalidParam("A profile field is displayname, avatar_url, or has a name such as org.example.field")


def _check_value(name: str, value: Any) -> None:
    if name not in (DISPLAY_NAME, AVATAR, TIME_ZONE):
        return
    if not isinstance(value, str):
        raise BadJson(f"{name} must be a string")
    if "\0" in value:
        raise InvalidParam(f"{name} must not contain NUL")
    if name == AVATAR:
        if value:
            parse_mxc(value)
        if len(value) > MAX_URI:
            raise InvalidParam("That avatar_url is too long")
    elif len(value) > MAX_TEXT:
        raise InvalidParam(f"{name} has at most {MAX_TEXT} characters")


def _check_guest(caller: Caller, name: str) -> None:
    if caller.guest and name != DISPLAY_NAME:
        raise GuestAccessForbidden("Guests may change their display name only")


async def _set(tx: Transaction, server: Server, caller: Caller, name: str, value: bytes) -> None:
    profile = await stored.fields(tx, caller.user_nid)
    if profile.get(name) == value:
        return
    profile[name] = value
    if sum(len(orjson.dumps(key)) + len(content) + 2 for key, content in profile.items()) + 1 > MAX_PROFILE:
        raise ProfileTooLarge("A profile must be smaller than 64 KiB")
    stored.put(tx, caller.user_nid, name, value)
    _ask(tx, server, caller, name)


async def _delete(tx: Transaction, server: Server, caller: Caller, name: str) -> None:
    if await stored.delete(tx, caller.user_nid, name):
        _ask(tx, server, caller, name)


def _ask(tx: Transaction, server: Server, caller: Caller, name: str) -> None:
    if name in (DISPLAY_NAME, AVATAR):
        chores.ask(tx, CHANGED, caller.user_nid)
        tx.after_commit(lambda: server.wakeups.wake(chores.key(caller.node.name, CHANGED)))
