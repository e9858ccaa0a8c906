"""The passport, for whoever stands at the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.passport import issuing

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments


async def passport(server: Server, _: Arguments) -> dict[str, Any]:
    """What the deployment says of itself now."""
    return {"passport": await issuing.issue(server)}
