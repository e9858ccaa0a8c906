"""Which policies were in force, as operators see it: records and faults, and never the texts.

The key logs of the nodes have seen each version; so a history that was written anew, or cut off, is a fault too.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from homeserver.protocol import policy_chain
from homeserver.protocol.errors import BadJson, NodeUnavailable
from homeserver.protocol.key_log import Kind
from homeserver.residency.changes import chain
from homeserver.storage import policy_versions
from homeserver.transparency import statements

if TYPE_CHECKING:
    from homeserver.context import Server


async def of(server: Server) -> dict[str, Any]:
    """Every version in its order with the ``faults`` of each, and the public ``key`` that signed them.

    ``logged``: at which index the key logs of the nodes have a version, of those that are up and state it.
    """
    routes, identity = server.nodes.directory.engine, server.identity
    faults = await chain.faults(routes, identity)
    logged = await _logged(server)
    shown: list[dict[str, Any]] = []
    after = -1
    while links := await routes.read(policy_versions.page, after, chain.AT_ONCE):
        for link in links:
            digest = policy_chain.digest(link.record)
            try:
                said = dict(policy_chain.shown(policy_chain.read(link.record), link.record))
            except BadJson:
                said = {"record_sha256": digest}
            places = {node: said[digest][0] for node, said in logged.items() if digest in said}
            shown.append({**said, "serial": link.serial, "faults": faults.get(link.serial, []), "logged": places})
        after = links[-1].serial
    _compare(shown, logged)
    return {"versions": shown, "key": key_of(server), "intact": not any(each["faults"] for each in shown)}


async def _logged(server: Server) -> dict[str, dict[str, tuple[int, int]]]:
    """By node and digest of a record, at which index the key log has it, and as which version."""
    found = {}
    for node in server.nodes:
        with suppress(NodeUnavailable):
            stated = await node.read(statements.stated, Kind.POLICY)
            found[node.name] = {each.said.digest: (each.place, each.said.number) for each in stated}
    return found


def _compare(shown: list[dict[str, Any]], logged: dict[str, dict[str, tuple[int, int]]]) -> None:
    """Note as faults what the key logs say otherwise: of each serial they have seen one version."""
    digests = {each["serial"]: each["record_sha256"] for each in shown}
    others: dict[int, set[str]] = {}
    for node, said in logged.items():
        for digest, (_, serial) in said.items():
            if digests.get(serial) != digest:
                others.setdefault(serial, set()).add(node)
    for serial, nodes in sorted(others.items()):
        names = ", ".join(sorted(nodes))
        there = next((each for each in shown if each["serial"] == serial), None)
        if there is not None:
            there["faults"].append(f"by the key log of {names}, another version {serial} was in force")
        elif shown:
            shown[-1]["faults"].append(f"by the key log of {names}, there was a version {serial}, which is gone")


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
