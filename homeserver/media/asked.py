"""Notes when uploads are asked for, where a jurisdiction keeps them no longer than somebody does (see retention.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.runtime.lru import Lru
from homeserver.storage import media as stored

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.nodes import Node

TOUCH_MS: Final = 3_600_000
"""How exactly it is known when a medium was asked for last."""
REMEMBERED: Final = 20_000


class Asked:
    """When media were last noted as asked for (``node.memory(Asked)``), in milliseconds since 1970."""

    def __init__(self) -> None:
        self.noted: Lru[str, int] = Lru(REMEMBERED)


def kept_ms(server: Server, node: Node) -> int | None:
    """How long a node keeps uploads that nobody asks for, in milliseconds; None: for ever."""
    kept = server.policy.now.retention(node.jurisdiction).media
    return None if kept is None else kept.ms


async def note(server: Server, node: Node, media_id: str) -> None:
    """Somebody asks for a medium. Usually no trip. Raises NodeUnavailable."""
    if kept_ms(server, node) is None:
        return
    noted, now = node.memory(Asked).noted, server.clock.now_ms()
    if (noted.get(media_id) or 0) + TOUCH_MS < now:
        await node.write(stored.touch, media_id, now)
        noted[media_id] = now
