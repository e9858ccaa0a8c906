"""Asks other servers: every request to one goes through `ask`, found by discovery and signed.

What they answer is not trusted: it is bounded, and it is the caller who checks what it says.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog

from federation import reach, x_matrix
from federation.discovery import find
from homeserver.protocol import canonical
from homeserver.protocol.errors import NotJson, ServerUnreachable
from homeserver.residency import gate, traffic
from homeserver.residency.listing import pulling
from homeserver.runtime.exchange import Fault, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from config.residency import DataClass
    from homeserver.context import Server
    from homeserver.runtime.exchange import Answer
    from homeserver.runtime.outbound import Place
    from homeserver.storage.nodes import Node

_SHOWN: Final = 200
_AFTER_SENDING: Final = frozenset((Fault.TIMEOUT, Fault.TOO_LARGE, Fault.BROKEN))
"""Faults with which the question may have left."""

log = structlog.get_logger("federation")


class RemoteRefusal(Exception):
    """Another server answered with an error, perhaps in words. Not one of our refusals, so that it reaches no client by
    accident."""

    def __init__(self, status: int, errcode: str, words: str = "") -> None:
        super().__init__(f"{status} {errcode}")
        self.status = status
        self.errcode = errcode
        self.words = words


async def ask_for(
    server: Server,
    node: Node,
    data_class: DataClass,
    destination: str,
    method: str,
    target: str,
    content: Mapping[str, Any] | bytes | None = None,
    *,
    most: int,
    seconds: float | None = None,
    inward: bool = False,
    if_reachable: bool = False,
    paired: bool = False,
) -> dict[str, Any]:
    """`ask` on behalf of a user of ``node``: the policy is asked first, and failures are said as clients may read them.

    ``data_class`` is what the question, or its answer, carries; ``inward``: only the answer does, so that the flow is
    one from the other server to the node. ``if_reachable``: a server that could not be reached a short while ago is not
    waited for again. Raises FlowDenied, ServerUnreachable, RemoteRefusal.
    """
    await pulling.appears(server, destination)
    check_flow(server, node, data_class, destination, inward=inward)
    if if_reachable:
        reach.check(server, destination)
    with told_plainly(destination):
        return await ask(
            server, destination, method, target, content, most=most, seconds=seconds, node=node, paired=paired
        )


@contextmanager
def told_plainly(destination: str) -> Iterator[None]:
    """Turn Unreachable into ServerUnreachable, which clients may read: why it was stands in the log alone."""
    try:
        yield
    except Unreachable as fault:
        log.info("a server could not be asked", server=destination, fault=fault.fault.value, reason=str(fault))
        raise ServerUnreachable(f"{destination} could not be reached") from None


def check_flow(server: Server, node: Node, data_class: DataClass, other: str, *, inward: bool) -> None:
    """Raise unless data of a class may go from a node to another server, or (``inward``) come from there.

    Raises FlowDenied, and ServerUnreachable where there is no federation.
    """
    if not server.settings.federation.enabled:
        raise ServerUnreachable("This server does not talk with other servers")
    if other.lower() == server.name.lower():
        raise ServerUnreachable(f"{other} is this server itself")
    here, there = node.jurisdiction, server.policy.now.jurisdiction_of_server(other)
    gate.check(server, data_class, *((there, here) if inward else (here, there)))


async def ask(
    server: Server,
    destination: str,
    method: str,
    target: str,
    content: Mapping[str, Any] | bytes | None = None,
    *,
    most: int,
    seconds: float | None = None,
    node: Node | None = None,
    paired: bool = False,
) -> dict[str, Any]:
    """The JSON object that a server answers with, in at most ``most`` bytes and ``seconds`` (else as the settings say).

    ``target`` is path and query, encoded; ``content`` may be canonical JSON already. ``node`` is where that comes from,
    and where the answer goes: its bytes are counted. ``paired``: the route is one of the old ones that answer with an
    array of a status and the object. Raises Unreachable, and RemoteRefusal for a status other than 200.

    spec: server-server-api/#api-standards
    """
    with reach.noticed(server, destination, server.clock.monotonic()):
        answer = await _exchange(server, destination, method, target, content, most, seconds, node)
    status, found = answer.status, _parsed(answer.body)
    reach.answered(server, destination, status, found.get("errcode") if isinstance(found, dict) else None)
    if paired and status == 200 and isinstance(found, list) and len(found) == 2 and type(found[0]) is int:
        status, found = found
    if status != 200:
        raise refusal_of(status, found)
    if not isinstance(found, dict):
        raise Unreachable(Fault.BROKEN, "the answer is no JSON object")
    return found


async def _exchange(
    server: Server,
    destination: str,
    method: str,
    target: str,
    content: Mapping[str, Any] | bytes | None,
    most: int,
    seconds: float | None,
    node: Node | None,
) -> Answer:
    """Find a server, ask it, and count the bytes. Raises Unreachable."""
    longest = server.settings.federation.request_timeout.seconds
    seconds = longest if seconds is None else min(seconds, longest)
    place = await located(server, destination, seconds)
    body = content if content is None or isinstance(content, bytes) else canonical.encode(content)
    headers = signed(server, destination, method, target, body)
    try:
        answer = await server.outbound.request(
            method, place, target, headers=headers, body=body or b"", most=most, seconds=seconds
        )
    except Unreachable as unreachable:
        if unreachable.fault in _AFTER_SENDING:
            _count(server, node, destination, len(body or b""), outward=True)
        raise
    _count(server, node, destination, len(body or b""), outward=True)
    _count(server, node, destination, len(answer.body), outward=False)
    return answer


async def located(server: Server, destination: str, seconds: float) -> Place:
    """Where a server is asked, if that can be told within so many seconds. Raises Unreachable."""
    try:
        async with asyncio.timeout(seconds):
            return await find(server, destination)
    except TimeoutError:
        raise Unreachable(Fault.TIMEOUT, f"not found within {seconds} seconds") from None


def signed(server: Server, destination: str, method: str, target: str, body: bytes | None) -> dict[str, str]:
    """The headers of a request of ours whose ``body`` is canonical JSON.

    spec: server-server-api/#request-authentication
    """
    message = x_matrix.signed_over(method, target, server.name, destination, body)
    headers = {"Authorization": x_matrix.write(server.name, destination, server.identity.key, message)}
    if body is not None:
        headers["Content-Type"] = "application/json"
    return headers


def refusal_of(status: int, said: object) -> RemoteRefusal:
    """What an error of another server is; ``said``: the JSON of its body, if that is any."""
    found = said if isinstance(said, dict) else {}
    errcode, words = (
        text[:_SHOWN] if isinstance(text := found.get(name), str) else "" for name in ("errcode", "error")
    )
    return RemoteRefusal(status, errcode, words)


def _parsed(body: bytes) -> Any:
    """What a body says, which may be an event of an old room; None for what is no JSON."""
    try:
        return canonical.parse(body, strict=False)
    except NotJson:
        return None


def _count(server: Server, node: Node | None, other: str, size: int, *, outward: bool) -> None:
    """Count bytes that cross a border, or stay within it."""
    here = traffic.DEPLOYMENT if node is None else node.jurisdiction
    there = server.policy.now.jurisdiction_of_server(other)
    traffic.count(server, *((here, there) if outward else (there, here)), size)
