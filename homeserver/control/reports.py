"""What users have reported: list, dismiss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.accounts import reports
from homeserver.control.arguments import needed
from homeserver.protocol.errors import BadJson, NodeUnavailable

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments


async def report_list(server: Server, _: Arguments) -> dict[str, Any]:
    """What users have reported, oldest first, and the nodes that could not be asked."""
    found: list[dict[str, Any]] = []
    down = []
    for node in server.nodes:
        try:
            found += [{**report._asdict(), "node": node.name} async for report in reports.all_of(node)]
        except NodeUnavailable:
            down.append(node.name)
    return {"reports": found, "nodes_down": down}


async def report_dismiss(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Remove a report: ``node`` and its number there, ``report_id``."""
    report_id = arguments.get("report_id")
    if not isinstance(report_id, int):
        raise BadJson("'report_id' must be an integer")
    await reports.dismiss(server, needed(arguments, "node"), report_id)
    return {}
