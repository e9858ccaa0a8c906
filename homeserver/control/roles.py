"""Roles: who has them, give, take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.accounts import roles
from homeserver.control.arguments import given, needed, user_id_of
from homeserver.protocol.roles import Role

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments


async def role_list(server: Server, arguments: Arguments) -> dict[str, Any]:
    """All who have roles, or only ``user``, and the nodes that could not be asked."""
    name = given(arguments, "user")
    found, down = await roles.everybody(server)
    wanted = None if name is None else user_id_of(server, name)
    shown = [
        {"user_id": user_id, "node": node, "roles": _ordered(has)}
        for user_id, (node, has) in found.items()
        if wanted in (None, user_id)
    ]
    return {"users": shown, "nodes_down": down}


async def role_add(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Give ``user`` a ``role``."""
    user_id = user_id_of(server, needed(arguments, "user"))
    has = await roles.give(server, user_id, roles.role_named(needed(arguments, "role")))
    return {"user_id": user_id, "roles": _ordered(has)}


async def role_remove(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Take a ``role`` from ``user``."""
    user_id = user_id_of(server, needed(arguments, "user"))
    has = await roles.take(server, user_id, roles.role_named(needed(arguments, "role")))
    return {"user_id": user_id, "roles": _ordered(has)}


def _ordered(has: frozenset[Role]) -> list[str]:
    return [role.value for role in Role if role in has]
