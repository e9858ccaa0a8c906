"""What the server does without a request: jobs, what watches for work, and how parcels between nodes are applied."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from homeserver.e2ee import publication
from homeserver.e2ee.shipping import KEY_HANDLERS
from homeserver.rooms import chores, housekeeping, replicas
from homeserver.rooms.ephemeral import RECEIPT_HANDLERS

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping

    from homeserver.context import Server
    from homeserver.rooms.replicas import Handler

HANDLERS: Mapping[str, Handler] = {**replicas.ROOM_HANDLERS, **RECEIPT_HANDLERS, **KEY_HANDLERS}

MINUTE = 60.0
HOUR = 60 * MINUTE


def add_jobs(server: Server) -> None:
    """Register every job."""
    add = server.jobs.add
    add(replicas.HISTORY_JOB, partial(replicas.copy_histories, server), every=MINUTE)
    add("forget transactions", partial(housekeeping.forget_transactions, server), every=HOUR)
    add("drop idle copies of keys", partial(publication.drop_idle_copies, server), every=HOUR)
    for name, work in chores.JOBS.values():
        add(name, partial(work, server), every=HOUR)


def watchers(server: Server) -> Iterator[Coroutine[Any, Any, None]]:
    """What runs as long as the server: shipping between each pair of nodes, and doing the chores that are asked."""
    for source in server.nodes:
        for destination in server.nodes:
            if source is not destination:
                yield replicas.ship(server, source, destination, HANDLERS)
        yield publication.follow(server, source)
    yield chores.poke(server)
