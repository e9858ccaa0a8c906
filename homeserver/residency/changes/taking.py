"""Which policy holds when the server starts, or is told to look again: the newest version, or what the file says now.

A file that somebody has changed is taken only where its policy does not ask for a plan, where it is the next version,
and where nobody's data would have to move. Otherwise the version in force stays, and it is said what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from config.problems import Faults
from homeserver.protocol.policy_chain import How
from homeserver.residency.changes import chain
from homeserver.storage import policy_plans

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from config.policy import Policy
    from config.residency import NodePlace
    from homeserver.context import Identity
    from homeserver.runtime.clock import Clock
    from homeserver.storage.engine import Engine

log = structlog.get_logger("residency.changes")

KEPT = "the policy before stays in force"
PLAN = "see what it would do with `domicile residency plan`, then use `domicile residency apply`"


def obstacle(now: Policy, found: Policy) -> str:
    """Why the policy that was found in the file may not just take the place of the one in force; "" when it may, as far
    as the two tell: who rests on nodes that it does not have any more, has to be looked up."""
    if now.changes.plan:
        return f"{found.file} has changes that nobody has applied: {PLAN}"
    if found.serial != now.serial + 1:
        return (
            f"{found.file} has changes, and serial = {found.serial}: what follows on the policy in force, version"
            f" {now.serial}, has serial = {now.serial + 1}"
        )
    elsewhere = [
        name for name, place in found.nodes.items() if name in now.nodes and place.jurisdiction != _where(now, name)
    ]
    if elsewhere:
        return f"{found.file} puts nodes into another jurisdiction ({', '.join(elsewhere)}): {PLAN}"
    return ""


def _where(policy: Policy, node: str) -> str:
    return policy.nodes[node].jurisdiction


def gone(now: Policy, found: Policy) -> list[NodePlace]:
    """The nodes that would not be there any more."""
    return [place for name, place in now.nodes.items() if name not in found.nodes]


async def at_start(
    routes: Engine,
    identity: Identity,
    clock: Clock,
    found: Policy | Faults,
    file: str,
    inhabited: Callable[[NodePlace], Awaitable[bool]],
) -> Policy:
    """The policy that holds from this start on; it is the newest version afterwards.

    ``found``: what the file says, or what is wrong with it; ``file``: its name. ``inhabited`` says of a node whether
    anybody's data rests there, or that cannot be known. Raises Faults when there is no policy that can be used, and
    BrokenChain.
    """
    _complain("the chain of policy versions is broken", chain.worded(await chain.faults(routes, identity)))
    link = await chain.newest(routes, identity)
    if link is None:
        if isinstance(found, Faults):
            raise found
        await chain.append(routes, chain.next_link(identity, None, found, How.FIRST, clock.now_ms()), None)
        return found
    now = chain.policy_of(link, file, identity.server_name)
    if isinstance(found, Faults):
        if not now.changes.plan:
            raise found
        _complain(f"fault in the residency policy; {KEPT}", map(str, found.problems))
        return now
    if found.residency == now.residency:  # so its lines are those to cite
        return found
    why = obstacle(now, found) or await _under_way(routes) or await _homeless(now, found, inhabited)
    if why:
        log.error(f"the residency policy was not taken from its file; {KEPT}", reason=why, serial=now.serial)
        return now
    await chain.append(routes, chain.next_link(identity, link, found, How.READ, clock.now_ms()), link)
    return found


async def _under_way(routes: Engine) -> str:
    journal = await routes.read(policy_plans.application)
    if journal is None or not journal.moves:
        return ""
    return "a plan that moves users was begun: go on with `domicile residency apply --resume`, or `--give-up`"


async def _homeless(now: Policy, found: Policy, inhabited: Callable[[NodePlace], Awaitable[bool]]) -> str:
    lost = [place.name for place in gone(now, found) if await inhabited(place)]
    return f"{found.file} has nodes no more on which users rest ({', '.join(lost)}): {PLAN}" if lost else ""


async def again(routes: Engine, identity: Identity, clock: Clock, now: Policy, found: Policy) -> tuple[Policy, str]:
    """The policy that holds from now on in a running server, and why it is not the one that was found in the file.

    Raises BrokenChain, Faults.
    """
    link = await chain.newest(routes, identity)
    if link is None:
        return found, ""
    now = chain.policy_of(link, now.file, identity.server_name)
    if found.residency == now.residency:
        return found, ""
    changed = [name for name in {**now.nodes, **found.nodes} if now.nodes.get(name) != found.nodes.get(name)]
    why = obstacle(now, found) or await _under_way(routes)
    if not why and changed:
        why = (
            f"nodes were added, removed or changed ({', '.join(changed)}): restart the server for that,"
            " or use `domicile residency plan` and `apply`"
        )
    if why:
        return now, why
    await chain.append(routes, chain.next_link(identity, link, found, How.READ, clock.now_ms()), link)
    return found, ""


def _complain(what: str, faults: Iterable[str]) -> None:
    for fault in faults:
        log.error(what, fault=fault)
