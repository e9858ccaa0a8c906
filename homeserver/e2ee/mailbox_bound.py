"""The bound of mailboxes: what is sent to a device that never comes back is not kept for ever.

A mailbox is looked at after every so many new messages, so it may hold a tenth more than the setting says.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from homeserver.protocol.errors import NodeUnavailable
from homeserver.runtime.lru import Lru
from homeserver.storage import to_device as stored

if TYPE_CHECKING:
    from collections.abc import Iterable

    from homeserver.context import Server
    from homeserver.runtime.telemetry import Counter
    from homeserver.storage.nodes import Node

log = structlog.get_logger("e2ee.mailbox_bound")


class Filling:
    """Messages that came since each mailbox was last looked at (``node.memory(Filling)``); ``due``: who is next."""

    def __init__(self) -> None:
        self.fresh: Lru[int, int] = Lru(50_000)
        self.due: set[int] = set()
        self.task: asyncio.Task[None] | None = None


def show(server: Server) -> None:
    """Have `/metrics` show from the start that nothing was dropped: an alarm compares with that."""
    for node in server.nodes:
        _counter(server).inc(node.name, by=0)


def _counter(server: Server) -> Counter:
    return server.telemetry.counter(
        "domicile_mailbox_dropped", "Messages to devices that were dropped: too many waited.", ["node"]
    )


def note(server: Server, node: Node, device_nids: Iterable[int]) -> None:
    """Messages came to these devices; to be called after the commit. Does not wait."""
    filling, every = node.memory(Filling), max(1, server.settings.limits.mailbox // 10)
    for device_nid in device_nids:
        fresh = (filling.fresh.get(device_nid) or 0) + 1
        if fresh >= every:
            filling.due.add(device_nid)
        filling.fresh[device_nid] = fresh % every
    if filling.due and filling.task is None:
        filling.task = asyncio.get_running_loop().create_task(_trim(server, node, filling))


async def _trim(server: Server, node: Node, filling: Filling) -> None:
    try:
        while filling.due:
            due, filling.due = filling.due, set()
            dropped = await node.write(stored.trim, due, server.settings.limits.mailbox)
            if dropped:
                _counter(server).inc(node.name, by=dropped)
                log.warning("a mailbox is full: its oldest messages were dropped", node=node.name, messages=dropped)
    except NodeUnavailable:
        pass  # they are looked at again after as many messages more
    except Exception:
        log.exception("mailboxes could not be trimmed", node=node.name)
    finally:
        filling.task = None
