"""Which policies were in force, as operators see it: records and faults, and never the texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.protocol import policy_chain
from homeserver.protocol.errors import BadJson
from homeserver.residency.changes import chain
from homeserver.storage import policy_versions

if TYPE_CHECKING:
    from homeserver.context import Server


async def of(server: Server) -> dict[str, Any]:
    """Every version in its order with the ``faults`` of each, and the public ``key`` that signed them."""
    routes, identity = server.nodes.directory.engine, server.identity
    faults = await chain.faults(routes, identity)
    shown: list[dict[str, Any]] = []
    after = -1
    while links := await routes.read(policy_versions.page, after, chain.AT_ONCE):
        for link in links:
            try:
                said = dict(policy_chain.shown(policy_chain.read(link.record), link.record))
            except BadJson:
                said = {"record_sha256": policy_chain.digest(link.record)}
            shown.append({**said, "serial": link.serial, "faults": faults.get(link.serial, [])})
        after = links[-1].serial
    return {"versions": shown, "key": key_of(server), "intact": not faults}


def key_of(server: Server) -> dict[str, str]:
    """The key that signs the versions: its id, and it itself in unpadded Base64."""
    key = server.identity.residency_key.verify_key
    return {"key_id": key.key_id, "key": key.base64}


async def in_force(server: Server) -> dict[str, Any]:
    """What anybody may know of the policy in force: its number, since when, the hash of its record, and the key."""
    try:
        link = await chain.newest(server.nodes.directory.engine, server.identity)
    except chain.BrokenChain:  # which the operator is told elsewhere
        link = None
    if link is None:
        return {"server_name": server.name, **key_of(server), "version": None}
    version = policy_chain.read(link.record)
    return {
        "server_name": server.name,
        **key_of(server),
        "version": {
            "serial": version.serial,
            "time": version.time,
            "text_sha256": version.text_sha256,
            "record_sha256": policy_chain.digest(link.record),
        },
    }
