"""Comparing the tables of keys with the key log, user by user: what was written in by hand is found without anybody
asking for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from homeserver.protocol.errors import NodeUnavailable
from homeserver.storage import device_keys, key_log
from homeserver.transparency.agreement import agreed, manifest_of
from homeserver.transparency.proving import Remembered

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.device_keys import UserKeys
    from homeserver.storage.nodes import Node

log = structlog.get_logger("transparency")

AT_ONCE: Final = 100


async def compare_all(server: Server) -> None:
    """Compare the keys of all residents, on all nodes that are up. A job."""
    for node in server.nodes:
        try:
            await compare(node)
        except NodeUnavailable:
            continue


async def compare(node: Node) -> None:
    """`compare_all` of one node. Whose keys are not those of the log is noted for the metrics, and said."""
    complete = (await node.read(key_log.progress)).found == key_log.ALL_FOUND
    misfits: set[str] = set()
    after = 0
    while part := await node.read(key_log.unseen, after, AT_ONCE):
        after = part[-1][0]
        keys = await node.read(device_keys.of_users, [user_id for _, user_id in part])
        misfits |= {user_id for user_id, each in keys.items() if not _fits(each, complete)}
    node.memory(Remembered).misfits = misfits
    if misfits:
        log.error("keys are not those of the key log", node=node.name, users=len(misfits))


def _fits(keys: UserKeys, complete: bool) -> bool:
    """``complete``: everybody is in the log who has keys."""
    known = agreed(keys)
    return not complete if known is None else manifest_of(keys) == known
