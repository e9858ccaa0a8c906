"""Asks other servers: every request to one goes through `ask`, found by discovery and signed.

What they answer is not trusted: it is bounded, and it is the caller who checks what it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from federation import x_matrix
from federation.discovery import find
from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson, NotJson
from homeserver.runtime.exchange import Fault, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Server

_SHOWN: Final = 200


class RemoteRefusal(Exception):
    """Another server answered with an error. Not one of our refusals, so that it reaches no client by accident."""

    def __init__(self, status: int, errcode: str) -> None:
        super().__init__(f"{status} {errcode}")
        self.status = status
        self.errcode = errcode


async def ask(
    server: Server,
    destination: str,
    method: str,
    target: str,
    content: Mapping[str, Any] | None = None,
    *,
    most: int,
) -> dict[str, Any]:
    """The JSON object that a server answers with, in at most ``most`` bytes.

    ``target`` is path and query, encoded. Raises Unreachable, and RemoteRefusal for a status other than 200.

    spec: server-server-api/#api-standards
    """
    place = await find(server, destination)
    message = x_matrix.signed(method, target, server.name, destination, content)
    headers = {"Authorization": x_matrix.write(server.name, destination, server.identity.key, message)}
    body = b""
    if content is not None:
        headers["Content-Type"] = "application/json"
        body = canonical.encode(content)
    seconds = server.settings.federation.request_timeout.seconds
    answer = await server.outbound.request(
        method, place, target, headers=headers, body=body, most=most, seconds=seconds
    )
    try:
        found = canonical.parse_object(answer.body)
    except (NotJson, BadJson):
        found = None
    if answer.status != 200:
        errcode = found.get("errcode") if found else None
        raise RemoteRefusal(answer.status, errcode[:_SHOWN] if isinstance(errcode, str) else "")
    if found is None:
        raise Unreachable(Fault.BROKEN, "the answer is no JSON object")
    return found
