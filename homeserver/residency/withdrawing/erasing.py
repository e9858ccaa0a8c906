"""Leaving a jurisdiction, the end: once no policy has its nodes, their databases and files are destroyed, and what was
done is signed with their keys and told to everybody.

Databases know by their own ledger whose they are; what belongs to another node by now is left alone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from homeserver.media import shelves
from homeserver.protocol import policy_chain, withdrawal_receipts
from homeserver.protocol.errors import Conflict
from homeserver.residency.changes import chain
from homeserver.residency.withdrawing.announcing import CLOSED, ERASING, going_on, load
from homeserver.storage import destroying, log_heads, policy_versions, withdrawals
from homeserver.storage.circuit import Unreachable
from homeserver.storage.migrate import SchemaMismatch
from homeserver.transparency import statements

if TYPE_CHECKING:
    from pathlib import Path

    from config.residency import NodePlace
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.withdrawals import Withdrawal

log = structlog.get_logger("residency.withdrawing")


async def erase(server: Server, jurisdiction: str) -> bytes:
    """Destroy what the nodes of a jurisdiction held; returns the receipt. May be asked again when it was cut off.

    Raises Conflict while the policy in force has the nodes, people rest there, or something cannot be destroyed.
    """
    there = await going_on(server, jurisdiction)
    if there.state not in (CLOSED, ERASING):
        raise Conflict(f"Accounts in {jurisdiction} are to be closed first: --close")
    if still := [name for name in there.nodes if name in server.policy.now.nodes or _is_open(server, name)]:
        raise Conflict(
            f"The policy in force has {', '.join(still)}: apply one without, by `domicile residency plan` and `apply`"
        )
    routes = server.nodes.directory.engine
    await routes.write(withdrawals.note, there.plan, CLOSED, ERASING, there.account)
    account = dict(there.account)
    erased: dict[str, Any] = account.setdefault("erased", {})
    for name in there.nodes:
        place = await _place(server, name)
        _check_apart(server, place)
        try:
            found = await _examined(server, place)
            if name not in erased:  # what is there when this goes on was not all
                erased[name] = found
                await routes.write(withdrawals.note, there.plan, ERASING, ERASING, account)
            await _destroy(server, place)
        except (SchemaMismatch, Unreachable, OSError) as error:
            raise Conflict(f"What {name} held cannot be destroyed yet: {error}") from None
    receipt = _receipt(server, there, account)
    await routes.write(_end, there, receipt, server.clock.now_ms())
    server.nodes.directory.forget_all()
    await load(server)
    statements.wake(server)
    log.warning("a jurisdiction was left, and nothing is there any more", jurisdiction=jurisdiction)
    return receipt


async def _end(tx: Transaction, there: Withdrawal, receipt: bytes, now_ms: int) -> None:
    await withdrawals.end(tx, there.plan, there.nodes, receipt)
    for node in there.nodes:
        await log_heads.end(tx, node, now_ms, f"this deployment has left {there.jurisdiction}")


def _is_open(server: Server, name: str) -> bool:
    return any(node.name == name for node in server.nodes)


async def _place(server: Server, name: str) -> NodePlace:
    """Where a node was that the policy has no more, by the last version that had it."""
    link = await server.nodes.directory.engine.read(policy_versions.newest)
    while link is not None:
        policy = chain.policy_of(link, server.policy.now.file, server.name)
        if name in policy.nodes:
            return policy.nodes[name]
        link = await server.nodes.directory.engine.read(policy_versions.find, link.serial - 1)
    raise Conflict(f"No version of the policy says where {name} was: destroy it by hand")


def _check_apart(server: Server, gone: NodePlace) -> None:
    """Whether no node that stays has its files where they are to be destroyed. Raises Conflict."""
    root = server.settings.data_dir
    folder = gone.media_path(root).resolve()
    for place in server.policy.now.nodes.values():
        kept = [place.media_path(root).resolve()]
        kept += [place.database_path(root).resolve()] if place.engine == "sqlite" else []
        if any(_overlap(folder, path) for path in kept) or place.database == gone.database:
            raise Conflict(f"{place.name}, which stays, has its data where {gone.name} had it: take it away by hand")


def _overlap(one: Path, other: Path) -> bool:
    return one == other or one in other.parents or other in one.parents


def _address(server: Server, place: NodePlace) -> str:
    return place.database if server.places is None else server.places.address(place)


async def _examined(server: Server, place: NodePlace) -> dict[str, Any]:
    """What is there to be destroyed. Raises SchemaMismatch and OSError for what is not the node's."""
    root = server.settings.data_dir
    folder = place.media_path(root)
    await destroying.is_there(place.name, _address(server, place), root=root)
    if strange := await asyncio.to_thread(shelves.strangers, folder):
        raise OSError(f"{folder} holds {', '.join(strange)} too, which no node put there: take that away first")
    files, size = await asyncio.to_thread(destroying.count_folder, folder)
    return {"files": files, "bytes": size, "database": place.engine}


async def _destroy(server: Server, place: NodePlace) -> None:
    root = server.settings.data_dir
    await asyncio.to_thread(destroying.destroy_folder, place.media_path(root))
    await destroying.destroy(place.name, _address(server, place), root=root)


def _receipt(server: Server, there: Withdrawal, account: dict[str, Any]) -> bytes:
    identity = server.identity
    said = {
        "jurisdiction": there.jurisdiction,
        "plan": there.plan,
        "announced_ts": there.announced_ts,
        "ends_ts": there.ends_ts,
        "ended_ts": server.clock.now_ms(),
        "policy_serial": server.policy.now.serial,
        "policy_sha256": policy_chain.digest(server.policy.now.text),
        "nodes": {
            name: {
                "accounts_announced": account["announced"][name]["accounts"],
                "accounts_closed": account["closed"][name],
                "erased": account["erased"][name],
                "key_log": account["key_logs"][name],
            }
            for name in there.nodes
        },
    }
    keys = {name: identity.node_key(name) for name in there.nodes}
    return withdrawal_receipts.signed(said, server.name, keys, identity.residency_key)
