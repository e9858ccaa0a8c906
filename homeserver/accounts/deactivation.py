"""Closing an account for ever: nobody can log in again, nobody gets the name, and what only served its owner goes.

The rooms are left by a chore, for they are above.

spec: client-server-api/#account-deactivation
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from config.residency import DataClass
from homeserver.accounts import contacts, devices, push_rules, sessions
from homeserver.protocol.errors import NotFound
from homeserver.residency import gate
from homeserver.storage import accounts as stored
from homeserver.storage import chores, erasures, outbox, streams
from homeserver.storage.erasures import Erased
from homeserver.storage.outbox import NewParcel

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
    await contacts.forget_routes(server, had)


async def _deactivate(tx: Transaction, server: Server, node: Node, user_id: str, erase: bool) -> list[tuple[str, str]]:
    """Returns the phone numbers and addresses that the account had."""
    account = await stored.find(tx, user_id)
    if account is None:
        raise NotFound("There is no such user")
    if erase and not await erasures.is_erased(tx, account.user_nid):
        await _erase(tx, server, node, user_id, account.user_nid)
    if not await stored.deactivate(tx, account.user_nid, server.clock.now_ms()):
        return []
    had = [(threepid.medium, threepid.address) for threepid in await stored.threepids(tx, account.user_nid)]
    told = await devices.remove_within(tx, server, node, user_id, account.user_nid, None, closing=True)
    if not told and await stored.signing_keys(tx, account.user_nid):
        await devices.tell(tx, server, node, account.user_nid)
    stored.wipe(tx, account.user_nid)
    chores.ask(tx, DEACTIVATED, account.user_nid)

    def announce() -> None:
        sessions.forget(server, node, user_id)
        node.memory(push_rules.Compiled).forget(account.user_nid)
        server.wakeups.wake(chores.key(node.name, DEACTIVATED))

    tx.after_commit(announce)
    return had


async def _erase(tx: Transaction, server: Server, node: Node, user_id: str, user_nid: int) -> None:
    """Note that the user is erased from now on, here and on the nodes that may hold what they sent."""
    met = [name for name in await erasures.nodes_met(tx, user_nid) if name != node.name]
    names = [
        name
        for name in met
        if gate.may_in_time(server, DataClass.EVENTS, node.jurisdiction, server.nodes[name].jurisdiction)
    ]
    first = await streams.allocate(tx, 1 + len(names))
    erasures.put(tx, [user_id], first)
    body = orjson.dumps({"user_id": user_id})
    outbox.put(tx, first + 1, [NewParcel(name, ERASED, body=body) for name in names])

    def announce() -> None:
        node.announce(first + len(names), [])
        node.memory(Erased).clear()
        server.wakeups.wake(("outbox", node.name))

    tx.after_commit(announce)
