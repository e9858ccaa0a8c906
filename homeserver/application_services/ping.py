"""Pinging: an application service asks whether the server can reach it.

spec: application-service-api/#pinging
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from homeserver.application_services.asking import ask
from homeserver.protocol.errors import BadStatus, ConnectionFailed, ConnectionTimeout, UrlNotSet
from homeserver.runtime.exchange import Fault, Unreachable

if TYPE_CHECKING:
    from config.application_services import ApplicationService
    from homeserver.context import Server

PATIENCE: Final = 10.0
"""Seconds that a service is waited for."""

MOST_SHOWN: Final = 2000
"""Characters of an answer that are shown to the service."""


def heard_key(service: ApplicationService) -> tuple[str, str]:
    """What is woken in ``server.wakeups`` when a service has shown that it is there."""
    return ("application service heard", service.id)


async def ping(server: Server, service: ApplicationService, transaction_id: str | None) -> int:
    """Ask a service whether it is there; returns how long that took, in milliseconds. What waits for it is then sent.

    Raises UrlNotSet, BadStatus, ConnectionFailed, ConnectionTimeout.
    """
    if service.url is None:
        raise UrlNotSet("This application service has no url in its registration")
    body: dict[str, Any] = {} if transaction_id is None else {"transaction_id": transaction_id}
    began = server.clock.monotonic()
    try:
        answer = await ask(server, service, "POST", "/_matrix/app/v1/ping", body=orjson.dumps(body), seconds=PATIENCE)
    except Unreachable as fault:
        if fault.fault is Fault.TIMEOUT:
            raise ConnectionTimeout("The application service did not answer in time") from None
        raise ConnectionFailed(f"The application service could not be reached: {fault.fault.value}") from None
    if not 200 <= answer.status < 300:
        said = answer.body.decode(errors="replace")[:MOST_SHOWN]
        raise BadStatus(f"The application service answered with {answer.status}", status=answer.status, body=said)
    server.wakeups.wake(heard_key(service))
    return round((server.clock.monotonic() - began) * 1000)
