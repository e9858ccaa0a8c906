"""Closing an account for ever: nobody can log in again, nobody gets the name, and what only served its owner goes.

The rooms are left by a chore, for they are above.

spec: client-server-api/#account-deactivation
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from homeserver.accounts import callers, contacts, devices, push_rules
from homeserver.protocol.errors import NotFound
from homeserver.protocol.identifiers import localpart_of
from homeserver.protocol.key_log import Reason
from homeserver.storage import accounts as stored
from homeserver.storage import chores, closed_accounts, erasures, outbox, streams
from homeserver.storage.erasures import Erased
from homeserver.storage.outbox import NewParcel
from homeserver.transparency import changes as key_changes

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

DEACTIVATED: Final = "deactivated"
"""The kind of chore that asks to leave all rooms."""

ERASED: Final = "erased"
"""The kind of parcel that tells another node who is erased (rooms/erasure.py says what that means)."""


async def deactivate(server: Server, user_id: str, *, erase: bool = False) -> None:
    """Close the account of a local user; one that is closed stays so. Raises NotFound, NodeUnavailable.

    With ``erase``, which may be asked for later too, who joins a room from now on is not shown what they wrote.

    spec: client-server-api/#post_matrixclientv3accountdeactivate
    """
    node = await server.nodes.of_user(user_id)
    if node is None:
        raise NotFound("There is no such user")
    had = await node.advance(_deactivate, server, node, user_id, erase)
    await closed_accounts.note(server.nodes.directory, localpart_of(user_id), erased=erase)
    await contacts.forget_routes(server, had)


async def finish(server: Server, node: Node, user_id: str, body: dict[str, Any]) -> None:
    """What is left to be done of closing an account, as a chore of the kind `DEACTIVATED` says, before its rooms are
    left: note it where no archive of the node reaches; close again what came back with one. Raises NodeUnavailable.
    """
    erased = await node.advance(_close_again, server, node, user_id, body)
    await closed_accounts.note(server.nodes.directory, localpart_of(user_id), erased=erased)


async def _close_again(tx: Transaction, server: Server, node: Node, user_id: str, body: dict[str, Any]) -> bool:
    """Returns whether the user is erased."""
    account = await stored.find(tx, user_id)
    if account is None:
        return False
    erased = await erasures.is_erased(tx, account.user_nid)
    if body.get("erase") and not erased:
        await _erase(tx, server, node, user_id, account.user_nid)
    if body.get("again"):
        await _empty(tx, server, node, user_id, account.user_nid)
    return erased or bool(body.get("erase"))


async def _deactivate(tx: Transaction, server: Server, node: Node, user_id: str, erase: bool) -> list[tuple[str, str]]:
    """Returns the phone numbers and addresses that the account had."""
    account = await stored.find(tx, user_id)
    if account is None:
        raise NotFound("There is no such user")
    erasing = erase and not await erasures.is_erased(tx, account.user_nid)
    if erasing:
        await _erase(tx, server, node, user_id, account.user_nid)
    if not await stored.deactivate(tx, account.user_nid, server.clock.now_ms()):
        if erasing:
            chores.ask(tx, DEACTIVATED, account.user_nid)  # which notes it, if this process does not come to it
        return []
    had = [(threepid.medium, threepid.address) for threepid in await stored.threepids(tx, account.user_nid)]
    await _empty(tx, server, node, user_id, account.user_nid)
    chores.ask(tx, DEACTIVATED, account.user_nid)
    tx.after_commit(lambda: server.wakeups.wake(chores.key(node.name, DEACTIVATED)))
    return had


async def _empty(tx: Transaction, server: Server, node: Node, user_id: str, user_nid: int) -> None:
    """Take away what only served the owner of an account."""
    told = await devices.remove_within(tx, server, node, user_id, user_nid, None, closing=True)
    if not told and await stored.signing_keys(tx, user_nid):
        await devices.tell(tx, server, node, user_nid)
    stored.wipe(tx, user_nid)
    await key_changes.append(tx, server, node, user_id, Reason.DEACTIVATED)

    def announce() -> None:
        callers.forget(server, node, user_id)
        node.memory(push_rules.Compiled).forget(user_nid)

    tx.after_commit(announce)


async def _erase(tx: Transaction, server: Server, node: Node, user_id: str, user_nid: int) -> None:
    """Note that the user is erased from now on, here and on the nodes that may hold what they sent: as soon as they may
    be told, where no flow leads at the time."""
    there = {each.name for each in server.nodes} - {node.name}
    names = [name for name in await erasures.nodes_met(tx, user_nid) if name in there]
    first = await streams.allocate(tx, 1 + len(names))
    erasures.put(tx, [user_id], first)
    body = orjson.dumps({"user_id": user_id})
    outbox.put(tx, first + 1, [NewParcel(name, ERASED, body=body) for name in names])

    def announce() -> None:
        node.announce(first + len(names), [])
        node.memory(Erased).clear()
        server.wake_outbox(node)

    tx.after_commit(announce)
