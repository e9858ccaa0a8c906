"""The epochs of nodes: which key is sealed to now, when another takes its place, and when one is destroyed.

An epoch is used from its birth to its end at the latest, and never again once another was born, whatever the clock
says. It is destroyed as soon as its first record could be too old: first the shares, and so all that was sealed to it
at once; then the rows; then what files still hold of them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import structlog
from nacl.utils import random as random_bytes

from homeserver.protocol import epochs as protocol
from homeserver.storage import epochs as stored

if TYPE_CHECKING:
    from config.disclosure import Disclosure
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.epochs import StoredEpoch
    from homeserver.storage.nodes import Node

log = structlog.get_logger("sealing")

TOLERANCE_MS: Final = 60 * 1000
"""How far the clock may go back before that counts as being set back: less than this is a clock that is kept right."""
SALT_BYTES: Final = 16


async def current(tx: Transaction, ceiling: Disclosure, now_ms: int) -> StoredEpoch:
    """The epoch to seal to, which is born now if there is none that may be used."""
    newest = await stored.newest(tx)
    custodians = {name: protocol.read_key(key) for name, key in ceiling.custodians.items()}
    if newest is not None and _serves(newest, custodians, ceiling, now_ms):
        stored.note_use(tx, newest.epoch.number, now_ms)
        return newest
    number = _number(now_ms, 0 if newest is None else newest.epoch.number)
    ends_ts = now_ms + ceiling.epoch.ms
    epoch = protocol.born(tx.node, number, custodians, ceiling.threshold, protocol.Period(now_ms, ends_ts))
    salt = random_bytes(SALT_BYTES)
    stored.put(tx, epoch, salt, now_ms, ends_ts)
    tx.after_commit(lambda: log.info("epoch begun", node=epoch.node, epoch=epoch.number))
    return stored.StoredEpoch(epoch, salt, now_ms, now_ms, ends_ts, None)


def _serves(newest: StoredEpoch, custodians: dict[str, bytes], ceiling: Disclosure, now_ms: int) -> bool:
    return (
        newest.destroyed_ts is None
        and newest.can_be_opened
        and newest.epoch.is_for(custodians, ceiling.threshold)
        and newest.seen_ts - TOLERANCE_MS <= now_ms  # else the clock was set back
        and now_ms < min(newest.ends_ts, newest.born_ts + ceiling.epoch.ms)
    )


def _number(now_ms: int, last: int) -> int:
    """The next number. It is told from when an epoch is, and so no number comes again after a node was restored."""
    born = datetime.fromtimestamp(now_ms / 1000, UTC)
    return max(last + 1, int(f"{born:%Y%m%d%H%M}"))


async def destroy_old(server: Server, node: Node) -> list[int]:
    """Destroy the epochs of a node in which something is older than may be kept, and those of which that was begun;
    returns their numbers. Raises NodeUnavailable."""
    keep = server.policy.now.retention(node.jurisdiction).sessions.ms
    number = await node.read(stored.due, server.clock.now_ms() - keep)
    return [] if number is None else await _destroy(server, node, number)


async def destroy_all(server: Server, node: Node) -> list[int]:
    """Destroy all epochs of a node, whatever their age; returns their numbers. Raises NodeUnavailable."""
    number = await node.read(stored.newest_number)
    return [] if number is None else await _destroy(server, node, number)


async def _destroy(server: Server, node: Node, number: int) -> list[int]:
    """May be cut off anywhere: what was begun is due until it is done."""
    await node.write(stored.close_for_ever, number)
    while await node.write(stored.delete_some, number):
        pass
    await node.engine.purge(stored.TABLES)
    gone = await node.write(stored.note_destroyed, number, server.clock.now_ms())
    if gone:
        log.info("epochs destroyed", node=node.name, epochs=gone)
    return gone
