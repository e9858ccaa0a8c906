"""Application services come and go while the server runs, with their registrations.

Who stays is not disturbed; what waits for a service whose registration changed is sent to it as it is registered now;
who is gone is told no more, and what waited for it alone is forgotten.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from homeserver.application_services.sending import sender
from homeserver.protocol.errors import NodeUnavailable
from homeserver.rooms.application_services import Named, read_aliases
from homeserver.storage import application_services as stored

if TYPE_CHECKING:
    from collections.abc import Iterable

    from config.application_services import ApplicationService
    from homeserver.context import Server

log = structlog.get_logger("application_services")

CHANGED: Final = ("application services",)
"""What `follow` waits for in ``server.wakeups``."""


async def put_in_force(server: Server, services: Iterable[ApplicationService]) -> None:
    """Have these services instead of those that there were. A new one is told of what happens from now on."""
    before, services = set(server.services), list(services)
    known = {(service.id, service.node) for service in before}
    added = [service for service in services if (service.id, service.node) not in known]
    up = [node for node in server.nodes if node.engine.health().up]
    await _read_aliases(server, services)
    positions = {node.name: node.position for node in up}
    server.services.replace(services)
    await _read_aliases(server, services)  # those that were made meanwhile
    for service in added:
        if service.url is None or service.node not in positions:
            continue
        try:
            if await sender.ensure_own_user(server, service):
                node = server.nodes[service.node]
                await node.write(stored.begin, service.id, service.sender, positions[service.node])
        except NodeUnavailable:
            continue  # it begins once the node is up
    server.wakeups.wake(CHANGED)
    log.info(
        "application services in force",
        services=sorted(service.id for service in services),
        changed=sorted({service.id for service in before ^ set(services)}),
    )


async def _read_aliases(server: Server, services: list[ApplicationService]) -> None:
    """Look for rooms in namespaces once more, on the nodes that are up; of others it is done when they are."""
    server.nodes.directory.memory(Named).read.clear()
    for node in server.nodes:
        try:
            await read_aliases(server, [node], services)
        except NodeUnavailable:
            log.info("aliases of rooms are read later", node=node.name)


async def follow(server: Server) -> None:
    """Send each service what is for it, as long as it is registered; until cancelled."""
    sending: dict[ApplicationService, asyncio.Task[None]] = {}
    introducing: asyncio.Task[None] | None = None
    try:
        while True:
            with server.wakeups.listen([CHANGED]) as listener:
                wanted = {service for service in server.services if service.url is not None}
                await _end([sending.pop(service) for service in sending.keys() - wanted])
                await _end([] if introducing is None else [introducing])
                server.nodes.directory.memory(sender.Senders).keep_only(service.id for service in wanted)
                introducing = asyncio.ensure_future(sender.introduce(server))
                for service in wanted - sending.keys():
                    sending[service] = asyncio.ensure_future(sender.send(server, service))
                await listener.wait()
    finally:
        await _end([*sending.values(), *([] if introducing is None else [introducing])])


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
