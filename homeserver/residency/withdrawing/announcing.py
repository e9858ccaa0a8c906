"""Leaving a jurisdiction, the beginning: what it would come to, and from when on everybody knows.

From the announcement on nobody comes to rest there any more. It can be called off until its time has come.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from homeserver.protocol import canonical, policy_chain
from homeserver.protocol.errors import Conflict, Forbidden, InvalidParam, NodeUnavailable
from homeserver.residency.changes import planning
from homeserver.storage import policy_plans, withdrawals
from homeserver.storage.withdrawals import Left, Withdrawal

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.nodes import Node

log = structlog.get_logger("residency.withdrawing")

ANNOUNCED, CLOSING, CLOSED, ERASING, DONE = "announced", "closing", "closed", "erasing", "done"
"""How far a withdrawal has come."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What leaving a jurisdiction would come to. ``nodes``: what rests on each; ``obstacles``: what must be done first;
    ``digest``: stands for all this as far as it does not change from hour to hour."""

    jurisdiction: str
    ends_ts: int
    nodes: dict[str, Left]
    obstacles: list[str]
    digest: str
    needed: int
    given: list[str]

    def shown(self) -> dict[str, Any]:
        """As it is told."""
        return {
            "jurisdiction": self.jurisdiction,
            "ends_ts": self.ends_ts,
            "nodes": {name: left._asdict() for name, left in self.nodes.items()},
            "obstacles": self.obstacles,
            "digest": self.digest,
            "approvals": {"needed": self.needed, "given": self.given},
        }


async def examine(server: Server, jurisdiction: str, ends_ts: int) -> Examined:
    """What leaving a jurisdiction would come to, with accounts open until ``ends_ts`` (milliseconds since 1970).

    Raises InvalidParam for a place where no node is, and for a time that is past; Conflict, BrokenChain, Faults.
    """
    nodes = [node for node in server.nodes if node.jurisdiction == jurisdiction]
    if not nodes:
        there = ", ".join(sorted({node.jurisdiction for node in server.nodes}))
        raise InvalidParam(f"No node stands in {jurisdiction}; nodes stand in {there}")
    if ends_ts <= server.clock.now_ms():
        raise InvalidParam("The day until which people have time must be one to come")
    link, policy = await planning.in_force(server)
    found, obstacles = {}, await _obstacles(server, jurisdiction, nodes)
    for node in nodes:
        try:
            found[node.name] = await node.read(withdrawals.left)
        except NodeUnavailable:
            obstacles.append(f"{node.name} is down; `domicile check` says why")
    said = {
        "purpose": "org.domicile.withdrawal",
        "server_name": server.name,
        "policy": policy_chain.digest(link.record),
        "jurisdiction": jurisdiction,
        "ends_ts": ends_ts,
        "nodes": {name: left.accounts.bit_length() for name, left in found.items()},
    }
    digest = policy_chain.digest(canonical.encode(said))
    approvals = await server.nodes.directory.engine.read(policy_plans.approvals, digest)
    given = [each.name for each in approvals if planning.approver_of(server, policy, digest, each)]
    return Examined(jurisdiction, ends_ts, found, obstacles, digest, policy.changes.approvals, given)


async def _obstacles(server: Server, jurisdiction: str, nodes: list[Node]) -> list[str]:
    found = []
    if all(node in nodes for node in server.nodes):
        found.append(f"the deployment has no nodes but those in {jurisdiction}: there would be nothing left of it")
    for node in nodes:
        for service in server.services.on(node.name):
            found.append(f"the application service {service.id} rests on {node.name}: take it out of domicile.toml")
    if await server.nodes.directory.engine.read(policy_plans.application) is not None:
        found.append("a plan is being applied: `domicile residency apply --resume`, or `--give-up`")
    if await server.nodes.directory.engine.read(withdrawals.open_of, jurisdiction) is not None:
        found.append(f"{jurisdiction} is being left already: `domicile residency withdraw {jurisdiction}` says how far")
    return found


async def announce(server: Server, jurisdiction: str, ends_ts: int, digest: str) -> Withdrawal:
    """Begin to leave a jurisdiction, as it was examined: ``digest``.

    Raises Conflict when that is not what it would come to now, Forbidden while approvals are missing.
    """
    found = await examine(server, jurisdiction, ends_ts)
    if found.obstacles:
        raise Conflict("First: " + "; ".join(found.obstacles))
    if found.digest != digest:
        raise Conflict("That is not what it would come to now: look again with --dry-run")
    if len(found.given) < found.needed:
        raise Forbidden(f"This needs {found.needed} approvals and has {len(found.given)}: `domicile residency approve`")
    account = {"announced": {name: left._asdict() for name, left in found.nodes.items()}, "approvals": found.given}
    nodes = tuple(found.nodes)
    made = Withdrawal(digest, jurisdiction, nodes, ANNOUNCED, server.clock.now_ms(), ends_ts, account, None)
    if not await server.nodes.directory.engine.write(withdrawals.announce, made):
        raise Conflict(f"{jurisdiction} is being left already")
    await load(server)
    log.warning("a jurisdiction is to be left", jurisdiction=jurisdiction, nodes=list(nodes))
    return made


async def call_off(server: Server, jurisdiction: str) -> None:
    """Stay after all. Raises Conflict once accounts are being closed, and when nothing was announced."""
    there = await going_on(server, jurisdiction)
    if not await server.nodes.directory.engine.write(withdrawals.call_off, there.plan):
        raise Conflict(f"Accounts in {jurisdiction} are being closed: that cannot be called off any more")
    await load(server)
    log.warning("a jurisdiction is not left after all", jurisdiction=jurisdiction)


async def going_on(server: Server, jurisdiction: str) -> Withdrawal:
    """The withdrawal of a jurisdiction that has not come to its end. Raises Conflict."""
    found = await server.nodes.directory.engine.read(withdrawals.open_of, jurisdiction)
    if found is None:
        raise Conflict(f"It was not announced that {jurisdiction} is left: see it with --until and --dry-run first")
    return found


async def load(server: Server) -> None:
    """Have nobody come to rest any more where that has been announced."""
    known = await server.nodes.directory.engine.read(withdrawals.every)
    server.policy.withdrawn = frozenset(name for each in known if each.state != DONE for name in each.nodes)


async def of_node(server: Server, node: str) -> Withdrawal | None:
    """What was announced of a node; None of most."""
    if node not in server.policy.withdrawn:
        return None
    known = await server.nodes.directory.engine.read(withdrawals.every)
    return next((each for each in known if each.state != DONE and node in each.nodes), None)
