"""What a new federation list does to rooms that are there: which of them break a rule now, said as a plan says it.

Nothing is done to them, as after a plan: what may not flow any more is withheld where it would leave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from homeserver.residency.changes import surveying
from homeserver.residency.listing import holding

if TYPE_CHECKING:
    from homeserver.context import Server

log = structlog.get_logger("residency.changes")


async def report(server: Server) -> None:
    """Look at the rooms, if another list has come to hold since that was done last. Raises NodeUnavailable."""
    held = holding.of(server)
    listed, after = held.before, server.policy.now
    if listed is None:
        return
    found = await surveying.of_rooms(server, after.listing(listed), after)
    shown = surveying.shown(found)
    held.report = {"time": server.clock.now_ms(), "rooms": shown["rooms"], "servers": shown["servers"]}
    held.before = None if server.policy.now.listed == after.listed else after.listed
    if found.broken_rooms.count or found.servers_lost.count:
        log.warning(
            "rooms break a rule since the federation list changed: `domicile federation-list status` names them",
            rooms=found.broken_rooms.count,
            servers_lost=found.servers_lost.count,
        )
