"""What everybody may know of the jurisdictions that are being left, and of those that were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.protocol import canonical
from homeserver.storage import withdrawals

if TYPE_CHECKING:
    from homeserver.context import Server


async def public(server: Server) -> list[dict[str, Any]]:
    """Every withdrawal, the oldest first: how far it is, and in the end what the nodes have signed."""
    return [
        {
            "jurisdiction": each.jurisdiction,
            "nodes": list(each.nodes),
            "state": each.state,
            "announced_ts": each.announced_ts,
            "ends_ts": each.ends_ts,
            "receipt": None if each.receipt is None else canonical.parse_object(each.receipt),
        }
        for each in await server.nodes.directory.engine.read(withdrawals.every)
    ]
