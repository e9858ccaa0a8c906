"""Asking application services whether a user or a room alias of theirs should exist, which they then make.

Nobody's request waits long: a service is tried a few times, and one that did not answer is left alone for a while.

spec: application-service-api/#querying
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import structlog

from homeserver.application_services.asking import ask
from homeserver.protocol.errors import QueryTimeout
from homeserver.runtime.exchange import Unreachable
from homeserver.runtime.lru import Lru

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config.application_services import ApplicationService
    from homeserver.context import Server

log = structlog.get_logger("application_services")

ATTEMPTS: Final = 3
PATIENCE: Final = 10.0
"""Seconds that one attempt waits."""
BETWEEN: Final = 0.5
"""Seconds after the first attempt that failed; doubles."""
DENIED_FOR: Final = 30.0
"""Seconds for which it is remembered that a service does not know a name, or does not answer."""


class Asked:
    """What was asked lately (``directory.memory(Asked)``), by service and name: until when nobody is asked again; and
    what is being asked now. ``silent``: services that did not answer, by id."""

    def __init__(self) -> None:
        self.denied: Lru[tuple[str, str], float] = Lru(10_000)
        self.silent: dict[str, float] = {}
        self.under_way: dict[tuple[str, str], asyncio.Future[bool]] = {}


async def user(server: Server, user_id: str) -> bool:
    """Whether a service says that a local user, who does not exist, is one of its: then they do now.

    Raises QueryTimeout when a service does not say.
    """
    if not server.services or not server.nodes.is_local(user_id):
        return False
    asked = [service for service in server.services if service.url is not None and service.has_user(user_id)]
    return await _any(server, asked, "users", user_id)


async def alias(server: Server, name: str) -> bool:
    """Whether a service says that a room alias, which leads nowhere, is one of its: then it leads to a room now.

    Raises QueryTimeout when a service does not say.
    """
    asked = [service for service in server.services if service.url is not None and service.has_alias(name)]
    return await _any(server, asked, "rooms", name)


async def _any(server: Server, services: Sequence[ApplicationService], kind: str, name: str) -> bool:
    memory = server.nodes.directory.memory(Asked)
    for service in services:
        key = (service.id, name)
        now = server.clock.monotonic()
        if (memory.denied.get(key) or 0.0) > now:
            continue
        if memory.silent.get(service.id, 0.0) > now:
            raise QueryTimeout("The application service that may know it does not answer")
        asking = memory.under_way.get(key)
        if asking is None:
            asking = memory.under_way[key] = asyncio.ensure_future(_says(server, service, kind, name))
            asking.add_done_callback(lambda done, key=key: _forget(memory, key, done))  # type: ignore[misc]
        if await asyncio.shield(asking):
            return True
        memory.denied[key] = server.clock.monotonic() + DENIED_FOR
    return False


def _forget(memory: Asked, key: tuple[str, str], done: asyncio.Future[bool]) -> None:
    memory.under_way.pop(key, None)
    if not done.cancelled():
        done.exception()  # seen: whoever asked may have gone away


async def _says(server: Server, service: ApplicationService, kind: str, name: str) -> bool:
    path = f"/{kind}/{quote(name, safe='')}"
    for attempt in range(ATTEMPTS):
        if attempt:
            await server.clock.sleep(BETWEEN * 2 ** (attempt - 1))
        try:
            answer = await ask(server, service, "GET", f"/_matrix/app/v1{path}", old_path=path, seconds=PATIENCE)
        except Unreachable as fault:
            log.info("an application service could not be asked", service=service.id, fault=fault.fault.value)
            continue
        if answer.status < 500:
            return 200 <= answer.status < 300
    server.nodes.directory.memory(Asked).silent[service.id] = server.clock.monotonic() + DENIED_FOR
    raise QueryTimeout("The application service that may know it does not answer")
