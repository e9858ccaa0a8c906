"""Order on the way to another node: what belongs to one room stays in its order, and waits for nothing else.

A parcel that the policy holds back is set aside, and so is what comes behind it of the same room (of parcels that
belong to no room: of the same kind); the rest goes on. When the policy allows it, the room's parcels are queued anew,
in their order and behind everything, so that a position of the outbox still says how far it has been applied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from homeserver.storage import outbox, streams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from config.policy import Policy
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.outbox import Lane, Parcel

log = structlog.get_logger("rooms.lanes")


class Lanes:
    """What is held back between two nodes. ``closed``: by lane, the kind of its oldest parcel. ``waits`` says of a
    kind, or of a parcel, whether the policy holds it back.
    """

    def __init__(self, server: Server, source: Node, destination: Node) -> None:
        self.closed: dict[Lane, str] = {}
        self._server = server
        self._source = source
        self._destination = destination
        self._asked: Policy | None = None

    async def load(self) -> None:
        """Learn from the database what is held back."""
        self.closed = await self._source.read(outbox.held, self._destination.name)
        self._asked = None

    async def reopen(self, after: int, waits: Callable[[str], bool]) -> None:
        """Queue anew what the policy has come to allow; ``after``: what has been applied."""
        if not self.closed or self._asked is self._server.policy.now:
            return
        policy = self._server.policy.now
        for lane in [lane for lane, kind in self.closed.items() if not waits(kind)]:
            await self._source.advance(self._bring_back, lane, after)
            del self.closed[lane]
        self._asked = policy

    async def _bring_back(self, tx: Transaction, lane: Lane, after: int) -> None:
        waiting = await outbox.of_lane(tx, self._destination.name, lane, after)
        first = await streams.allocate(tx, len(waiting))
        await outbox.move(tx, [(pos, first + offset) for offset, pos in enumerate(waiting)])
        last = first + len(waiting) - 1
        tx.after_commit(lambda: self._source.announce(last, []))

    async def let_through(self, parcels: Sequence[Parcel], waits: Callable[[Parcel], bool]) -> list[Parcel]:
        """Those of the oldest parcels that may go now; the others have been set aside."""
        through: list[Parcel] = []
        aside: list[int] = []
        closed = dict(self.closed)
        for parcel in parcels:
            lane = outbox.lane_of(parcel)
            if lane not in closed and not waits(parcel):
                through.append(parcel)
                continue
            if lane not in closed:
                log.warning(
                    "held back by the policy",
                    node=self._source.name,
                    destination=self._destination.name,
                    kind=parcel.kind,
                )
                closed[lane] = parcel.kind
            aside.append(parcel.pos)
        if aside:
            # Before anything behind them is applied: from then on its position would say that these are done.
            await self._source.write(outbox.move, [(pos, -pos) for pos in aside])
        self.closed = closed
        return through
