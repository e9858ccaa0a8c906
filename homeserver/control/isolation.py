"""Declared isolation of a jurisdiction: on, off, status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.control.arguments import given, needed
from homeserver.residency import isolation

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments


async def isolation_on(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Close the borders of a ``jurisdiction``, for a ``reason``."""
    declared = await isolation.declare(server, needed(arguments, "jurisdiction"), given(arguments, "reason") or "")
    return declared._asdict()


async def isolation_off(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Open the borders of a ``jurisdiction`` again."""
    await isolation.release(server, needed(arguments, "jurisdiction"))
    return {}


async def isolation_status(server: Server, _: Arguments) -> dict[str, Any]:
    """What is isolated, and what waits."""
    declared = [each._asdict() for each in await isolation.declared(server)]
    return {"isolated": declared, "waiting": await isolation.waiting(server)}
