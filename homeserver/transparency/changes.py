"""Appending to the key log of a node, in the transaction that changes a resident's public keys.

Nothing is decided here: what the keys are now goes into the log, unless the log says so already. So whoever changes
keys calls `append` behind the change, and calling it once too often does nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol.key_log import NO_KEYS, Leaf, NoLeaf, Reason, digest, manifest, read
from homeserver.storage import device_keys, key_log
from homeserver.storage.device_keys import UserKeys
from homeserver.transparency import names

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.key_log import Placed
    from homeserver.storage.nodes import Node


def waiting_key(node: Node) -> tuple[str, str]:
    """What is woken in ``server.wakeups`` when a leaf was appended."""
    return ("key log", node.name)


def manifest_of(keys: UserKeys) -> bytes:
    """See `homeserver.protocol.key_log.manifest`."""
    return manifest({device_id: device.keys for device_id, device in keys.devices.items()}, keys.signing)


async def append(tx: Transaction, server: Server, node: Node, user_id: str, reason: Reason) -> bool:
    """Have the log say what a resident's public keys are now; False when it says so already. Three trips."""
    keys = (await device_keys.of_users(tx, [user_id])).get(user_id, UserKeys())
    return await _append(tx, server, node, user_id, manifest_of(keys), reason)


async def append_left(tx: Transaction, server: Server, node: Node, user_id: str) -> bool:
    """Have the log say that somebody rests elsewhere from now on; False when it says so, or never spoke of them."""
    return await _append(tx, server, node, user_id, NO_KEYS, Reason.LEFT)


async def _append(tx: Transaction, server: Server, node: Node, user_id: str, made: bytes, reason: Reason) -> bool:
    tag = names.tag(server, user_id)
    before, last = await key_log.ends(tx, tag)
    hashed = digest(made)
    if not _is_new(before, made, hashed, reason):
        return False
    leaf = Leaf(tag, hashed, None if before is None else before.place, reason, time_behind(last, server.clock.now_ms()))
    key_log.put(tx, await key_log.take(tx), tag, leaf.write())
    tx.after_commit(lambda: server.wakeups.wake(waiting_key(node)))
    return True


def time_behind(last: Placed | None, now_ms: int) -> int:
    """The second that a leaf says which comes behind another: never one before that, should the clock be set back."""
    try:
        before = 0 if last is None else read(last.leaf).time
    except NoLeaf:  # somebody has been at the database, which keeps nobody from changing keys, and shows
        before = 0
    return max(before, now_ms // 1000)


def _is_new(before: Placed | None, made: bytes, hashed: bytes, reason: Reason) -> bool:
    if before is None:
        return made != NO_KEYS
    last = Leaf.read(before.leaf)
    return last.digest != hashed or (Reason.LEFT in (last.reason, reason) and last.reason is not reason)
