"""The federation list: how it stands with it, and having it fetched now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.control.arguments import given
from homeserver.protocol.errors import Conflict, NotFound
from homeserver.residency.changes import listed
from homeserver.residency.listing import holding, pulling

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments


async def status(server: Server, _: Arguments) -> dict[str, Any]:
    """What holds, and what is wrong."""
    return holding.status(server)


async def servers(server: Server, arguments: Arguments) -> dict[str, Any]:
    """What the list says of all servers, or of one ``server``. Raises NotFound when it says nothing of that."""
    found, name = holding.servers(server), given(arguments, "server")
    if name is not None:
        found = [each for each in found if each["server"] == name.lower()]
        if not found:
            raise NotFound(f"The federation list says nothing of {name}")
    return {"servers": found}


async def pull(server: Server, _: Arguments) -> dict[str, Any]:
    """Fetch the list, and look which rooms break a rule by it. Raises Conflict when none is taken."""
    try:
        changed = await pulling.pull(server)
    except pulling.NotPulled as fault:
        raise Conflict(f"No list was taken: {fault}") from None
    await listed.report(server)
    return {"changed": changed, **holding.status(server)}
