"""Versions of the residency policy: which were in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.residency.changes import history as versions

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments


async def history(server: Server, _: Arguments) -> dict[str, Any]:
    """Every version that was in force, the key that signs them, and what is wrong with their chain."""
    return await versions.of(server)
