"""Evidence: what this deployment claims about where data rests, gathered, signed, and made to be checked by strangers.

Nobody is named in it but the user for whom it is made: of residents it holds counts, and the root of a tree of salted
commitments, by which that user can see that they were counted. Texts of policies stay out unless they are asked for.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from homeserver.protocol import canonical, evidence, merkle, move_receipts, policy_chain
from homeserver.protocol.errors import Conflict, NodeUnavailable, NotFound
from homeserver.protocol.signing import sign_json
from homeserver.residency import leaving, traffic
from homeserver.residency.proofs import audit, logged
from homeserver.residency.proofs.logged import Logged
from homeserver.storage import archive, isolations, policy_versions
from homeserver.storage import evidence as stored

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.context import Server
    from homeserver.protocol.policy_chain import Link
    from homeserver.residency.proofs.audit import Finding
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

AT_ONCE = 1000
"""Residents, and versions of the policy, that are read together."""


@dataclass(frozen=True, slots=True)
class Made:
    """A bundle, the nodes that it is of, those that could not be asked, and how many things rest where they may not."""

    bundle: bytes
    nodes: tuple[str, ...]
    nodes_down: tuple[str, ...]
    violations: int


@dataclass
class _Residents:
    """The residents of a node as a whole; ``mine``: the leaf of the user who is looked for, ``receipts`` theirs, and
    ``logged`` what the key log says of them, and of the policy."""

    how: Counter[str] = field(default_factory=Counter)
    came_from: Counter[str] = field(default_factory=Counter)
    hashes: list[bytes] = field(default_factory=list)
    mine: bytes | None = None
    receipts: list[bytes] = field(default_factory=list)
    logged: Logged = field(default_factory=Logged)


async def make(server: Server, *, node: str | None = None, user_id: str | None = None, texts: bool = False) -> Made:
    """Evidence of all nodes, of one, or of that on which a user rests, with what concerns the user.

    ``texts``: with the texts of the policies, as far as no password stands in them. Raises NotFound for a user who is
    not there, NodeUnavailable for the one node that was asked about, Conflict while the chain of versions is broken.
    """
    home = None if user_id is None else await server.nodes.of_user(user_id)
    if user_id is not None and home is None:
        raise NotFound(f"There is no user {user_id}")
    only = home.name if home is not None else node
    parts = await _versions(server, texts)
    serial = max((part["record"]["serial"] for part in parts.values()), default=0)
    seen, down, violations = [], [], 0
    for each in server.nodes:
        if only in (None, each.name):
            try:
                told, found, wrong = await _node(server, each, user_id)
            except NodeUnavailable:
                if only is not None:
                    raise
                down.append(each.name)
                continue
            parts[f"node/{each.name}"] = told
            seen.append(each.name)
            violations += wrong
            if user_id is not None:
                parts["user"] = _user(user_id, found)
    parts["withdrawals"] = await leaving.public(server)
    parts["counters"] = await _counters(server)
    residency_key = server.identity.residency_key
    head = {
        "server_name": server.name,
        "about": {"user_id": user_id} if user_id is not None else {"node": node} if node is not None else {},
        "made_ts": server.clock.now_ms(),
        "software": version("domicile"),
        "serial": serial,
        "nodes_down": down,
        "keys": {key.key_id: key.verify_key.base64 for key in (residency_key, server.identity.key)},
    }
    keys = [(server.name, residency_key), (server.name, server.identity.key)]
    return Made(evidence.bundle(head, parts, keys), tuple(seen), tuple(down), violations)


# the policy ---------------------------------------------------------------------------------


async def _versions(server: Server, texts: bool) -> dict[str, Any]:
    """Every version that was in force. Raises Conflict when they cannot be believed."""
    routes, key = server.nodes.directory.engine, server.identity.residency_key.verify_key
    found: dict[str, Any] = {}
    before: Link | None = None
    while links := await routes.read(policy_versions.page, before.serial if before else -1, AT_ONCE):
        for serial, faults in policy_chain.chain_faults(links, server.name, key, before).items():
            raise Conflict(f"Version {serial} of the policy cannot be believed: {faults[0]}; restore directory.db")
        for link in links:
            found[f"policy/{link.serial}"] = {
                "record": canonical.parse_object(link.record),
                "extract": evidence.extract(link.text),
                "text": link.text if texts and not _holds_password(link.text) else None,
            }
        before = links[-1]
    return found


def _holds_password(text: str) -> bool:
    """Whether a password stands in the address of a database."""
    nodes = tomllib.loads(text).get("nodes", {}).values()
    addresses = [str(node.get("database", "")) for node in nodes]
    return any(urlsplit(each).password is not None or "password=" in each for each in addresses)


# a node -------------------------------------------------------------------------------------


async def _node(server: Server, node: Node, user_id: str | None) -> tuple[dict[str, Any], _Residents, int]:
    """What a node says of itself, signed; its residents; and how many things rest there that may not.

    Raises NodeUnavailable.
    """
    findings = await audit.of_node(server, node)
    found = await node.read(_residents, server, node.name, user_id)
    found.logged = await logged.of_node(server, node, user_id, found.receipts)
    key = server.identity.node_key(node.name)
    said = {
        "type": evidence.NODE,
        "server_name": server.name,
        "node": node.name,
        "jurisdiction": node.jurisdiction,
        "key": move_receipts.certificate(server.name, node.name, key.verify_key, server.identity.residency_key),
        "schema": [list(each) for each in await node.read(archive.ledger)],
        "residents": {
            "count": len(found.hashes),
            "pinned_by": dict(found.how),
            "root": evidence.root(found.hashes).hex(),
        },
        "moves": {"came_from": dict(found.came_from)},
        "key_log": found.logged.checkpoint,
        "policies": found.logged.policies,
        "audit": {"ts": server.clock.now_ms(), "findings": _findings(findings)},
    }
    return sign_json(said, node.name, key), found, sum(finding.is_violation for finding in findings)


def _findings(findings: Collection[Finding]) -> list[dict[str, Any]]:
    """What an audit found, without saying whose it is: a path in a media folder names a medium."""
    rows: Counter[tuple[str, str, bool]] = Counter()
    owners: dict[tuple[str, str, bool], set[str | None]] = {}
    for each in findings:
        kind = (each.where.partition("/")[0], str(each.fault), each.is_violation)
        rows[kind] += each.rows
        owners.setdefault(kind, set()).add(each.user_id)
    return [
        {"where": where, "fault": fault, "violation": violation, "rows": count, "owners": len(owners[kind] - {None})}
        for kind, count in sorted(rows.items())
        for where, fault, violation in (kind,)
    ]


async def _residents(tx: Transaction, server: Server, node: str, user_id: str | None) -> _Residents:
    found, after = _Residents(), 0
    while page := await stored.residents(tx, after, AT_ONCE):
        receipts: dict[int, list[bytes]] = {}
        for user_nid, receipt in await stored.receipts(tx, after, page[-1].user_nid):
            receipts.setdefault(user_nid, []).append(receipt)
        for each in page:
            theirs = receipts.get(each.user_nid, [])
            leaf = canonical.encode(
                {
                    "salt": server.identity.tag("evidence", each.user_id).hex(),
                    "user_id": each.user_id,
                    "node": node,
                    "pinned": None if each.how is None else {"how": each.how, "rule": each.rule, "ts": each.ts},
                    "receipts": [move_receipts.digest(receipt) for receipt in theirs],
                }
            )
            found.how[each.how or "unknown"] += 1
            if theirs:
                found.came_from[orjson.loads(theirs[-1])["from"]["node"]] += 1
            found.hashes.append(merkle.leaf_hash(leaf))
            if each.user_id == user_id:
                found.mine, found.receipts = leaf, theirs
        after = page[-1].user_nid
    found.hashes.sort()  # so that a place in the tree tells nothing of anybody
    return found


def _user(user_id: str, found: _Residents) -> dict[str, Any]:
    """What concerns the user for whom the evidence is made. Raises Conflict when they have left meanwhile."""
    if found.mine is None:
        raise Conflict(f"{user_id} is just being moved: ask again when that has come to its end")
    index = found.hashes.index(merkle.leaf_hash(found.mine))
    return {
        "leaf": canonical.parse_object(found.mine),
        "path": [{"side": side, "hash": each.hex()} for side, each in evidence.path(found.hashes, index)],
        "receipts": [canonical.parse_object(receipt) for receipt in found.receipts],
        "logged": found.logged.keys,
        "receipts_logged": found.logged.receipts,
    }


# the deployment -----------------------------------------------------------------------------


async def _counters(server: Server) -> dict[str, Any]:
    """What this process has counted since it was started: rows that were refused, bytes over borders; and what is
    isolated now."""
    declared: Sequence[isolations.Isolation] = await server.nodes.directory.engine.read(isolations.every)
    return {
        "rows_refused": {node.name: node.engine.violations for node in server.nodes},
        "bytes": traffic.table(server),
        "isolated": [{"jurisdiction": each.jurisdiction, "since_ts": each.since_ts} for each in declared],
    }
