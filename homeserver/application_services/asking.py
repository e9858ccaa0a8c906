"""Requests to application services: the one way out to them.

Whatever a service answers is bounded in size and time; its address is the operator's choice, and its token goes to
nobody else, as no redirect is followed.

spec: application-service-api/#authorisation
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import orjson

from homeserver.runtime.exchange import Fault, Unreachable
from homeserver.runtime.outbound import own_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config.application_services import ApplicationService
    from homeserver.context import Server
    from homeserver.runtime.exchange import Answer
    from homeserver.runtime.outbound import Place

MOST_ANSWER: Final = 1024 * 1024
"""Bytes of an answer."""

OLD_PATHS_FOR: Final = 600.0
"""Seconds for which the older addresses of a service are asked first that does not know the newer ones.

spec: application-service-api/#legacy-routes
"""

_UNKNOWN_THERE: Final = frozenset((404, 405, 501))


@lru_cache(maxsize=256)
def _place(url: str) -> tuple[Place, str]:
    """Where a service is, and what stands before its paths there."""
    place, target = own_place(url)
    return place, target.partition("?")[0].rstrip("/")


class Dated:
    """Which services know older addresses only, and until when they are taken to do so (monotonic clock); by id."""

    def __init__(self) -> None:
        self.until: dict[str, float] = {}


async def ask(
    server: Server,
    service: ApplicationService,
    method: str,
    path: str,
    *,
    old_path: str | None = None,
    body: bytes | None = None,
    query: Sequence[tuple[str, str]] = (),
    seconds: float,
) -> Answer:
    """Ask a service and return its answer, whatever its status.

    ``path`` is percent-encoded; ``old_path`` is what services of former times call it. Raises Unreachable, also for a
    service without an address.
    """
    if old_path is None:
        return await _ask(server, service, method, path, body, query, seconds)
    dated = server.nodes.directory.memory(Dated).until
    now = server.clock.monotonic()
    if dated.get(service.id, 0.0) <= now:
        answer = await _ask(server, service, method, path, body, query, seconds)
        if answer.status not in _UNKNOWN_THERE or _says_why(answer):
            return answer
        older = await _ask(server, service, method, old_path, body, query, seconds)
        if 200 <= older.status < 300:
            dated[service.id] = now + OLD_PATHS_FOR
            return older
        return answer
    return await _ask(server, service, method, old_path, body, query, seconds)


def _says_why(answer: Answer) -> bool:
    """Whether an error is about what was asked for, and not about the address."""
    errcode = (json_of(answer) or {}).get("errcode")
    return isinstance(errcode, str) and errcode != "M_UNRECOGNIZED"


async def _ask(
    server: Server,
    service: ApplicationService,
    method: str,
    path: str,
    body: bytes | None,
    query: Sequence[tuple[str, str]],
    seconds: float,
) -> Answer:
    if service.url is None:
        raise Unreachable(Fault.NAME, "the service has no address")
    place, prefix = _place(service.url)
    target = prefix + path + ("?" + urlencode(query) if query else "")
    headers = {"Authorization": f"Bearer {service.hs_token}"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        return await server.outbound.request(
            method, place, target, headers=headers, body=body or b"", most=MOST_ANSWER, seconds=seconds
        )
    except ValueError:  # what was asked for does not fit into an address
        raise Unreachable(Fault.BROKEN, "the address would be too long") from None


def json_of(answer: Answer) -> dict[str, Any] | None:
    """The JSON object in an answer; None when it is something else."""
    found = parsed(answer)
    return found if isinstance(found, dict) else None


def parsed(answer: Answer) -> Any:
    """The JSON in an answer; None when it is none."""
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return None
