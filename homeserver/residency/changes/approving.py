"""Saying yes to a plan. Who may is said by the policy in force, and not by the one that is planned."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from homeserver.protocol.errors import Conflict, Forbidden, InvalidParam
from homeserver.residency.changes import planning
from homeserver.storage import policy_plans

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.protocol.policy_chain import Approval


async def approve(server: Server, plan: str, approval: Approval) -> dict[str, Any]:
    """Note the yes of an approver to a plan. Returns who has said it, and how many have to.

    Raises InvalidParam, Forbidden for whoever is no approver, Conflict for who has approved it already.
    """
    if not re.fullmatch("[0-9a-f]{64}", plan):
        raise InvalidParam("A plan's digest has 64 hexadecimal digits")
    _, policy = await planning.in_force(server)
    if not planning.approver_of(server, policy, plan, approval):
        if (approval.name, approval.key) not in {(each.name, each.key) for each in policy.changes.approvers}:
            raise Forbidden(f"The policy in force names no approver {approval.name} with this key")
        raise Forbidden("That signature is not valid")
    routes = server.nodes.directory.engine
    if not await routes.write(policy_plans.approve, plan, approval):
        raise Conflict(f"{approval.name} has approved this plan already")
    given = await routes.read(policy_plans.approvals, plan)
    names = [each.name for each in given if planning.approver_of(server, policy, plan, each)]
    return {"plan": plan, "given": names, "needed": policy.changes.approvals}
