"""Counts the bytes of what other servers ask and are answered, by the jurisdictions between which they go.

Whoever looks at a node on the way says so (residency/traffic.py); what a stream brings is counted as it is sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from homeserver.residency import traffic
from homeserver.web.messages import Response, json_response
from homeserver.web.routes import Auth

if TYPE_CHECKING:
    from collections.abc import Callable

    from homeserver.context import Server
    from homeserver.web.messages import Request
    from homeserver.web.routes import Route


def counted(route: Route[Server]) -> Route[Server]:
    """The same route; if other servers sign its requests, their bytes are counted, and those of the answers."""
    if route.auth is not Auth.SIGNED:
        return route
    endpoint = route.endpoint

    async def answer(server: Server, request: Request) -> Response:
        there = server.policy.now.jurisdiction_of_server(request.origin)
        with traffic.Account() as account:
            try:
                result: Response | dict[str, Any] = await endpoint(server, request)
            finally:
                traffic.count(server, there, account.place, len(request.body))
        response = result if isinstance(result, Response) else json_response(result)

        def note(size: int) -> None:
            for here, part in account.parts(size).items():
                traffic.count(server, here, there, part)

        _count(response, note)
        return response

    return replace(route, endpoint=answer)


def _count(response: Response, note: Callable[[int], None]) -> None:
    body = response.body
    if isinstance(body, bytes):
        note(len(body))
    elif isinstance(body, AsyncIterator):
        response.body = _flow(body, note)
    else:
        note(sum(len(chunk) for chunk in body))


async def _flow(body: AsyncIterator[bytes], note: Callable[[int], None]) -> AsyncIterator[bytes]:
    size = 0
    try:
        async for chunk in body:
            size += len(chunk)
            yield chunk
    finally:
        note(size)
        if hasattr(body, "aclose"):
            await body.aclose()
