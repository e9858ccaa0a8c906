"""What an administrator does with accounts: list, show, lock, suspend, and give another password."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

from homeserver.accounts import callers, registration
from homeserver.protocol.errors import Forbidden, InvalidParam, NotFound
from homeserver.storage import accounts as stored
from homeserver.storage import devices as stored_devices
from homeserver.storage import pins

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.storage.accounts import Account, Threepid
    from homeserver.storage.devices import Device
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.pins import PinEvidence


class Shown(NamedTuple):
    """An account with what belongs to it, and where it rests."""

    account: Account
    node: str
    jurisdiction: str
    pinned: PinEvidence | None
    threepids: list[Threepid]
    devices: list[Device]


async def page(node: Node, after: str = "", limit: int = 100) -> list[Account]:
    """Accounts of one node in the order of their user ids, behind the user id ``after``."""
    return await node.read(stored.page, after, limit)


async def show(server: Server, user_id: str) -> Shown:
    """One account. Raises NotFound, NodeUnavailable."""
    node = await _node(server, user_id)
    return await node.read(_show, node, user_id)


async def _show(tx: Transaction, node: Node, user_id: str) -> Shown:
    account = await _account(tx, user_id)
    threepids = await stored.threepids(tx, account.user_nid)
    pinned = await pins.find(tx, account.user_nid)
    devices = await stored_devices.of_user(tx, account.user_nid)
    return Shown(account, node.name, node.jurisdiction, pinned, threepids, devices)


async def reset_password(server: Server, user_id: str, password: str, *, log_out: bool = True) -> None:
    """Give an account another password. Raises NotFound, WeakPassword, InvalidParam, NodeUnavailable."""
    node = await _node(server, user_id)
    await registration.change_password(server, node, user_id, password, log_out=log_out)


async def set_admin(server: Server, user_id: str, admin: bool) -> None:
    """Say whether a user administers the server. Raises NotFound."""
    await _set(server, user_id, stored.set_admin, admin)


async def set_locked(server: Server, user_id: str, locked: bool) -> None:
    """Lock or unlock an account. Raises NotFound. spec: client-server-api/#account-locking"""
    await _set(server, user_id, stored.set_locked, locked)


async def set_suspended(server: Server, user_id: str, suspended: bool) -> None:
    """Suspend an account, or end that. Raises NotFound. spec: client-server-api/#account-suspension"""
    await _set(server, user_id, stored.set_suspended, suspended)


async def moderated(server: Server, caller: Caller, user_id: str) -> Account:
    """The account of somebody whom an administrator asks about or acts on, which is a local user's who is no other
    administrator. Raises InvalidParam, NotFound, Forbidden, NodeUnavailable.

    spec: client-server-api/#server-administration
    """
    if not server.nodes.is_local(user_id):
        raise InvalidParam("That is not a user of this server")
    node = await _node(server, user_id)
    account = await node.read(stored.find, user_id)
    if account is None or account.deactivated_ts is not None:
        raise NotFound("There is no such user")
    if account.admin and user_id != caller.user_id:
        raise Forbidden("That user administers this server too")
    return account


async def moderate(server: Server, caller: Caller, user_id: str, change: Moderation, value: bool) -> None:
    """Lock or suspend somebody, or end that. Raises what `moderated` raises; Forbidden for the caller's own account.

    spec: client-server-api/#put_matrixclientv1adminlockuserid
    spec: client-server-api/#put_matrixclientv1adminsuspenduserid
    """
    await moderated(server, caller, user_id)
    if user_id == caller.user_id:
        raise Forbidden("You cannot do this to your own account")
    await change(server, user_id, value)


Moderation = Callable[["Server", str, bool], Awaitable[None]]
Change = Callable[["Transaction", int, bool], Awaitable[None]]


async def _set(server: Server, user_id: str, change: Change, value: bool) -> None:
    node = await _node(server, user_id)
    await node.write(_set_within, server, node, user_id, change, value)


async def _set_within(tx: Transaction, server: Server, node: Node, user_id: str, change: Change, value: bool) -> None:
    account = await _account(tx, user_id)
    await change(tx, account.user_nid, value)
    tx.after_commit(lambda: callers.forget(server, node, user_id))


async def _node(server: Server, user_id: str) -> Node:
    node = await server.nodes.of_user(user_id)
    if node is None:
        raise NotFound("There is no such user")
    return node


async def _account(tx: Transaction, user_id: str) -> Account:
    account = await stored.find(tx, user_id)
    if account is None:
        raise NotFound("There is no such user")
    return account
