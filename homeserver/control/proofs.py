"""Audits of what rests where, and evidence of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from homeserver.archives import sealing, unpacked
from homeserver.archives.reading import Archive
from homeserver.control.arguments import given, given_node, several, user_id_of
from homeserver.protocol.errors import Conflict, InvalidParam
from homeserver.residency.proofs import audit, auditing, evidence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.control.arguments import Arguments


async def residency_audit(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Audit all nodes, or the ``node`` named, and the archives ``backups`` (absolute paths; ``key`` opens them)."""
    name = given_node(server, arguments)
    archives = _archives(several(arguments, "backups"), given(arguments, "key"))
    answer = (await auditing.run(server, [] if name is None else [name])).shown()
    answer["findings"] = [{**each, "file": None} for each in answer["findings"]]
    answer["backups"] = []
    for archive in archives:
        file = str(archive.path)
        try:
            async with unpacked.looked_at(server, archive) as (node, manifest):
                findings = await audit.of_node(server, node)
        except OSError as error:
            raise Conflict(f"{file} cannot be looked at: {error.strerror or error}") from None
        answer["backups"].append({"file": file, "node": node.name, "time": manifest["time"]})
        answer["findings"] += [{**each.shown(), "file": file} for each in findings]
        answer["violations"] += sum(each.is_violation for each in findings)
    return answer


def _archives(paths: Sequence[str], key: str | None) -> list[Archive]:
    try:
        opened = None if key is None else sealing.private_key(key)
    except ValueError as error:
        raise InvalidParam(f"The private key cannot be used: {error}") from None
    if not all(Path(path).is_absolute() for path in paths):
        raise InvalidParam("'backups' must be absolute paths")
    return [Archive(Path(path), opened) for path in paths]


async def residency_evidence(server: Server, arguments: Arguments) -> dict[str, Any]:
    """A ``bundle`` of evidence about all nodes, the ``node`` named, or what concerns ``user``; ``texts``: with those of
    the policies."""
    name, user = given_node(server, arguments), given(arguments, "user")
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
