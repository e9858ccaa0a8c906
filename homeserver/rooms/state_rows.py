"""State events as they are shown, in memory by row id: whoever looks at a room needs the same few.

What is redacted is forgotten, with all else: that happens to few state events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.runtime.lru import Lru
from homeserver.storage import events
from homeserver.storage.nodes import Mirror

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from homeserver.storage.events import StoredEvent
    from homeserver.storage.nodes import Node

ROWS_BYTES = 48 * 1024 * 1024
"""Memory that the rows of a node may take, as it is estimated."""
ROW_BYTES = 700
"""What CPython 3.11 needs for one beside its bytes, as measured."""


def _weigh(row: StoredEvent) -> int:
    return ROW_BYTES + len(row.client) + len(row.unsigned or b"")


class StateRows(Mirror):
    """The rows of a node (``node.memory(StateRows)``), without their ``rest``.

    ``generation`` counts how often they were forgotten: what was read before that is not remembered after it.
    """

    def __init__(self) -> None:
        self.held: Lru[int, StoredEvent] = Lru(ROWS_BYTES, _weigh, "state_rows")
        self.generation = 0

    def clear(self) -> None:
        """See `Mirror.clear`; to be called after the commit that redacts a state event."""
        self.generation += 1
        self.held.clear()


async def find(node: Node, event_nids: Collection[int]) -> Mapping[int, StoredEvent]:
    """State events by row id; one trip for those that are not in memory."""
    memory = node.memory(StateRows)
    found = memory.held.find(event_nids)
    if len(found) < len(event_nids):
        generation = memory.generation
        missing = [nid for nid in event_nids if nid not in found]
        read = events.few_by_nids if len(missing) <= events.AT_ONCE else events.by_nids
        for row in await node.read(read, missing):
            kept = found[row.event_nid] = row._replace(rest=b"")
            if generation == memory.generation:
                memory.held[row.event_nid] = kept
    return found
