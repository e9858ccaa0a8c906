"""Audits of what rests where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.control.arguments import given
from homeserver.protocol.errors import InvalidParam
from homeserver.residency.proofs import auditing

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments


async def residency_audit(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Audit all nodes, or the ``node`` named."""
    name = given(arguments, "node")
    names = [node.name for node in server.nodes]
    if name is not None and name not in names:
        raise InvalidParam(f"There is no node {name}; there are {', '.join(names)}")
    report = await auditing.run(server, [] if name is None else [name])
    return report.shown()
