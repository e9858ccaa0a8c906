"""What waits for servers that have not been reached for long, and need not be sent any more.

Of the changes of a user's keys the last is enough: who missed one before it sees so, and asks for the whole list.

spec: server-server-api/#device-management
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from federation.sender import FIRST_PAUSE, LEAST_SPREAD, MOST_FAILURES
from homeserver.protocol.errors import NodeUnavailable
from homeserver.storage import peers

if TYPE_CHECKING:
    from homeserver.context import Server

LONG_AWAY: Final = 24 * 3600.0
"""Seconds after which a server is taken to be away for long; sooner where pauses are so short that failures are not
counted as far."""

REPLACED: Final = ("m.device_list_update", "m.signing_key_update")
"""The EDUs of which the last one about a user is enough."""


def failures_in(seconds: float, longest: float) -> int:
    """How often a server that is away has been tried in vain after so long, with pauses of at most ``longest``."""
    count, passed = 1, 0.0
    while passed < seconds and count < MOST_FAILURES:
        passed += LEAST_SPREAD * min(FIRST_PAUSE * 2.0 ** (count - 1), longest)
        count += 1
    return count


async def collapse(server: Server) -> None:
    """Keep one change of keys of each user for each server that is away for long, on all nodes that are up. A job."""
    failures = failures_in(LONG_AWAY, server.settings.federation.longest_backoff.seconds)
    dropped = server.telemetry.counter(
        "domicile_federation_collapsed", "Changes of keys that were not sent to a server that is away: a later one is."
    )
    for node in server.nodes:
        try:
            for name in await node.read(peers.away, failures):
                dropped.inc(by=await node.write(peers.keep_newest, name, REPLACED))
        except NodeUnavailable:
            continue
