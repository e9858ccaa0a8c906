"""A pusher that is set for an app's key takes the place of those of other users, wherever these rest.

On the user's own node that is done with it. For the other nodes a chore is left in the same transaction, so that one
that is down loses its pusher when it is back; what has been set there since, stays.

spec: client-server-api/#post_matrixclientv3pushersset
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
import structlog

from homeserver.protocol.errors import NodeUnavailable
from homeserver.storage import chores
from homeserver.storage import pushers as stored

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.chores import Chore
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("push")

KIND: Final = "pusher"
AT_ONCE: Final = 100


def ask(tx: Transaction, user_nid: int, app_id: str, pushkey: str, set_ts: int) -> None:
    """Queue that the pushers of other nodes are removed that were set before a time, in milliseconds since 1970."""
    chores.ask(tx, KIND, user_nid, orjson.dumps([app_id, pushkey, set_ts]))


async def displace(server: Server, node: Node) -> None:
    """Do what has been asked on a node, as far as the others are up. Raises NodeUnavailable of the node itself."""
    after = 0
    while waiting := await node.read(chores.waiting, KIND, AT_ONCE, after):
        after = waiting[-1].chore_nid
        done = [chore.chore_nid for chore in waiting if await _remove(server, node, chore)]
        await node.write(chores.done, done)


async def displace_all(server: Server) -> None:
    """`displace` on every node that is up. A job."""
    for node in server.nodes:
        if node.engine.health().up:
            await displace(server, node)


async def _remove(server: Server, node: Node, chore: Chore) -> bool:
    """Remove the pushers of the other nodes; False while one of them cannot be asked."""
    app_id, pushkey, set_ts = orjson.loads(chore.body)
    everywhere = True
    for other in server.nodes:
        if other is not node:
            try:
                await other.write(stored.delete_before, app_id, pushkey, set_ts)
            except NodeUnavailable:
                log.info("a pusher that was replaced is removed later", node=other.name)
                everywhere = False
    return everywhere
