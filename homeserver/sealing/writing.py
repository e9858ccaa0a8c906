"""Sealing what was noticed and writing it down: a job, off the way of every request.

Nothing is written in the clear. A batch is sealed to the epoch of the transaction that writes it. What cannot be
written is forgotten, and noticed anew when its device comes again: no address waits for a node that is down.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from homeserver.protocol import epochs as protocol
from homeserver.protocol.errors import NodeUnavailable
from homeserver.runtime.jobs import Postponed
from homeserver.sealing import epochs, last_days
from homeserver.sealing.noticing import Noticed, Notices
from homeserver.storage import sessions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config.disclosure import Disclosure
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("sealing")

LONGEST: Final = 5.0
"""Seconds that a node has for the last records."""
BATCH: Final = 50
"""Records that are sealed and written together: some ten milliseconds."""
PAUSE: Final = 0.05
"""Seconds between two batches, which are for others: when a day begins, everybody is new."""


async def keep_sealed(server: Server) -> None:
    """Seal what was noticed on each node, and destroy what is too old. A job. Raises Postponed."""
    down = []
    for node in list(server.nodes):
        try:
            await epochs.destroy_old(server, node)
            await seal_waiting(server, node, PAUSE)
        except NodeUnavailable:
            node.memory(Notices).forget()
            down.append(node.name)
    if down:
        raise Postponed(f"down: {', '.join(down)}")


async def seal_last(server: Server) -> None:
    """Seal what waits on the nodes that can be reached, before the server stops."""
    for node in list(server.nodes):
        try:
            async with asyncio.timeout(LONGEST):
                await seal_waiting(server, node)
        except (NodeUnavailable, TimeoutError):
            log.warning("records of sessions were not written", node=node.name)


async def seal_waiting(server: Server, node: Node, pause: float = 0.0) -> None:
    """Seal and write all that waits on a node, with pauses (seconds); without custodians, forget it. Raises
    NodeUnavailable."""
    notices = node.memory(Notices)
    while True:
        ceiling = server.policy.now.disclosure(node.jurisdiction)
        if not ceiling.custodians:
            notices.forget()
        if not (batch := notices.take(BATCH)):
            return
        try:
            await node.write(_write, server, ceiling, batch)
        except BaseException:
            notices.forget()
            raise
        if notices.waiting:
            await server.clock.sleep(pause)


async def _write(tx: Transaction, server: Server, ceiling: Disclosure, batch: Sequence[Noticed]) -> None:
    """A device that is gone is passed over, and so are those of who has closed their account meanwhile, or moved."""
    there = await sessions.devices_there(tx, {each.device_nid for each in batch})
    kept = [each for each in batch if (each.user_nid, each.device_nid) in there]
    if not kept:
        return
    now_ms = server.clock.now_ms()
    epoch = await epochs.current(tx, ceiling, now_ms)
    number, key = epoch.epoch.number, epoch.epoch.public_key
    boxes = [(each.user_nid, protocol.seal(tx.node, number, key, each.record)) for each in kept]
    sessions.add(tx, number, sorted(boxes))  # not in the order in which they came
    days = {
        (each.user_nid, each.device_nid): last_days.tag(server, epoch.salt, each.device_nid, each.record.ts)
        for each in kept
    }
    sessions.put_days(tx, number, [(*device, tag) for device, tag in days.items()])
