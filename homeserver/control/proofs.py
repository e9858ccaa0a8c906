"""Audits of what rests where, and evidence of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.control.arguments import given, user_id_of
from homeserver.protocol.errors import InvalidParam
from homeserver.residency.proofs import auditing, evidence

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments


async def residency_audit(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Audit all nodes, or the ``node`` named."""
    name = _node_name(server, arguments)
    report = await auditing.run(server, [] if name is None else [name])
    return report.shown()


async def residency_evidence(server: Server, arguments: Arguments) -> dict[str, Any]:
    """A ``bundle`` of evidence about all nodes, the ``node`` named, or what concerns ``user``; ``texts``: with those of
    the policies."""
    name, user = _node_name(server, arguments), given(arguments, "user")
    if name is not None and user is not None:
        raise InvalidParam("Evidence is of a node or of a user, not of both")
    user_id = None if user is None else user_id_of(server, user)
    made = await evidence.make(server, node=name, user_id=user_id, texts=bool(arguments.get("texts")))
    return {
        "bundle": made.bundle.decode(),
        "nodes": list(made.nodes),
        "nodes_down": list(made.nodes_down),
        "violations": made.violations,
        "key": server.identity.residency_key.verify_key.base64,
    }


def _node_name(server: Server, arguments: Arguments) -> str | None:
    """The node that is asked about, if it is one. Raises InvalidParam."""
    name = given(arguments, "node")
    names = [node.name for node in server.nodes]
    if name is not None and name not in names:
        raise InvalidParam(f"There is no node {name}; there are {', '.join(names)}")
    return name
