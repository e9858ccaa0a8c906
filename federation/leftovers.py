"""What waits for servers that have not been reached for long, and need not be sent any more.

Of the changes of a user's keys the last is enough: who missed one before it sees so, and asks for the whole list. What
is older than `federation.keep_undelivered` is given up: messages to devices are lost, of the keys the server is told
when it is back, and of the events it gets the newest of each room and asks for what was before.

spec: server-server-api/#device-management
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from federation.sender import FIRST_PAUSE
from homeserver.protocol.errors import NodeUnavailable
from homeserver.rooms.outgoing import Lines
from homeserver.runtime import pauses
from homeserver.storage import peers

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.nodes import Node

LONG_AWAY: Final = 24 * 3600.0
"""Seconds after which a server is taken to be away for long; sooner where pauses are so short that failures are not
counted as far."""

log = structlog.get_logger("federation")

REPLACED: Final = ("m.device_list_update", "m.signing_key_update")
"""The EDUs of which the last one about a user is enough."""


def failures_in(seconds: float, longest: float) -> int:
    """How often a server that is away has been tried in vain after so long, with pauses of at most ``longest``."""
    count, passed = 1, 0.0
    while passed < seconds and count < pauses.MOST_FAILURES:
        passed += pauses.LEAST_SPREAD * pauses.after(count, FIRST_PAUSE, longest)
        count += 1
    return count


async def tidy(server: Server) -> None:
    """Drop what need not be sent any more, on all nodes that are up. A job."""
    for node in server.nodes:
        try:
            await _tidy(server, node)
        except NodeUnavailable:
            continue


async def _tidy(server: Server, node: Node) -> None:
    collapsed = server.telemetry.counter(
        "domicile_federation_collapsed", "Changes of keys that were not sent to a server that is away: a later one is."
    )
    expired = server.telemetry.counter(
        "domicile_federation_expired", "Messages to devices that were given up: their server was away for too long."
    )
    settings, now = server.settings.federation, server.clock.now_ms()
    await node.start()
    old = await node.write(peers.mark, now, node.position, now - settings.keep_undelivered.ms)
    for name in await node.read(peers.away, failures_in(LONG_AWAY, settings.longest_backoff.seconds)):
        collapsed.inc(by=await node.write(peers.keep_newest, name, REPLACED))
        lost = await node.write(peers.give_up, name, old)
        if lost is None:
            continue
        expired.inc(by=lost)
        log.info("what is old is not sent to a server that is away", node=node.name, server=name, messages=lost)
        lines = node.memory(Lines)
        lines.owed = None
        if name in lines.held:
            lines.held[name].doubt()
