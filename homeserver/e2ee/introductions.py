"""Tells servers what devices a resident has: those that come to share a room by the resident's join, and those that are
back after so long that nothing waited for them any more.

Each is told the list as it stands, as the update at which it changed last: to who has that list already it is nothing
new, and whoever has an older one finds out that something was missed.

spec: server-server-api/#device-management
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from config.residency import DataClass
from homeserver.e2ee import to_servers
from homeserver.e2ee.chore_loop import keep_doing
from homeserver.rooms.encounters import MET
from homeserver.storage import chores, peers, streams
from homeserver.storage import device_keys as stored
from homeserver.transparency.agreement import for_others

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.peers import NewEdu

AT_ONCE: Final = 50


async def follow(server: Server, node: Node) -> None:
    """Introduce a node's residents to the servers that they meet; for ever."""
    await keep_doing(server, node, MET, introduce_waiting)


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
    if abroad:
        await _send(tx, node, await _known(tx, abroad, user_id))
    await chores.done(tx, [chore.chore_nid for chore in asked])


async def make_up(tx: Transaction, server: Server, node: Node, name: str) -> bool:
    """Tell a server that is back of the residents whose keys changed while it was given up, some at a time.

    Only inside `Node.advance`. False when nobody is left.
    """
    changed = await peers.changed_meanwhile(tx, name, AT_ONCE)
    abroad = to_servers.allowed(server, node, DataClass.KEYS, [name])
    if abroad:
        await _send(tx, node, [edu for _, user_id in changed for edu in await _known(tx, abroad, user_id)])
    more = len(changed) == AT_ONCE
    peers.owe(tx, name, changed[-1][0] if more else None)
    return more


async def _known(tx: Transaction, abroad: Collection[str], user_id: str) -> list[NewEdu]:
    """The list of a resident as it stands, for some servers."""
    found = await stored.list_of(tx, user_id)
    if found is None:
        return []
    stream_id, keys = found[0], for_others(found[1])
    edus = [
        edu
        for device_id in sorted(keys.devices)
        for edu in to_servers.device_list_updates(abroad, user_id, keys, [device_id], stream_id, None)
    ]
    if keys.signing.keys() & {stored.MASTER, stored.SELF_SIGNING}:
        edus += to_servers.signing_key_update(abroad, user_id, keys)
    return edus


async def _send(tx: Transaction, node: Node, edus: Sequence[NewEdu]) -> None:
    """Queue EDUs and have them sent after the commit."""
    if edus:
        first = await streams.allocate(tx, len(edus))
        last = first + len(edus) - 1
        tx.after_commit(lambda: node.announce(last, []))
        to_servers.write(tx, node, first, edus)
