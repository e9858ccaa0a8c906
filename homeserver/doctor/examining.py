"""Examining a deployment: what its databases, its files and its directory say of one another. Changes nothing.

Everything is read, so that it takes as long as a backup; a node that is being written to is looked at as it is at some
moment, its files and routes a moment later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from config.disclosure import SEALED
from homeserver.archives.backing_up import media_files
from homeserver.disclosure import conditions, register
from homeserver.doctor import listing, logs, routes
from homeserver.doctor.findings import Finding
from homeserver.media import shelves
from homeserver.media.store import Files
from homeserver.protocol import policy_chain
from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.policy_chain import Link
from homeserver.residency.changes import chain
from homeserver.storage import aftermath, audit, policy_versions, soundness
from homeserver.storage.directory import NOBODY

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.context import Server
    from homeserver.storage.engine import Engine, Transaction
    from homeserver.storage.nodes import Node

RESTORE: Final = "put the node back from its newest sound backup; `domicile backup` it first, as it is"


async def examine(server: Server, only: Collection[str] = ()) -> list[Finding]:
    """What is wrong with a deployment, or with the nodes named."""
    found = [] if only else await _directory(server)
    for node in server.nodes:
        if only and node.name not in only:
            continue
        try:
            found += await _node(server, node)
        except NodeUnavailable:
            reason = node.engine.health().reason or "its media folder cannot be read"
            found.append(
                Finding(node.name, "node that is down", 1, f"{' '.join(reason.split())}; see `domicile check`")
            )
    return found


async def _directory(server: Server) -> list[Finding]:
    engine = server.nodes.directory.engine
    found = await _damage(None, engine, "put the directory back from its newest sound backup")
    links = [Link(serial, bytes(record), text) for serial, record, text in await engine.read(_versions)]
    key = server.identity.residency_key.verify_key
    words = "somebody has changed directory.db, or deployment.secret is another: put both back from backups"
    for fault in chain.worded(policy_chain.chain_faults(links, server.name, key)):
        found.append(Finding(None, fault, 1, words))
    found += listing.examine(server)
    found += await logs.examine(server)
    there = {node.name for node in server.nodes} | {NOBODY, *server.policy.withdrawn}
    counts = await engine.read(soundness.route_counts)
    for name in sorted({name for _, name in counts} - there):
        number = sum(count for (_, node), count in counts.items() if node == name)
        words = "give the policy its node back, or what they led to is lost"
        found.append(Finding(None, f"routes to {name}, which is no node", number, words))
    return found


async def _damage(name: str | None, engine: Engine, remedy: str) -> list[Finding]:
    """What the database finds wrong with itself."""
    if engine.kind == "sqlite":
        return [Finding(name, f"damage: {line}", 1, remedy) for line in await engine.read(soundness.damage)]
    broken = await engine.read(soundness.broken_indexes)
    return [Finding(name, f"broken index {index}", 1, "make it anew with REINDEX INDEX") for index in broken]


async def _versions(tx: Transaction) -> list[tuple[int, bytes, str]]:
    return [(row[0], row[1], row[2]) for row in await tx.all(policy_versions.ALL)]


async def _node(server: Server, node: Node) -> list[Finding]:
    found = [*_unkept(server, node), *await _register(server, node), *await _damage(node.name, node.engine, RESTORE)]
    found += [Finding(node.name, what, count, RESTORE) for what, count in await node.read(soundness.unsound)]
    waiting = [each.node for each in await node.read(aftermath.reunions)]
    if waiting:
        words = f"it was put back from a backup; have {', '.join(waiting)} run and reachable, and the server started"
        found.append(Finding(node.name, "nodes that have yet to tell what this one has forgotten", len(waiting), words))
    return [*found, *await _files(node), *await routes.examine(server, node)]


async def _register(server: Server, node: Node) -> list[Finding]:
    """What is wrong with the register of disclosures."""
    words = f"find out who was at the database; nothing is disclosed there meanwhile, and {RESTORE}"
    checked = await node.read(register.check, server)
    if checked.faults:
        return [Finding(node.name, f"register of disclosures: {checked.faults[0]}", len(checked.faults), words)]
    if (seen := conditions.behind(server, checked)) is None:
        return []
    words = f"set the clock right; if it is, and had run ahead, `domicile disclose clock {node.name}` goes on from now"
    said = f"register of disclosures that has seen {conditions.moment(seen)}, which is still to come"
    return [Finding(node.name, said, 1, words)]


def _unkept(server: Server, node: Node) -> list[Finding]:
    """What could be asked for by the policy, and is not kept."""
    code = node.jurisdiction
    ceiling = server.policy.now.disclosure(code)
    named = [name for name in ceiling.fields if name in SEALED]
    if not named or ceiling.custodians:
        return []
    words = (
        f"name custodians in [disclosure.{code}.custodians], or take {', '.join(named)} from disclosure.{code}.fields"
    )
    return [
        Finding(node.name, "fields under the ceiling that are not kept, for there are no custodians", len(named), words)
    ]


async def _files(node: Node) -> list[Finding]:
    """Rows without their file, and files without a row."""
    known = await node.read(audit.file_names)
    whole, strange = set(), 0
    for path in await node.memory(Files).run(node, lambda: list(media_files(node.media))):
        named = shelves.belongs_to(path.name)
        if named is None or known.get(named[0]) != named[1]:
            strange += 1
        elif path.name == f"{named[0]}-{named[1]}":
            whole.add(named[0])
    if strange:  # what came since the rows were read
        now = await node.read(audit.file_names)
        left = await node.memory(Files).run(node, lambda: list(media_files(node.media)))
        named_now = [shelves.belongs_to(path.name) for path in left]
        strange = sum(named is None or now.get(named[0]) != named[1] for named in named_now)
        known = {name: digest for name, digest in known.items() if name in now}
    found = []
    if gone := len(known.keys() - whole):
        words = (
            f"look whether {node.media} is the right folder; else put the files back from a backup, or they are lost"
        )
        found.append(Finding(node.name, "media without their file", gone, words))
    if strange:
        words = "`domicile residency audit` names them; the server removes what uploads have left within a day"
        found.append(Finding(node.name, "files of which no row speaks", strange, words))
    return found
