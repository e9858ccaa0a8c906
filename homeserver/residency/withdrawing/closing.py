"""Leaving a jurisdiction, when its time has come: the accounts that are left are closed, their rooms learn of it, and
then nothing of them rests on the nodes.

Each step looks at what is there, so that whoever was killed in between goes on; a job does so by itself.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Any

import structlog

from homeserver.accounts import deactivation
from homeserver.protocol.errors import Conflict
from homeserver.residency.moves.erasing import purge
from homeserver.residency.withdrawing.announcing import ANNOUNCED, CLOSED, CLOSING, going_on
from homeserver.rooms import chores
from homeserver.runtime.jobs import Postponed
from homeserver.sealing import epochs
from homeserver.storage import belongings, outbox, peers, users, withdrawals
from homeserver.transparency import heads, sequencing

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.withdrawals import Withdrawal

log = structlog.get_logger("residency.withdrawing")

AT_ONCE = 100
"""Residents that are read together."""
PATIENCE = 5.0
"""Seconds after which somebody who waits for the end is told how far it has come."""


LONGEST = 60.0
"""Seconds that other nodes have to take what they are told, before that is tried anew."""
LOOK_AGAIN = 0.2
"""Seconds between two looks."""


class Closing:
    """The closing that is under way in this process (``directory.memory(Closing)``), and what it does at the moment."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.step = ""
        self.done = 0

    @property
    def busy(self) -> bool:
        """Whether it is under way."""
        return self.task is not None and not self.task.done()


async def close(server: Server, jurisdiction: str) -> dict[str, Any]:
    """Begin to close what is left, or go on with it, and wait for the end for a while: `progress`.

    Raises Conflict before the day that was announced, and where no server is running, which alone can tell rooms.
    """
    if server.places is not None and not server.places.serving:
        raise Conflict("Rooms have to be left, which a server does that is running: start it")
    there = await going_on(server, jurisdiction)
    if there.state == ANNOUNCED:
        if server.clock.now_ms() < there.ends_ts:
            raise Conflict("Its day has not come: people have been told that they have time until then")
        await server.nodes.directory.engine.write(withdrawals.note, there.plan, ANNOUNCED, CLOSING, there.account)
        log.warning("accounts are closed, for a jurisdiction is left", jurisdiction=jurisdiction)
    elif there.state != CLOSING:
        return {"done": True, "jurisdiction": jurisdiction}
    _start(server)
    return await progress(server)


async def progress(server: Server) -> dict[str, Any]:
    """Wait for the end, for a while: ``done``, or how far it has come. Raises what keeps it from going on, as Conflict:
    it is tried again by itself."""
    closing = server.nodes.directory.memory(Closing)
    if closing.task is None:
        raise Conflict("No accounts are being closed at the moment")
    await asyncio.wait([closing.task], timeout=PATIENCE)
    if not closing.task.done():
        return {"done": False, "step": closing.step, "moved": closing.done, "to_move": 0}
    if closing.task.cancelled():
        raise Conflict("The server is being stopped; it goes on when it is started")
    if (fault := closing.task.exception()) is not None:
        raise Conflict(f"It waits, and is tried again every minute: {getattr(fault, 'message', fault)}")
    return {"done": True}


async def stop(server: Server) -> None:
    """Break off what is under way, so that it can be taken up again."""
    closing = server.nodes.directory.memory(Closing)
    if closing.busy and closing.task is not None:
        closing.task.cancel()
        await asyncio.gather(closing.task, return_exceptions=True)


async def take_up(server: Server) -> None:
    """Go on with what was begun. A job."""
    known = await server.nodes.directory.engine.read(withdrawals.every)
    if any(each.state == CLOSING for each in known):
        _start(server)
        closing = server.nodes.directory.memory(Closing)
        if closing.task is not None:
            await asyncio.wait([closing.task])


def _start(server: Server) -> None:
    closing = server.nodes.directory.memory(Closing)
    if not closing.busy:
        closing.done = 0
        # An empty context: it belongs to no request, whoever asked for it.
        closing.task = asyncio.get_running_loop().create_task(_all(server, closing), name="close", context=Context())
        closing.task.add_done_callback(_note_failure)


def _note_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (fault := task.exception()) is not None:
        log.warning("closing accounts waits", reason=str(getattr(fault, "message", fault)))


