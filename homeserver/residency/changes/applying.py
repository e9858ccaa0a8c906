"""Putting a plan in force, so that whoever is killed in between, it is done whole or not at all.

The order: note what is begun; open new nodes; move users, and the homes of rooms; then, in one transaction, the version
is stored, which is the moment from which it holds; swap the policy in memory; put the text in place of the file; let
nodes go. Everything before that moment can be done again or given up, everything after it is done again when the server
starts.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from homeserver.protocol import policy_chain
from homeserver.protocol.errors import Conflict, Forbidden
from homeserver.residency.changes import chain, file, planning
from homeserver.residency.changes.carrying_out import Progress, carry_out, close_unused
from homeserver.residency.changes.recovering import recover
from homeserver.storage import policy_plans, users
from homeserver.storage.policy_plans import Application
from homeserver.transparency import statements

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from homeserver.context import Server
    from homeserver.residency.changes.planning import Plan

log = structlog.get_logger("residency.changes")

PATIENCE = 5.0
"""Seconds after which somebody who waits for the end is told how far it has come."""


class Applying:
    """The plan that this process is applying (``directory.memory(Applying)``)."""

    def __init__(self) -> None:
        self.plan = ""
        self.progress = Progress()
        self.task: asyncio.Task[int] | None = None

    @property
    def busy(self) -> bool:
        """Whether it is under way."""
        return self.task is not None and not self.task.done()


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be applied: the digest of its plan, the text, under which name mistakes in it are told, and of which
    earlier version it is the text."""

    digest: str
    text: str
    file: str
    restores: int | None = None


# what operators ask -------------------------------------------------------------------------


async def apply(server: Server, wish: Wish) -> dict[str, Any]:
    """Begin to apply a plan, and wait for the end for a while: `progress`.

    Raises Conflict when it is another plan by now, or another one is being applied; Forbidden while approvals are
    missing; InvalidParam, Faults.
    """
    return await _begin(server, wish.digest, lambda progress: _apply(server, progress, wish))


async def resume(server: Server) -> dict[str, Any]:
    """Go on with the plan that was being applied when the server was stopped. Raises what `apply` raises."""
    journal = await server.nodes.directory.engine.read(policy_plans.application)
    if journal is None:
        raise Conflict("No plan is being applied")
    return await _begin(server, journal.plan, lambda progress: _go_on(server, progress, journal))


async def give_up(server: Server) -> dict[str, Any]:
    """Forget the plan that was being applied. Users who have been moved stay where they are now.

    Raises Conflict when there is none, or it is in force already.
    """
    await stop(server)
    routes = server.nodes.directory.engine
    journal = await routes.read(policy_plans.application)
    if journal is None:
        raise Conflict("No plan is being applied")
    if journal.recorded:
        raise Conflict(f"That plan is in force, as version {journal.recorded}; `domicile residency rollback` goes back")
    there = [node for node in server.nodes if node.name not in server.policy.now.nodes]
    if held := [node.name for node in there if await node.read(users.any_resident)]:
        raise Conflict(f"Users have been moved to {', '.join(held)}, which the policy in force does not have: go on")
    await routes.write(policy_plans.end)
    await close_unused(server)
    return {"plan": journal.plan}


async def progress(server: Server) -> dict[str, Any]:
    """Wait for the end, for a while: ``done`` with the ``serial`` and ``notes``, or how far it has come.

    Raises what made it fail, Conflict when nothing is being applied.
    """
    applying = server.nodes.directory.memory(Applying)
    if applying.task is None:
        raise Conflict("No plan is being applied")
    await asyncio.wait([applying.task], timeout=PATIENCE)
    done = applying.progress
    if not applying.task.done():
        return {"done": False, "step": done.step, "moved": done.done, "to_move": done.of}
    if applying.task.cancelled():
        raise Conflict("It was broken off; `domicile residency apply --resume` goes on")
    return {"done": True, "serial": applying.task.result(), "notes": done.notes}


async def stop(server: Server) -> None:
    """Break off what is under way, so that it can be taken up again; or wait, where it is about to end."""
    applying = server.nodes.directory.memory(Applying)
    if applying.busy and applying.task is not None:
        if not applying.progress.final:
            applying.task.cancel()
        await asyncio.gather(applying.task, return_exceptions=True)


