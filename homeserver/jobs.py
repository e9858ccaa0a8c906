"""What the server does without a request: jobs, what watches for work, and how parcels between nodes are applied."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from federation import inbound, leftovers, sender
from homeserver.accounts.oauth import clients
from homeserver.application_services.sending import registered
from homeserver.application_services.sending import sender as services
from homeserver.e2ee import introductions, publication, remote_lists
from homeserver.e2ee.shipping import KEY_PARCELS
from homeserver.media import sweep
from homeserver.protocol.errors import NodeUnavailable
from homeserver.push import displacing, watching
from homeserver.residency.moves import following
from homeserver.residency.proofs import auditing
from homeserver.rooms import chores, delayed, housekeeping, replicas
from homeserver.rooms.ephemeral import RECEIPT_PARCELS
from homeserver.rooms.erasure import ERASURE_PARCELS
from homeserver.runtime import memory
from homeserver.runtime.jobs import Postponed
from homeserver.sync.sliding import connections

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping

    from homeserver.context import Server
    from homeserver.rooms.replicas import ParcelKind

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
    add("refresh lists of devices", remote_lists.refresh_stale, 10 * MINUTE)
    add("sweep media", sweep.sweep, HOUR)
    add("remove replaced pushers", displacing.displace_all, MINUTE)
    add("forget clients", clients.forget_idle, HOUR)
    add("forget connections", connections.drop_unused, HOUR)
    add("audit", auditing.run_daily, DAY)
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


def watchers(server: Server) -> Iterator[Coroutine[Any, Any, None]]:
    """What runs as long as the server: shipping between each pair of nodes, telling those who have pushers, sending
    what is to be sent later, sending to other servers, and doing the chores that are asked."""
    for source in server.nodes:
        for destination in server.nodes:
            if source is not destination:
                yield replicas.ship(server, source, destination, PARCELS)
        yield publication.follow(server, source)
        yield introductions.follow(server, source)
        yield watching.push(server, source)
        yield delayed.follow(server, source)
        if server.settings.federation.enabled:
            yield sender.send(server, source)
    yield following.follow(server)
    yield registered.follow(server)
    yield chores.poke(server)
