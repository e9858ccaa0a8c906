"""What the server does without a request: the jobs, and how each kind of parcel between nodes is applied."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from homeserver.rooms import housekeeping, replicas

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Server
    from homeserver.rooms.replicas import Handler

HANDLERS: Mapping[str, Handler] = {**replicas.ROOM_HANDLERS}

HOUR = 3600.0


def add_jobs(server: Server) -> None:
    """Register every job."""
    add = server.jobs.add
    add(replicas.HISTORY_JOB, partial(replicas.copy_histories, server), every=60.0)
    add("forget transactions", partial(housekeeping.forget_transactions, server), every=HOUR)
