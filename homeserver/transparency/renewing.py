"""Beginning a new key log, when the one of a node cannot go on: an operator's decision, which everybody can see.

The new log has another name, so that nobody takes it for the old one; how far that was, and why it ended, is served
beside it. It begins with the keys that are there, each as `found`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol.errors import InvalidParam
from homeserver.storage import key_log, log_heads
from homeserver.transparency import alarms, changes, heads
from homeserver.transparency.cosigning import Rounds
from homeserver.transparency.heads import KeyLog

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.log_heads import Noted
    from homeserver.storage.nodes import Node


async def begin_anew(server: Server, node: Node, reason: str) -> str:
    """End the log of a node and begin another; returns how that is called. Raises InvalidParam without a reason,
    NodeUnavailable.

    Cut off between the two databases, it is finished when the log is looked at again (`heads.current`).
    """
    if not reason.strip():
        raise InvalidParam("Say why: it is shown to everybody")
    memory = node.memory(KeyLog)
    async with memory.turn:
        await node.read(key_log.progress)  # a node that is down is not begun with
        noted = await server.nodes.directory.engine.write(_begin_anew, server, node, reason.strip())
        memory.clear()
        await node.write(key_log.clear)
        memory.clear()
        node.memory(Rounds).clear()
    server.wakeups.wake(changes.waiting_key(node))
    return heads.origin_of(server, node.name, noted.generation)


async def _begin_anew(tx: Transaction, server: Server, node: Node, reason: str) -> Noted:
    before = await log_heads.of(tx, node.name)
    await alarms.end_with_log(tx, server, heads.origin_of(server, node.name, before.generation), reason)
    return await log_heads.begin_anew(tx, node.name, server.clock.now_ms(), reason)
