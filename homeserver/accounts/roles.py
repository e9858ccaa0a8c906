"""Roles of those who administer the deployment. They rest with whoever has them, and are asked for at each call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.accounts import callers
from homeserver.protocol.errors import Conflict, Forbidden, InvalidParam, NodeUnavailable, NotFound
from homeserver.protocol.roles import Role
from homeserver.storage import accounts, users
from homeserver.storage import roles as stored

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node


def role_named(name: str) -> Role:
    """The role of this name. Raises InvalidParam."""
    try:
        return Role(name)
    except ValueError:
        raise InvalidParam(f"There is no role {name[:60]}; there are {', '.join(Role)}") from None


async def of_caller(caller: Caller) -> frozenset[Role]:
    """The roles of a caller, as they stand now. Raises NodeUnavailable."""
    operator, others = await caller.node.read(stored.of_user, caller.user_nid)
    return _roles(operator, others)


async def of_user(server: Server, user_id: str) -> frozenset[Role]:
    """The roles of a user, none for whoever is not there. Raises NodeUnavailable."""
    node = await server.nodes.of_user(user_id) if server.nodes.is_local(user_id) else None
    user_nid = None if node is None else await node.read(users.resident, user_id)
    if node is None or user_nid is None:
        return frozenset()
    return _roles(*await node.read(stored.of_user, user_nid))


def _roles(operator: bool, others: set[str]) -> frozenset[Role]:
    known = {Role(name) for name in others if name in Role.__members__.values()}
    return frozenset(known | {Role.OPERATOR} if operator else known)


async def give(server: Server, user_id: str, role: Role) -> frozenset[Role]:
    """Give a user a role; returns all that they have then. Raises NotFound, Forbidden for guests, NodeUnavailable."""
    return await _change(server, user_id, role, True)


async def take(server: Server, user_id: str, role: Role) -> frozenset[Role]:
    """Take a role from a user; returns those that are left. Raises NotFound, Conflict when they do not have it."""
    return await _change(server, user_id, role, False)


async def everybody(server: Server) -> tuple[dict[str, tuple[str, frozenset[Role]]], list[str]]:
    """All who have roles, with their nodes, by user id; and the nodes that could not be asked."""
    found: dict[str, tuple[str, frozenset[Role]]] = {}
    down = []
    for node in server.nodes:
        try:
            for user_id, operator, other in await node.read(stored.everybody):
                _, known = found.get(user_id, ("", frozenset()))
                found[user_id] = node.name, known | _roles(operator, set() if other is None else {other})
        except NodeUnavailable:
            down.append(node.name)
    return found, down


async def _change(server: Server, user_id: str, role: Role, given: bool) -> frozenset[Role]:
    node = await server.nodes.of_user(user_id) if server.nodes.is_local(user_id) else None
    if node is None:
        raise NotFound("There is no such user")
    return _roles(*await node.write(_change_within, server, node, user_id, role, given))


async def _change_within(
    tx: Transaction, server: Server, node: Node, user_id: str, role: Role, given: bool
) -> tuple[bool, set[str]]:
    account = await accounts.find(tx, user_id)
    if account is None or account.deactivated_ts is not None:
        raise NotFound("There is no such user")
    if account.guest and given:
        raise Forbidden("A guest cannot have a role")
    operator, others = await stored.of_user(tx, account.user_nid)
    if not given and role not in _roles(operator, others):
        raise Conflict(f"{user_id} does not have the role {role}")
    if role is Role.OPERATOR:
        await accounts.set_admin(tx, account.user_nid, given)
        tx.after_commit(lambda: callers.forget(server, node, user_id))
    elif given:
        await stored.give(tx, account.user_nid, role, server.clock.now_ms())
    else:
        await stored.take(tx, account.user_nid, role)
    return await stored.of_user(tx, account.user_nid)