async def _begin(server: Server, plan: str, work: Callable[[Progress], Awaitable[int]]) -> dict[str, Any]:
    applying = server.nodes.directory.memory(Applying)
    if applying.busy and applying.plan != plan:
        raise Conflict("Another plan is being applied: wait for its end, then plan again")
    if not applying.busy:
        applying.plan, applying.progress = plan, Progress(step="planning")

        async def run() -> int:
            return await work(applying.progress)

        # An empty context: it belongs to no request, whoever asked for it.
        applying.task = asyncio.get_running_loop().create_task(run(), name="apply", context=Context())
        applying.task.add_done_callback(_note_failure)
    return await progress(server)


def _note_failure(task: asyncio.Task[int]) -> None:
    """Say in the log that it failed: whoever asked for it may not be there any more."""
    if not task.cancelled() and (fault := task.exception()) is not None:
        log.warning("a plan was not applied", reason=str(fault))


# the work -----------------------------------------------------------------------------------


async def _apply(server: Server, progress: Progress, wish: Wish) -> int:
    routes = server.nodes.directory.engine
    before = await chain.newest(routes, server.identity)
    if before is not None and policy_chain.read(before.record).plan == wish.digest:
        if server.policy.now.serial != before.serial:  # the database was lost when it said so
            server.policy.now = chain.policy_of(before, server.policy.now.file, server.name)
            statements.wake(server)
        progress.notes += await recover(routes, server.settings.residency) or []
        return before.serial
    journal = await routes.read(policy_plans.application)
    if journal is not None and journal.recorded:
        await recover(routes, server.settings.residency)
    elif journal is not None and journal.moves and journal.plan == wish.digest:
        return await _go_on(server, progress, journal)
    elif journal is not None and journal.moves:
        raise Conflict(
            f"The plan {journal.plan} has begun to move users: go on with it (`domicile residency apply --resume`),"
            " or give it up (`--give-up`)"
        )
    made = await planning.plan(server, wish.text, wish.file, restores=wish.restores, tell=progress.at)
    _check(made, wish.digest)
    there = await asyncio.to_thread(file.found, server.settings.residency)
    begun = Application(
        plan=made.digest,
        base=policy_chain.digest(made.base.record),
        text=made.after.text,
        restores=made.restores,
        started_ts=server.clock.now_ms(),
        moves=made.moves,
        replaced=policy_chain.digest(there or ""),
    )
    await routes.write(policy_plans.begin, begun)
    return await carry_out(server, progress, begun, made)


def _check(made: Plan, digest: str) -> None:
    """Whether what is planned now is what somebody has read. Raises Conflict, Forbidden."""
    if not made.changed:
        raise Conflict("That policy is in force already")
    if made.obstacles:
        raise Conflict("This cannot be applied: " + "; ".join(made.obstacles))
    if made.digest != digest:
        raise Conflict("That is not what would happen now: plan again with `domicile residency plan`, and read it")
    _check_approvals(made)


def _check_approvals(made: Plan) -> None:
    needed, given = made.before.changes.approvals, [each.name for each in made.approvals]
    if not made.enough:
        names = f" (so far: {', '.join(given)})" if given else ""
        raise Forbidden(f"This plan needs {needed} approvals and has {len(given)}{names}: `domicile residency approve`")


async def _go_on(server: Server, progress: Progress, journal: Application) -> int:
    """Take up a plan that was begun. Once it has moved users its digest would be another, and is not asked again."""
    routes = server.nodes.directory.engine
    if journal.recorded:
        progress.notes += await recover(routes, server.settings.residency) or []
        return journal.recorded
    made = await planning.plan(
        server, journal.text, server.policy.now.file, restores=journal.restores, tell=progress.at
    )
    if policy_chain.digest(made.base.record) != journal.base:
        await routes.write(policy_plans.end)
        raise Conflict("Another policy has come into force since that plan was begun: plan again")
    if not journal.moves:
        _check(made, journal.plan)
    given = await routes.read(policy_plans.approvals, journal.plan)
    made.approvals = [each for each in given if planning.approver_of(server, made.before, journal.plan, each)]
    if made.obstacles:
        raise Conflict("This cannot be applied: " + "; ".join(made.obstacles))
    _check_approvals(made)
    return await carry_out(server, progress, journal, made)
