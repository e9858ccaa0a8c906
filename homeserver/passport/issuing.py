"""What the passport says, gathered from where it stands; signed, and kept for a moment: asking costs nothing."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import orjson

from homeserver.passport import build
from homeserver.protocol import passports
from homeserver.protocol.errors import NodeUnavailable
from homeserver.residency.changes import history
from homeserver.residency.listing import holding
from homeserver.transparency import alarms, heads, serving, signatures, witnessing
from homeserver.transparency.heads import KeyLog

if TYPE_CHECKING:
    from config.sections.serving import Representative
    from homeserver.context import Server
    from homeserver.storage.nodes import Node

KEPT: Final = 10.0
"""Seconds for which a passport is shown before another is made."""


class Issued:
    """The passport that is shown (``directory.memory(Issued)``). ``turn`` is held while one is made."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.until = 0.0
        self.passport: dict[str, Any] = {}
        self.raw = b""


async def current(server: Server) -> tuple[dict[str, Any], bytes]:
    """The passport, and it as JSON."""
    issued = server.nodes.directory.memory(Issued)
    async with issued.turn:
        if not issued.raw or server.clock.monotonic() >= issued.until:
            issued.passport = await issue(server)
            issued.raw = orjson.dumps(issued.passport, option=orjson.OPT_INDENT_2)
            issued.until = server.clock.monotonic() + KEPT
    return issued.passport, issued.raw


async def issue(server: Server) -> dict[str, Any]:
    """A new passport."""
    said = {
        "operator": _operator(server),
        "software": {"name": "Domicile", "version": version("domicile"), "build_sha256": build.running()},
        "policy": await history.in_force(server),
        "federation_list": _federation_list(server),
        "encryption": _encryption(server),
        "jurisdictions": [_jurisdiction(server, code) for code in sorted({node.jurisdiction for node in server.nodes})],
        "nodes": [await _node(server, node) for node in server.nodes],
        **await _witnesses(server),
        "keys": {key.key_id: key.verify_key.base64 for key in server.identity.keys},
    }
    return passports.signed(said, server.name, server.identity.key, server.clock.now_ms())


def _operator(server: Server) -> dict[str, Any]:
    operator = server.settings.operator
    return {
        "legal_name": operator.legal_name,
        "contact": operator.contact,
        "security_contact": operator.security_contact,
        "support_page": operator.support_page,
    }


def _federation_list(server: Server) -> dict[str, Any] | None:
    """Whose list says where other servers are, and which of its lists holds."""
    setting, found = server.policy.now.federation_list, holding.held_list(server)
    if setting is None:
        return None
    return {
        "keys": list(setting.keys),
        "list": None if found is None else {name: found[name] for name in ("name", "serial", "sha256", "valid_until")},
    }


def _encryption(server: Server) -> dict[str, Any]:
    """That messages must be encrypted, and what is excepted from that; and for how long others encrypt for devices that
    nobody has signed (None: for ever)."""
    settings, grace = server.settings, server.settings.encryption.unsigned_device_grace
    return {
        "required": not settings.conformance_mode,
        "conformance_mode": settings.conformance_mode,
        "allowed_in_clear": sorted(settings.encryption.allow_in_clear),
        "unsigned_device_grace_ms": None if grace is None else grace.ms,
    }


def _jurisdiction(server: Server, code: str) -> dict[str, Any]:
    policy = server.policy.now
    declared, ceiling = policy.jurisdictions.get(code), policy.disclosure(code)
    representative = server.settings.representatives.get(code)
    return {
        "code": code,
        "name": declared.name if declared is not None else "",
        "law": None if declared is None else declared.law,
        "languages": [] if declared is None else list(declared.languages),
        "representative": None if representative is None else _represented(representative),
        "isolated": code in server.policy.isolated,
        "disclosure": {
            "fields": list(ceiling.fields),
            "approvals": ceiling.approvals,
            "custodians": len(ceiling.custodians),
            "threshold": ceiling.threshold,
        },
    }


def _represented(by: Representative) -> dict[str, Any]:
    return {"jurisdiction": by.jurisdiction, "name": by.name, "contact": by.contact}


async def _node(server: Server, node: Node) -> dict[str, Any]:
    """Where a node stands, and how far its log is; ``fault``: why that is not shown."""
    checkpoint, fault, lacking = None, None, None
    try:
        await heads.current(server, node)
        shown, fault = heads.best(server, node.memory(KeyLog)), node.memory(KeyLog).fault
        checkpoint = None if shown is None or fault is not None else shown.note.decode()
        lacking = (await signatures.of_log(server, node))["without_quorum_since"]
    except NodeUnavailable:
        fault = "the node is down"
    key = await heads.public_key(server, node)
    return {
        "name": node.name,
        "jurisdiction": node.jurisdiction,
        "withdrawn": node.name in server.policy.withdrawn,
        "key_log": {
            "origin": key.name,
            "url": serving.address_of(server, node),
            "key": key.write(),
            "checkpoint": checkpoint,
            "fault": fault,
            "without_quorum_since": lacking,
        },
        "register": None if checkpoint is None else _register(checkpoint),
    }


async def _witnesses(server: Server) -> dict[str, Any]:
    """Who signs the logs of our nodes beside us, as whom we sign those of others, and what witnesses have found."""
    policy, raised = server.policy.now.residency, await alarms.shown(server)
    return {
        "witness": {"key": witnessing.public_key(server).write(), "url": witnessing.url_of(server)},
        "witnesses": [
            {"name": each.name, "jurisdiction": each.jurisdiction, "key": each.key, "url": each.url}
            for each in policy.witnesses.values()
        ],
        "quorum": policy.witnessing.quorum,
        "alarms": {"raised": len(raised), "open": sum(each["ended"] is None for each in raised)},
    }


def _register(checkpoint: str) -> dict[str, Any] | None:
    """How many entries the register of disclosures has by the node's log, and its head: what the checkpoint says."""
    said = heads.read(checkpoint.encode()).extension(heads.REGISTER_LINE)
    count, _, head = (said or "").partition(" ")
    return {"count": int(count), "head": head} if count else None
