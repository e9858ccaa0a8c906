"""What everybody is shown of the registers: for each jurisdiction its ceiling, how often what was done with orders, how
many may not be told of, and the entries, from which a stranger can check the rest.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import orjson

from homeserver.disclosure import register
from homeserver.protocol import disclosure_register
from homeserver.protocol.disclosure_register import Kind
from homeserver.protocol.errors import NodeUnavailable, NotFound
from homeserver.protocol.signing import encode_base64
from homeserver.storage import disclosures
from homeserver.storage.nodes import Mirror

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.disclosure.register import Checked
    from homeserver.storage.disclosures import StoredEntry
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

FRESH: Final = 10.0
"""Seconds for which a register that was read is shown again."""
AT_ONCE: Final = 1000
"""Entries that one answer has of a register."""


class Shown:
    """A register as it was read: its entries with whether their details are told, and how far it is."""

    def __init__(self, checked: Checked, gagged: frozenset[int], read: float) -> None:
        self.checked = checked
        self.gagged = gagged
        self.read = read


class Remembered(Mirror):
    """The register that was read last (``node.memory(Remembered)``). ``turn`` is held while it is read."""

    def __init__(self) -> None:
        self.shown: Shown | None = None
        self.turn = asyncio.Lock()

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.shown = None


async def _read(tx: Transaction, server: Server) -> tuple[Checked, frozenset[int]]:
    checked = await register.check(tx, server)
    return checked, frozenset(each.number for each in await disclosures.orders(tx) if each.gag_until is not None)


async def shown(server: Server, node: Node) -> Shown:
    """The register of a node, read a moment ago at the most. Raises NodeUnavailable."""
    memory = node.memory(Remembered)
    async with memory.turn:
        now, known = server.clock.monotonic(), memory.shown
        if known is not None and 0 <= now - known.read < FRESH:
            return known
        checked, gagged = await node.read(_read, server)
        if (fault := await register.set_back(server, node)) is not None:
            checked.faults.append(fault)
        memory.shown = found = Shown(checked, gagged, now)
        return found


async def transparency(server: Server, jurisdiction: str, after: int = 0) -> dict[str, Any]:
    """``transparency.json`` of a jurisdiction; of each register the entries behind the number ``after``.

    Raises NotFound for a jurisdiction in which the deployment has no node.
    """
    nodes = [node for node in server.nodes if node.jurisdiction == jurisdiction]
    if not nodes:
        raise NotFound("This server keeps nobody's data in that jurisdiction")
    ceiling = server.policy.now.disclosure(jurisdiction)
    registers, down = [], []
    for node in nodes:
        try:
            registers.append(_register(server, node, await shown(server, node), after))
        except NodeUnavailable:
            down.append(node.name)
    return {
        "server_name": server.name,
        "jurisdiction": jurisdiction,
        "policy_serial": server.policy.now.serial,
        "ceiling": {
            "fields": ceiling.fields,
            "approvals": ceiling.approvals,
            "approvers": len(ceiling.approvers),
            "custodians": len(ceiling.custodians),
            "threshold": ceiling.threshold,
        },
        "registers": registers,
        "nodes_down": down,
    }


def _register(server: Server, node: Node, found: Shown, after: int) -> dict[str, Any]:
    checked, key = found.checked, server.identity.log_key(node.name)
    entries = [each for each in checked.entries if each.seq > after]
    head = {
        "node": node.name,
        "jurisdiction": node.jurisdiction,
        "entries": checked.head.entries,
        "digest": checked.head.digest or None,
        "counts": {kind.value: checked.following.counts[kind] for kind in Kind},
        "gagged": checked.following.gagged,
    }
    return {
        "node": node.name,
        "key": {"key_id": key.key_id, "key": key.verify_key.base64},
        "fault": checked.faults[0] if checked.faults else None,
        "head": disclosure_register.signed_head(head, server.name, key),
        "records": [_record(each, found.gagged) for each in entries[:AT_ONCE]],
        "next": entries[AT_ONCE - 1].seq if len(entries) > AT_ONCE else None,
    }


def _record(each: StoredEntry, gagged: frozenset[int]) -> dict[str, Any]:
    entry = _object(each.entry)
    if each.order in gagged:
        return {"entry": entry}
    return {"entry": entry, "details": _object(each.details), "salt": encode_base64(each.details_salt)}


def _object(text: bytes) -> Any:
    """What is stored as JSON; null for what is none any more, which `register.check` has seen."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
