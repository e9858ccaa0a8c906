"""What a computation over a room's graph says when it needs events that are not loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


class Missing(Exception):
    """State resolution cannot go on without these events.

    ``events`` are wanted whole; of ``edges`` it is enough to know the auth events (either may be empty, not both).
    The next call may ask for what these cite, so that loading their auth chains at once saves rounds.
    """

    def __init__(self, events: Collection[str] = (), edges: Collection[str] = ()) -> None:
        super().__init__(f"{len(events)} events and the auth events of {len(edges)} are not loaded")
        self.events = frozenset(events)
        self.edges = frozenset(edges)

    @property
    def ids(self) -> frozenset[str]:
        """All that is lacking, for callers that only load whole events."""
        return self.events | self.edges