async def _all(server: Server, closing: Closing) -> None:
    for each in await server.nodes.directory.engine.read(withdrawals.every):
        if each.state == CLOSING:
            await _one(server, each, closing)


async def _one(server: Server, there: Withdrawal, closing: Closing) -> None:
    routes, account = server.nodes.directory.engine, dict(there.account)
    nodes = [node for node in server.nodes if node.name in there.nodes]  # another policy may have let one go already
    if "closed" not in account:  # how many they were is known only before they are gone
        account["closed"] = dict.fromkeys(there.nodes, 0)
        account["closed"] |= {node.name: (await node.read(withdrawals.left)).accounts for node in nodes}
        await routes.write(withdrawals.note, there.plan, CLOSING, CLOSING, account)
    for node in nodes:
        closing.step = f"destroying sealed sessions of {node.name}"
        await epochs.destroy_all(server, node)
        closing.step = f"closing accounts on {node.name}"
        await _close_accounts(server, node, closing)
        closing.step = f"leaving rooms of {node.name}"
        await _leave_rooms(server, node)
        closing.step = f"erasing what is left on {node.name}"
        await _erase_rows(server, node, closing)
        await epochs.destroy_all(server, node)  # of those who used theirs to the last moment
    account["key_logs"] = dict.fromkeys(there.nodes)
    account["key_logs"] |= {node.name: await _last_head(server, node) for node in nodes}
    await routes.write(withdrawals.note, there.plan, CLOSING, CLOSED, account)
    log.warning("nobody rests there any more", jurisdiction=there.jurisdiction)


async def _close_accounts(server: Server, node: Node, closing: Closing) -> None:
    if await node.read(withdrawals.any_move):
        raise Postponed(f"a move from or to {node.name} has not come to its end: `domicile residency status`")
    after = 0
    while page := await node.read(withdrawals.residents, after, AT_ONCE):
        for _, user_id, is_open in page:
            if is_open:
                await deactivation.deactivate(server, user_id)
                closing.done += 1
        after = page[-1][0]


async def _leave_rooms(server: Server, node: Node) -> None:
    """Have all rooms of closed accounts left, what else waits to be done for them, and the other nodes told. Raises
    Postponed."""
    deadline = server.clock.monotonic() + LONGEST
    while await node.read(withdrawals.any_chore):
        await chores.leave_rooms(server)
        if server.clock.monotonic() > deadline:
            raise Postponed(f"something is still to be done for people on {node.name}")
        await server.clock.sleep(LOOK_AGAIN)
    server.wake_outbox(node)
    while waits := await _unshipped(node):
        down = [name for name in waits if not server.nodes[name].engine.health().up]
        if down or server.clock.monotonic() > deadline:
            raise Postponed(f"{node.name} has not told {', '.join(down or waits)} yet who has left")
        await server.clock.sleep(LOOK_AGAIN)


async def _unshipped(node: Node) -> list[str]:
    """The nodes for which something waits; but what the policy holds back from one is never sent any more."""
    held = await node.read(outbox.held_back)
    return [name for name, rows in (await node.read(outbox.depth)).items() if rows > held.get(name, 0)]


async def _erase_rows(server: Server, node: Node, closing: Closing) -> None:
    while page := await node.read(withdrawals.residents, 0, AT_ONCE):
        for _, user_id, is_open in page:
            if is_open:
                raise Postponed(f"somebody has got an account on {node.name} meanwhile")
            await node.advance(erase_rows, user_id)
    await purge(server, node)


async def _last_head(server: Server, node: Node) -> str | None:
    """The last checkpoint of a node's key log, in which all is that will ever be; None where there is none to be
    believed."""
    await sequencing.catch_up(server, node)
    shown = await heads.current(server, node)
    return None if shown is None else shown.note.decode()


async def erase_rows(tx: Transaction, user_id: str) -> None:
    """Erase all that is left of somebody whose account is closed. What the key log says of them stays to its end."""
    user_nid = await users.resident(tx, user_id)
    if user_nid is not None:
        belongings.erase(tx, user_nid, replicas=True)


async def servers_waiting(server: Server, there: Withdrawal) -> int:
    """For how many other servers something waits on the nodes: it is lost with them."""
    found = set()
    for node in server.nodes:
        if node.name in there.nodes and node.engine.health().up:
            found |= set(await node.read(peers.unsent))
    return len(found)
