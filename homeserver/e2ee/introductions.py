"""Tells servers that come to share a room with a resident by the resident's join what devices there are.

Each is told the list as it stands, as the update at which it changed last: to who has that list already it is nothing
new, and whoever has an older one finds out that something was missed.

spec: server-server-api/#device-management
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
import structlog

from config.residency import DataClass
from homeserver.e2ee import to_servers
from homeserver.protocol.errors import NodeUnavailable
from homeserver.rooms.encounters import MET
from homeserver.storage import chores, peers, streams
from homeserver.storage import device_keys as stored

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("e2ee.introductions")

AT_ONCE: Final = 50
RETRY_AFTER: Final = 1.0
"""Seconds until a node that is down is tried again."""


async def follow(server: Server, node: Node) -> None:
    """Introduce a node's residents to the servers that they meet; for ever."""
    while True:
        with server.wakeups.listen([chores.key(node.name, MET)]) as listener:
            try:
                while await introduce_waiting(server, node):
                    pass
            except NodeUnavailable:
                await server.clock.sleep(RETRY_AFTER)
                continue
            except Exception:
                log.exception("introducing residents failed", node=node.name)
                await server.clock.sleep(RETRY_AFTER)
                continue
            await listener.wait()


async def introduce_waiting(server: Server, node: Node) -> bool:
    """Introduce the residents who have waited longest; False when nobody is left. Raises NodeUnavailable."""
    waiting = await node.read(chores.waiting, MET, AT_ONCE)
    for user_nid, user_id in {chore.user_nid: chore.user_id for chore in waiting}.items():
        await node.advance(_introduce, server, node, user_nid, user_id)
    return len(waiting) == AT_ONCE


async def _introduce(tx: Transaction, server: Server, node: Node, user_nid: int, user_id: str) -> None:
    asked = await chores.of(tx, MET, user_nid)  # all: one that is left out would count as known
    room_nids = {int(orjson.loads(chore.body)["room_nid"]) for chore in asked}
    abroad = to_servers.allowed(server, node, DataClass.KEYS, await peers.met(tx, user_nid, room_nids))
    found = await stored.list_of(tx, user_id) if abroad else None
    if found is not None:
        stream_id, keys = found
        edus = [
            edu
            for device_id in sorted(keys.devices)
            for edu in to_servers.device_list_updates(abroad, user_id, keys, [device_id], stream_id, None)
        ]
        if keys.signing.keys() & {stored.MASTER, stored.SELF_SIGNING}:
            edus += to_servers.signing_key_update(abroad, user_id, keys)
        if edus:
            first = await streams.allocate(tx, len(edus))
            last = first + len(edus) - 1
            tx.after_commit(lambda: node.announce(last, []))
            to_servers.write(tx, node, first, edus)
    await chores.done(tx, [chore.chore_nid for chore in asked])
