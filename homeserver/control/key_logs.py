"""The key logs of the nodes: how far they are, and beginning one anew that was set back; the logs of others that are
witnessed; and alarms about either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.control.arguments import needed, node_called
from homeserver.protocol.errors import BadJson
from homeserver.transparency import alarms, peers, renewing, serving, stating, witnessing

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments


async def log_status(server: Server, _: Arguments) -> dict[str, Any]:
    """How far the log of each node is; and which logs of other servers contradict themselves."""
    return {
        "logs": [await serving.status(server, node) for node in server.nodes],
        "alarms": [each for each in await alarms.shown(server) if each["ended"] is None],
        "contradictions": await peers.told(server),
        "alarm_faults": await stating.faults(server),
    }


async def log_begin_anew(server: Server, arguments: Arguments) -> dict[str, Any]:
    """End the log of a ``node``, for a ``reason`` that everybody is shown, and begin another."""
    node = node_called(server, needed(arguments, "node"))
    return {"origin": await renewing.begin_anew(server, node, needed(arguments, "reason"))}


async def log_alarms(server: Server, _: Arguments) -> dict[str, Any]:
    """All alarms that there ever were, with what proves them."""
    return {"alarms": await alarms.shown(server), "faults": await stating.faults(server)}


async def log_alarm_end(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Say of the alarm ``number``, for a ``reason`` that everybody is shown, that it has been dealt with, or why it is
    gone."""
    number = arguments.get("number")
    if not isinstance(number, int) or isinstance(number, bool):
        raise BadJson("'number' must be a JSON integer")
    return {"origin": await stating.end(server, number, needed(arguments, "reason"))}


async def log_witness_list(server: Server, _: Arguments) -> dict[str, Any]:
    """The logs that are or were witnessed here."""
    return await witnessing.overview(server)


async def log_witness_add(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Witness the log ``log``, a name or where it is served, that signs with ``key``."""
    return {"origin": await witnessing.add(server, needed(arguments, "log"), needed(arguments, "key"))}


async def log_witness_remove(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Witness the log of this ``origin`` no more."""
    await witnessing.remove(server, needed(arguments, "origin"))
    return {}
