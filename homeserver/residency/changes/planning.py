"""A plan: everything that a text would do as the next policy, and a digest by which it is approved and applied.

Making one changes nothing. The digest covers the version in force, the text, and what the plan says would happen; not
how many bytes that takes, nor how many rooms nodes order that are to go.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from config.load import policy_from_text
from homeserver.protocol import canonical, policy_chain
from homeserver.protocol.errors import Conflict, NodeUnavailable, NotFound
from homeserver.residency.changes import chain, comparing, file, letting_go, surveying
from homeserver.residency.changes.edit import edited
from homeserver.residency.changes.surveying import NOWHERE, Survey
from homeserver.storage import policy_plans, policy_versions

if TYPE_CHECKING:
    from config.policy import Policy
    from homeserver.context import Server
    from homeserver.protocol.policy_chain import Approval, Link

WHAT_HAPPENS = (
    "these rooms stay, and so do their copies; what may not flow any more is withheld on both sides, and between nodes"
    " it waits and is judged again by each later policy"
)


@dataclass
class Plan:
    """What a text would do. ``obstacles``: why it cannot be applied as it is; ``approvals``: the valid ones."""

    base: Link
    before: Policy
    after: Policy
    restores: int | None
    changes: dict[str, Any]
    survey: Survey
    obstacles: list[str] = field(default_factory=list)
    down: list[str] = field(default_factory=list)
    approvals: list[Approval] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether it would do anything."""
        return self.after.residency != self.before.residency

    @property
    def moves(self) -> int:
        """How many users would move."""
        return sum(named.count for named in self.survey.moves.values())

    @property
    def digest(self) -> str:
        """What approvers sign, and what must be named to apply it: 64 hexadecimal digits."""
        covered = {
            "in_force": policy_chain.digest(self.base.record),
            "text": policy_chain.digest(self.after.text),
            "restores": self.restores,
            "changes": self.changes,
            "moves": [[*key, named.covered()] for key, named in sorted(self.survey.moves.items())],
            "broken": self.survey.broken_rooms.covered(),
        }
        return hashlib.sha256(canonical.encode(covered)).hexdigest()

    @property
    def enough(self) -> bool:
        """Whether it has the approvals that the policy in force asks for."""
        return len(self.approvals) >= self.before.changes.approvals


async def plan(
    server: Server,
    text: str,
    file_name: str,
    *,
    restores: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Plan:
    """What a text would do. Raises Faults for one that is no policy, Conflict, BrokenChain."""
    base, before = await in_force(server)
    residency = server.settings.residency
    after = policy_from_text(text, file_name, server.name, environ=os.environ, beside=residency)
    before, after = (each.listing(server.policy.listed_for(each)) for each in (before, after))
    changes: dict[str, Any] = {
        "nodes": comparing.nodes(before, after),
        "flows": comparing.flows(before, after),
        "pairs": comparing.pairs(before, after),
        "peers": comparing.peers(before, after),
        "others": comparing.others(before, after),
    }
    made = Plan(base, before, after, restores, changes, Survey())
    if surveying.asks_nodes(before, after):
        made.down = [node.name for node in server.nodes if not node.engine.health().up]
        try:
            if not made.down:
                made.survey = await surveying.survey(server, before, after, tell)
                made.obstacles += await letting_go.obstacles(server, changes["nodes"]["gone"])
        except NodeUnavailable as down:
            made.down.append(str(down.fields.get("org.domicile.node", "")) or down.message)
    made.obstacles += _obstacles(server, made)
    given = await server.nodes.directory.engine.read(policy_plans.approvals, made.digest)
    made.approvals = [each for each in given if approver_of(server, before, made.digest, each)]
    return made


def approver_of(server: Server, policy: Policy, digest: str, approval: Approval) -> bool:
    """Whether this is a yes to the plan by somebody whom the policy names as an approver."""
    known = {(each.name, each.key) for each in policy.changes.approvers}
    return (approval.name, approval.key) in known and policy_chain.approves(approval, server.name, digest)


async def in_force(server: Server) -> tuple[Link, Policy]:
    """The newest version, and the policy that it is. Raises Conflict where there is none, BrokenChain, Faults."""
    link = await chain.newest(server.nodes.directory.engine, server.identity)
    if link is None:
        raise Conflict("No policy has come into force here yet")
    return link, chain.policy_of(link, server.policy.now.file, server.name)


async def restoring(server: Server, serial: int) -> str:
    """The text of an earlier version with the serial that comes next; comments and order are kept. Raises NotFound."""
    routes = server.nodes.directory.engine
    link, newest = await routes.read(policy_versions.find, serial), await chain.newest(routes, server.identity)
    key = server.identity.residency_key.verify_key
    if link is None or newest is None or any(policy_chain.link_faults(link, server.name, key)):
        raise NotFound(f"There is no version {serial} that can be believed; `domicile residency history` lists them")
    return edited(link.text, ("serial",), newest.serial + 1)


def _obstacles(server: Server, made: Plan) -> list[str]:
    before, after, nodes = made.before, made.after, made.changes["nodes"]
    found = []
    if made.changed and after.serial != before.serial + 1:
        found.append(
            f"serial = {after.serial}: what follows on version {before.serial} has serial = {before.serial + 1}"
        )
    found += [f"node {name} is down, so that nobody knows what would happen to what it holds" for name in made.down]
    for (source, target, _), named in sorted(made.survey.moves.items()):
        who = f"{named.count} users of {source} ({', '.join(named.names[:5])}{', …' if named.count > 5 else ''})"
        if target == NOWHERE:
            found.append(f"{who} would have no place: no node is left in their jurisdiction, and no rule names another")
        elif server.mover is None:
            found.append(f"{who} would have to move to {target}, which a server does that is running")
    if server.places is not None:
        found += server.places.faults(after)
        if server.places.serving and nodes["other_storage"]:
            names = ", ".join(nodes["other_storage"])
            found.append(f"the database or media of {names} would be elsewhere: stop the server, apply, and start it")
    elif nodes["new"] or nodes["gone"]:
        found.append("nodes cannot come or go here")
    blocked = file.obstacle(server.settings.residency)
    return [*found, *([blocked] if blocked else [])]


def shown(made: Plan) -> dict[str, Any]:
    """A plan as JSON."""
    return {
        "digest": made.digest if made.changed and not made.down else None,
        "changed": made.changed,
        "serial": made.after.serial,
        "in_force": {"serial": made.base.serial, "record_sha256": policy_chain.digest(made.base.record)},
        "text_sha256": policy_chain.digest(made.after.text),
        "restores": made.restores,
        **made.changes,
        **surveying.shown(made.survey),
        "what_happens_to_rooms": WHAT_HAPPENS,
        "nodes_down": made.down,
        "obstacles": made.obstacles,
        "approvals": {
            "needed": made.before.changes.approvals,
            "given": sorted(each.name for each in made.approvals),
        },
    }
