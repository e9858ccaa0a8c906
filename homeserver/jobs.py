"""What the server does without a request: jobs, what watches for work, and how parcels between nodes are applied."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from federation import inbound, leftovers, sender
from homeserver.accounts.oauth import clients
from homeserver.application_services.sending import registered
from homeserver.application_services.sending import sender as services
from homeserver.disclosure import lapsing
from homeserver.e2ee import carried, introductions, notices, publication, remote_lists, unsigned
from homeserver.e2ee.shipping import KEY_PARCELS
from homeserver.media import sweep
from homeserver.protocol.errors import NodeUnavailable
from homeserver.push import displacing, watching
from homeserver.residency.changes import listed
from homeserver.residency.listing import pulling
from homeserver.residency.moves import following
from homeserver.residency.proofs import auditing
from homeserver.residency.withdrawing import closing
from homeserver.rooms import chores, delayed, housekeeping, replicas, reunion
from homeserver.rooms.ephemeral import RECEIPT_PARCELS
from homeserver.rooms.erasure import ERASURE_PARCELS
from homeserver.runtime import memory
from homeserver.runtime.jobs import Postponed
from homeserver.sealing import writing
from homeserver.sync.sliding import connections
from homeserver.transparency import comparing, cosigning, peers, sequencing, suspecting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from homeserver.context import Server
    from homeserver.rooms.replicas import ParcelKind
    from homeserver.storage.nodes import Node

    Work = Callable[[Server], Awaitable[object]]

PARCELS: Mapping[str, ParcelKind] = {**replicas.ROOM_PARCELS, **RECEIPT_PARCELS, **KEY_PARCELS, **ERASURE_PARCELS}

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def add_jobs(server: Server) -> None:
    """Register every job."""

    def add(name: str, work: Work, every: float) -> None:
        server.jobs.add(name, partial(_attempt, server, work), every=every)

    add(replicas.HISTORY_JOB, replicas.copy_histories, MINUTE)
    add("forget transactions", housekeeping.forget_transactions, HOUR)
    add("forget received transactions", inbound.forget_old, HOUR)
    add("tidy up for other servers", leftovers.tidy, HOUR)
    add("drop idle copies of keys", publication.drop_idle_copies, HOUR)
    add("write letters about keys", notices.write_letters, MINUTE)
    add("compare keys with their logs", comparing.compare_all, HOUR)
    add("withhold unsigned devices", unsigned.sweep, 10 * MINUTE)
    add("refresh lists of devices", remote_lists.refresh_stale, 10 * MINUTE)
    add("sweep media", sweep.sweep, HOUR)
    add("remove replaced pushers", displacing.displace_all, MINUTE)
    add("forget clients", clients.forget_idle, HOUR)
    add("forget connections", connections.drop_unused, HOUR)
    add("tell nodes what they have forgotten", reunion.reunite, MINUTE)
    add("seal sessions", writing.keep_sealed, MINUTE)
    add("fetch the federation list", pulling.refresh, MINUTE)
    add("look what the federation list breaks", listed.report, MINUTE)
    add("audit", auditing.run_daily, DAY)
    add("close accounts", closing.take_up, MINUTE)
    add("end what has lapsed of orders", lapsing.lapse_all, MINUTE)
    for name, work in chores.JOBS.values():
        add(name, work, HOUR)
    add("drop what application services do not take", services.trim, HOUR)
    server.jobs.add("give back memory", give_back_memory, every=5 * MINUTE)


async def _attempt(server: Server, work: Work) -> None:
    """Do the work, to which a node that is down is no fault."""
    try:
        await work(server)
    except NodeUnavailable as down:
        raise Postponed(f"a node is down: {down.message}") from None


async def give_back_memory() -> None:
    """Return to the system what a burst of work has left free: 2 to 10 ms in which nothing else runs."""
    memory.give_back()


class Watch:
    """What runs as long as the server: shipping between each pair of nodes, telling those who have pushers, sending
    what is to be sent later, sending to other servers, and doing the chores that are asked.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._tasks: dict[asyncio.Task[None], frozenset[str]] = {}
        for node in server.nodes:
            self._start(_of(server, node), node.name)
            for other in server.nodes:
                if other is not node:
                    self._start(replicas.ship(server, node, other, PARCELS), node.name, other.name)
        for coroutine in _of_all(server):
            self._start(coroutine)

    def admit(self, node: Node) -> None:
        """A node has come, which is one of the server's already."""
        self._start(_of(self._server, node), node.name)
        for other in self._server.nodes:
            if other is not node:
                self._start(replicas.ship(self._server, node, other, PARCELS), node.name, other.name)
                self._start(replicas.ship(self._server, other, node, PARCELS), other.name, node.name)

    async def dismiss(self, name: str) -> None:
        """A node goes: end what concerns it."""
        await self._end([task for task, names in self._tasks.items() if name in names])

    async def stop(self) -> None:
        """End all of it."""
        await self._end(list(self._tasks))

    def _start(self, coroutines: Coroutine[Any, Any, None] | Iterator[Coroutine[Any, Any, None]], *names: str) -> None:
        for coroutine in [coroutines] if isinstance(coroutines, Coroutine) else coroutines:
            # An empty context: it belongs to no request, not even to the one that brings a node.
            task = asyncio.get_running_loop().create_task(coroutine, context=Context())
            self._tasks[task] = frozenset(names)

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
            del self._tasks[task]
        await asyncio.gather(*tasks, return_exceptions=True)


def _of(server: Server, node: Node) -> Iterator[Coroutine[Any, Any, None]]:
    """What runs for one node."""
    yield publication.follow(server, node)
    yield sequencing.follow(server, node)
    yield cosigning.follow(server, node)
    yield introductions.follow(server, node)
    yield carried.follow(server, node)
    yield watching.push(server, node)
    yield delayed.follow(server, node)
    if server.settings.federation.enabled:
        yield sender.send(server, node)


def _of_all(server: Server) -> Iterator[Coroutine[Any, Any, None]]:
    """What runs once."""
    yield following.follow(server)
    yield registered.follow(server)
    yield chores.poke(server)
    yield peers.follow(server)
    yield suspecting.follow(server)
