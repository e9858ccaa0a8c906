"""The steps by which a plan comes into force in a process: nodes open, users move, other nodes order the rooms, the
version is stored, and the policy in memory is another in the same moment.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from homeserver.protocol.errors import Conflict, NodeUnavailable, Refusal
from homeserver.protocol.policy_chain import How
from homeserver.residency.changes import chain, letting_go, moving, surveying
from homeserver.residency.changes.recovering import recover
from homeserver.storage import outbox, policy_plans, users
from homeserver.storage.policy_versions import NotNewest
from homeserver.transparency import statements

if TYPE_CHECKING:
    from config.policy import Policy
    from config.residency import NodePlace
    from homeserver.context import Server
    from homeserver.protocol.policy_chain import Link
    from homeserver.residency.changes.planning import Plan
    from homeserver.storage.engine import Transaction
    from homeserver.storage.policy_plans import Application

log = structlog.get_logger("residency.changes")

MOVES_AT_ONCE = 4


@dataclass
class Progress:
    """How far the applying of a plan has come, and what there is to tell of it in the end.

    ``final``: it is being put in force, and cannot be broken off any more.
    """

    step: str = ""
    done: int = 0
    of: int = 0
    notes: list[str] = field(default_factory=list)
    final: bool = False

    def at(self, step: str, done: int = 0, of: int = 0) -> None:
        """This is what is being done."""
        self.step, self.done, self.of = step, done, of


async def carry_out(server: Server, progress: Progress, journal: Application, made: Plan) -> int:
    """Put a plan in force that may be; returns its serial. Raises Conflict, and what keeps a user from being moved."""
    nodes = made.changes["nodes"]
    progress.at("opening nodes")
    emptied = frozenset([*nodes["gone"], *(each["node"] for each in nodes["other_jurisdiction"])])
    server.policy.leaving = emptied
    try:
        await _open_nodes(server, [made.after.nodes[name] for name in nodes["new"]])
        await _move_users(server, progress, made)
        await _check_empty(server, emptied)
        await letting_go.let_go(server, emptied, nodes["gone"], progress.at)
        progress.at("putting it in force")
        progress.final = True
        link = await _record(server, journal, made)
    except BaseException as fault:
        server.policy.leaving = frozenset()
        if isinstance(fault, Exception) and not made.moves:
            await close_unused(server)
        raise
    log.info("residency policy in force", serial=link.serial)
    progress.at("replacing the file")
    try:
        progress.notes += await recover(server.nodes.directory.engine, server.settings.residency) or []
    except OSError as error:
        log.error("the file of the policy was not replaced; the next start will do it", reason=str(error))
        progress.notes.append(f"{server.settings.residency} was not replaced ({error}); the next start will do it")
    progress.at("closing nodes")
    for name in nodes["gone"]:
        if server.places is not None:
            try:
                await server.places.close(server, name)
                for node in server.nodes:
                    await node.write(outbox.forget, name)
            except Exception:  # it is in force all the same, and the next start does not open the node
                log.exception("a node that is not in the policy any more was not closed", node=name)
    return link.serial


async def _open_nodes(server: Server, places: list[NodePlace]) -> None:
    for place in places:
        if server.places is not None and place.name not in {node.name for node in server.nodes}:
            try:
                await server.places.open(server, place)
            except NodeUnavailable:
                raise Conflict(f"The database of the new node {place.name} cannot be reached") from None
            except Refusal:
                raise
            except Exception as error:
                raise Conflict(f"The new node {place.name} cannot be opened: {error}") from None


async def _move_users(server: Server, progress: Progress, made: Plan) -> None:
    if not made.moves:
        return
    mover = server.mover
    if mover is None:
        raise Conflict("Users would have to move, which a server does that is running")
    progress.at("moving users", 0, made.moves)
    room = asyncio.Semaphore(MOVES_AT_ONCE)

    async def move(user_id: str, target: str) -> None:
        async with room:
            await mover.move(server, user_id, server.nodes[target])
            progress.done += 1

    for node in list(server.nodes):
        if node.name in made.before.nodes:
            async for page in surveying.moves(node, made.before, made.after):
                try:
                    async with asyncio.TaskGroup() as group:
                        for each in page:
                            group.create_task(move(each.resident.user_id, each.target))
                except ExceptionGroup as failed:
                    raise failed.exceptions[0] from None


async def close_unused(server: Server) -> None:
    """Close the nodes that were opened for a plan which came to nothing."""
    for name in [node.name for node in server.nodes if node.name not in server.policy.now.nodes]:
        if server.places is not None and not await server.nodes[name].read(users.any_resident):
            await server.places.close(server, name)


async def _check_empty(server: Server, emptied: frozenset[str]) -> None:
    """Nobody rests on nodes that go, and nobody comes any more: they are closed to newcomers. Raises Conflict."""
    for name in sorted(emptied):
        if await server.nodes[name].read(users.any_resident):
            await moving.settled(server)
        # In a transaction that writes, and so is in line with those that make accounts.
        if await server.nodes[name].write(users.any_resident):
            raise Conflict(f"Somebody has got an account on {name} meanwhile: plan again")


async def _record(server: Server, journal: Application, made: Plan) -> Link:
    how = How.APPLIED if journal.restores is None else How.ROLLED_BACK
    link = chain.next_link(
        server.identity,
        made.base,
        made.after,
        how,
        server.clock.now_ms(),
        plan=journal.plan,
        restores=journal.restores,
        approvals=made.approvals,
    )
    try:
        await server.nodes.directory.engine.write(_put_in_force, server, made, link, journal.base)
    except NotNewest:
        raise Conflict("Another policy has come into force meanwhile: plan again") from None
    return link


async def _put_in_force(tx: Transaction, server: Server, made: Plan, link: Link, base: str) -> None:
    await policy_plans.record(tx, link, base)
    tx.after_commit(lambda: _swap(server, made))


def _swap(server: Server, made: Plan) -> None:
    """The one step, in which nothing else runs, that puts the policy in force in this process."""
    for node in server.nodes:
        place = made.after.nodes.get(node.name)
        if place is not None:
            node.jurisdiction = place.jurisdiction
    server.policy.now = _as_in_file(made.after, server)
    server.policy.leaving = frozenset()
    statements.wake(server)


def _as_in_file(policy: Policy, server: Server) -> Policy:
    """The policy with the name of the file in which it stands from now on, for its rules to be cited by."""
    return type(policy)(policy.residency, server.policy.now.file, policy.server_name, text=policy.text)
