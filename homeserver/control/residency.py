"""The residency policy, and what it comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.residency import traffic

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments


async def residency_traffic(server: Server, _: Arguments) -> dict[str, Any]:
    """Bytes by source and target jurisdiction."""
    return {"traffic": traffic.table(server)}
