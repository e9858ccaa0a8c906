"""Doing the chores of a kind on a node as they come, for ever: what fails is tried again, and ends nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from homeserver.protocol.errors import NodeUnavailable
from homeserver.storage import chores

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from homeserver.context import Server
    from homeserver.storage.nodes import Node

log = structlog.get_logger("e2ee.chores")

RETRY_AFTER: Final = 1.0
"""Seconds until a node that is down is tried again."""


async def keep_doing(server: Server, node: Node, kind: str, do_some: Callable[[Server, Node], Awaitable[bool]]) -> None:
    """Have the chores of a kind done whenever some are asked for; for ever.

    ``do_some`` does the oldest, and is False when none are left. It may raise NodeUnavailable.
    """
    while True:
        with server.wakeups.listen([chores.key(node.name, kind)]) as listener:
            try:
                while await do_some(server, node):
                    pass
            except NodeUnavailable:
                await server.clock.sleep(RETRY_AFTER)
                continue
            except Exception:
                log.exception("chores failed", node=node.name, kind=kind)
                await server.clock.sleep(RETRY_AFTER)
                continue
            await listener.wait()
