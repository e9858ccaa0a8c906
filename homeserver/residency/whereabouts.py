"""Where a user's data is: what each node holds of it, and which places their rooms reach.

The user's own node answers at once. The others are asked for a number of rows each; one that is down or slow is said to
be so, and holds up nobody.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from homeserver.protocol.errors import NodeUnavailable
from homeserver.runtime.deadlines import within
from homeserver.runtime.lru import Lru
from homeserver.runtime.turns import Turns
from homeserver.storage import holdings, pins
from homeserver.storage.holdings import Company, Files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from config.residency import DataClass
    from homeserver.context import Caller, Server
    from homeserver.storage.nodes import Node
    from homeserver.storage.pins import PinEvidence

PATIENCE: Final = 3.0
"""Seconds that another node may take."""
FRESH: Final = 60.0
"""Seconds for which a count is good: it reads all that somebody has ever written."""
MOST: Final = 1000


class Amount(NamedTuple):
    """Rows of a data class, and about how many bytes they are."""

    rows: int
    size: int


class Stored(NamedTuple):
    """What one node holds of somebody, by data class; None: it cannot be asked now."""

    node: str
    jurisdiction: str
    classes: Mapping[DataClass, Amount] | None
    files: Files


class Whereabouts(NamedTuple):
    """Where somebody's data is, and why; ``pin`` None: nothing was noted. ``counted_ts``: when it was counted
    (milliseconds since 1970)."""

    pin: PinEvidence | None
    stored: list[Stored]
    company: Company
    counted_ts: int


class _Counts(Turns):
    """What was counted lately (``node.memory(_Counts)``), by user id; each user is counted once at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.held: Lru[str, tuple[float, Whereabouts]] = Lru(MOST)


async def of_user(server: Server, caller: Caller) -> Whereabouts:
    """Where the caller's data is, as it was within the last minute. Raises NodeUnavailable when their own node is."""
    counts = caller.node.memory(_Counts)
    async with counts.alone(caller.user_id):
        earlier = counts.held.get(caller.user_id)
        if earlier is not None and earlier[0] > server.clock.monotonic():
            return earlier[1]
        others = [node for node in server.nodes if node is not caller.node]
        own = _stored(caller.node, *await caller.node.read(holdings.of_user, caller.user_id))
        pin = await caller.node.read(pins.find, caller.user_nid)
        company = await caller.node.read(holdings.company, caller.user_nid)
        elsewhere = await asyncio.gather(*(_asked(server, node, caller.user_id) for node in others))
        found = Whereabouts(pin, [own, *elsewhere], company, server.clock.now_ms())
        if all(each.classes is not None for each in elsewhere):
            counts.held[caller.user_id] = server.clock.monotonic() + FRESH, found
        return found


async def _asked(server: Server, node: Node, user_id: str) -> Stored:
    try:
        async with within(server.clock, PATIENCE):
            return _stored(node, *await node.read(holdings.of_user, user_id))
    except (NodeUnavailable, TimeoutError):
        return Stored(node.name, node.jurisdiction, None, Files(0, 0))


def _stored(node: Node, held: list[holdings.Held], files: Files) -> Stored:
    classes: dict[DataClass, Amount] = {}
    for each in held:
        rows, size = classes.get(each.data_class, Amount(0, 0))
        classes[each.data_class] = Amount(rows + each.rows, size + each.size)
    return Stored(
        node.name, node.jurisdiction, {name: amount for name, amount in classes.items() if amount.rows}, files
    )
