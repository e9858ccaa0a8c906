"""Third-party networks: what application services say of the protocols, places and people that they lead to, merged.

What a service answers is taken over only where it has the form that is specified; one that does not answer is left out.

spec: client-server-api/#third-party-networks
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import structlog

from homeserver.application_services.asking import ask, parsed
from homeserver.protocol.errors import NotFound
from homeserver.runtime.deadlines import within
from homeserver.runtime.exchange import Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from config.application_services import ApplicationService
    from homeserver.context import Server

log = structlog.get_logger("application_services")

PATIENCE: Final = 10.0
"""Seconds that a service is waited for which looks for something."""

DESCRIBING: Final = 2.0
"""Seconds that one is waited for which is to describe a protocol."""

KEPT_FOR: Final = 300.0
"""Seconds for which it is remembered what a service says of a protocol."""

MOST: Final = 1000
"""Results of one service."""

LOCATION: Final = "location"
USER: Final = "user"
_IDS: Final = {LOCATION: "alias", USER: "userid"}


class Described:
    """What services said of protocols (``directory.memory(Described)``), by service id and protocol, until when."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], tuple[float, dict[str, Any]]] = {}


def instance_id(service: ApplicationService, network_id: str) -> str:
    """What names a network of a service among all that this deployment knows."""
    return f"{service.id}|{network_id}"


async def protocols(server: Server) -> dict[str, dict[str, Any]]:
    """All protocols, with their networks. spec: client-server-api/#get_matrixclientv3thirdpartyprotocols"""
    names = sorted({name for service in server.services for name in service.protocols})
    described = await asyncio.gather(*(_described(server, name) for name in names))
    return {name: found for name, found in zip(names, described, strict=True) if found is not None}


async def protocol(server: Server, name: str) -> dict[str, Any]:
    """One protocol. Raises NotFound. spec: client-server-api/#get_matrixclientv3thirdpartyprotocolprotocol"""
    found = await _described(server, name)
    if found is None:
        raise NotFound("No application service provides that protocol")
    return found


async def networks(server: Server) -> set[str]:
    """The instance ids of all networks."""
    described = await protocols(server)
    return {str(instance["instance_id"]) for found in described.values() for instance in found["instances"]}


async def _described(server: Server, name: str) -> dict[str, Any] | None:
    providers = _providers(server, name)
    parts = await asyncio.gather(*(_asked_for(server, service, name) for service in providers))
    found = [(service, part) for service, part in zip(providers, parts, strict=True) if part is not None]
    if not found:
        return None
    merged = _protocol_of(found[0][1])
    merged["instances"] = [each for service, part in found for each in _instances(service, part)]
    return merged


def _providers(server: Server, name: str) -> list[ApplicationService]:
    return [service for service in server.services if name in service.protocols and service.url is not None]


async def _asked_for(server: Server, service: ApplicationService, name: str) -> dict[str, Any] | None:
    """What a service says of a protocol, or said last: clients show all together, and are to wait for no silent one."""
    held = server.nodes.directory.memory(Described).held
    now = server.clock.monotonic()
    known = held.get((service.id, name))
    if known is not None and known[0] > now:
        return known[1]
    try:
        async with within(server.clock, DESCRIBING):
            found = await _ask(server, service, f"protocol/{quote(name, safe='')}", ())
    except TimeoutError:
        log.info("an application service does not describe a protocol in time", service=service.id)
        found = None
    if isinstance(found, dict):
        held[service.id, name] = (now + KEPT_FOR, found)
        return found
    return None if known is None else known[1]  # and it is asked again next time


def _protocol_of(said: dict[str, Any]) -> dict[str, Any]:
    """A protocol as it is specified, whatever a service said."""
    types = said.get("field_types")
    return {
        "user_fields": _texts(said.get("user_fields")),
        "location_fields": _texts(said.get("location_fields")),
        "icon": said["icon"] if isinstance(said.get("icon"), str) else "",
        "field_types": {
            name: kind
            for name, kind in (types.items() if isinstance(types, dict) else ())
            if isinstance(kind, dict) and all(isinstance(kind.get(part), str) for part in ("regexp", "placeholder"))
        },
    }


def _texts(said: object) -> list[str]:
    return [each for each in said if isinstance(each, str)] if isinstance(said, list) else []


def _instances(service: ApplicationService, said: dict[str, Any]) -> Iterable[dict[str, Any]]:
    instances = said.get("instances")
    for instance in instances if isinstance(instances, list) else ():
        if (
            isinstance(instance, dict)
            and isinstance(instance.get("network_id"), str)
            and isinstance(instance.get("desc"), str)
            and isinstance(instance.get("fields"), dict)
        ):
            shown = {name: instance[name] for name in ("desc", "fields", "network_id")}
            if isinstance(instance.get("icon"), str):
                shown["icon"] = instance["icon"]
            yield {**shown, "instance_id": instance_id(service, instance["network_id"])}


async def look_up(server: Server, kind: str, name: str, fields: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The places (LOCATION) or people (USER) of a protocol that fields describe. Raises NotFound for a protocol that
    nobody provides."""
    providers = _providers(server, name)
    if not providers:
        raise NotFound("No application service provides that protocol")
    return await _gathered(server, providers, kind, f"{kind}/{quote(name, safe='')}", fields)


async def leads_to(server: Server, kind: str, matrix_id: str) -> list[dict[str, Any]]:
    """The places that a room alias (LOCATION), or the people that a user id (USER), stands for."""
    asked = [service for service in server.services if service.url is not None and service.protocols]
    return await _gathered(server, asked, kind, kind, [(_IDS[kind], matrix_id)])


async def _gathered(
    server: Server,
    services: Sequence[ApplicationService],
    kind: str,
    path: str,
    query: Sequence[tuple[str, str]],
) -> list[dict[str, Any]]:
    answers = await asyncio.gather(*(_ask(server, service, path, query) for service in services))
    return [
        each
        for answer in answers
        for each in (answer[:MOST] if isinstance(answer, list) else ())
        if isinstance(each, dict)
        and isinstance(each.get(_IDS[kind]), str)
        and isinstance(each.get("protocol"), str)
        and isinstance(each.get("fields"), dict)
    ]


async def _ask(server: Server, service: ApplicationService, path: str, query: Sequence[tuple[str, str]]) -> Any:
    """What a service answers, if it does so with success."""
    place = f"thirdparty/{path}"
    try:
        answer = await ask(
            server,
            service,
            "GET",
            f"/_matrix/app/v1/{place}",
            old_path=f"/_matrix/app/unstable/{place}",
            query=query,
            seconds=PATIENCE,
        )
    except Unreachable as fault:
        log.info("an application service could not be asked", service=service.id, fault=fault.fault.value)
        return None
    return parsed(answer) if 200 <= answer.status < 300 else None
