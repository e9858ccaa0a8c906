"""The count of a node's ephemeral changes: typing and presence, which rest in no database and have no position.

It starts at the wall clock's milliseconds, so that it goes on growing over restarts as long as there are fewer than a
thousand such changes a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.runtime.clock import SystemClock

if TYPE_CHECKING:
    from homeserver.storage.nodes import Node


class Ticks:
    """The counter of one node (``node.memory(Ticks)``)."""

    def __init__(self) -> None:
        self.count = SystemClock().now_ms()


def now(node: Node) -> int:
    """The number of the last ephemeral change."""
    return node.memory(Ticks).count


def tick(node: Node) -> int:
    """Count one more change; returns its number."""
    ticks = node.memory(Ticks)
    ticks.count += 1
    node.stir()
    return ticks.count
