"""Closing an account for ever: nobody can log in again, nobody gets the name, and what only served its owner goes.

The rooms are left by a chore, for they are above.

spec: client-server-api/#account-deactivation
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from homeserver.accounts import devices, push_rules, sessions
from homeserver.protocol.errors import NotFound
from homeserver.storage import accounts as stored
from homeserver.storage import chores

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

DEACTIVATED: Final = "deactivated"
"""The kind of chore that asks to leave all rooms. Its body has ``erase``: whether later joiners get redacted copies."""


async def deactivate(server: Server, user_id: str, *, erase: bool = False) -> None:
    """Close the account of a local user; one that is closed stays so. Raises NotFound, NodeUnavailable.

    spec: client-server-api/#post_matrixclientv3accountdeactivate
    """
    node = await server.nodes.of_user(user_id)
    if node is None:
        raise NotFound("There is no such user")
    await node.advance(_deactivate, server, node, user_id, erase)


async def _deactivate(tx: Transaction, server: Server, node: Node, user_id: str, erase: bool) -> None:
    account = await stored.find(tx, user_id)
    if account is None:
        raise NotFound("There is no such user")
    if not await stored.deactivate(tx, account.user_nid, server.clock.now_ms()):
        return
    told = await devices.remove_within(tx, server, node, user_id, account.user_nid, None)
    if not told and await stored.signing_keys(tx, account.user_nid):
        await devices.tell(tx, server, node, account.user_nid)
    stored.wipe(tx, account.user_nid)
    chores.ask(tx, DEACTIVATED, account.user_nid, orjson.dumps({"erase": erase}))

    def announce() -> None:
        sessions.forget(server, node, user_id)
        node.memory(push_rules.Compiled).forget(account.user_nid)
        server.wakeups.wake(chores.key(node.name, DEACTIVATED))

    tx.after_commit(announce)
