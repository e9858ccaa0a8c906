"""Asks other servers what may take a large answer: it is read while it comes, and taken in slices.

The other server is held up while a slice is looked at. How long it is waited for is bounded all in all, so that nobody
keeps us by a byte now and then.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog

from federation import remote, x_matrix
from federation.discovery import find
from federation.slices import Slices
from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson, NotJson, ServerUnreachable
from homeserver.residency import traffic
from homeserver.runtime.exchange import Fault, Unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from config.residency import DataClass
    from homeserver.context import Server
    from homeserver.runtime.clock import Clock
    from homeserver.runtime.outbound import Streamed
    from homeserver.storage.nodes import Node

MOST_REFUSAL: Final = 64 * 1024
"""Bytes of an answer that is a refusal."""
_SHOWN: Final = 200

log = structlog.get_logger("federation")


@asynccontextmanager
async def ask_for(
    server: Server,
    node: Node,
    data_class: DataClass,
    destination: str,
    method: str,
    target: str,
    content: bytes,
    *,
    most: int,
    lists: Collection[str],
) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
    """As `remote.ask_for`, for an object whose ``lists`` come in slices: each property with its value, or with some
    elements of it, in the order in which they stand there (see `slices.Slices`).

    Raises FlowDenied, ServerUnreachable, RemoteRefusal; whoever takes the parts gets ServerUnreachable and
    `slices.Malformed`.
    """
    remote.check_flow(server, node, data_class, destination, inward=False)
    seconds = server.settings.federation.request_timeout.seconds
    message = x_matrix.signed_over(method, target, server.name, destination, content)
    headers = {
        "Authorization": x_matrix.write(server.name, destination, server.identity.key, message),
        "Content-Type": "application/json",
    }
    there = server.policy.now.jurisdiction_of_server(destination)
    try:
        async with asyncio.timeout(seconds):
            place = await find(server, destination)
        traffic.count(server, node.jurisdiction, there, len(content))
        async with server.outbound.stream(
            method, place, target, headers=headers, body=content, most=most, seconds=seconds
        ) as streamed:
            pieces = _within(streamed.body, seconds, server.clock)
            if streamed.status != 200:
                raise await _refusal(streamed, pieces)
            yield _parts(server, node, there, pieces, lists)
    except TimeoutError:
        raise ServerUnreachable(f"{destination} could not be found in time") from None
    except Unreachable as fault:
        log.info("a server could not be asked", server=destination, fault=fault.fault.value, reason=str(fault))
        raise ServerUnreachable(f"{destination} could not be reached") from None


async def _parts(
    server: Server, node: Node, there: str, pieces: AsyncIterator[bytes], lists: Collection[str]
) -> AsyncIterator[tuple[str, Any]]:
    slices = Slices(lists)
    async for piece in pieces:
        traffic.count(server, there, node.jurisdiction, len(piece))
        for part in slices.feed(piece):
            yield part
    for part in slices.end():
        yield part


async def _within(pieces: AsyncIterator[bytes], seconds: float, clock: Clock) -> AsyncIterator[bytes]:
    """The pieces, for which no longer is waited altogether. Raises Unreachable."""
    while True:
        began = clock.monotonic()
        try:
            async with asyncio.timeout(seconds):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Unreachable(Fault.TIMEOUT, "its answer did not come in time") from None
        seconds -= clock.monotonic() - began
        if seconds <= 0:
            raise Unreachable(Fault.TIMEOUT, "its answer came too slowly")
        yield piece


async def _refusal(streamed: Streamed, pieces: AsyncIterator[bytes]) -> remote.RemoteRefusal:
    body = b""
    async for piece in pieces:
        body += piece
        if len(body) > MOST_REFUSAL:
            break
    try:
        found = canonical.parse_object(body)
    except (NotJson, BadJson):
        found = {}
    errcode, words = (
        text[:_SHOWN] if isinstance(text := found.get(name), str) else "" for name in ("errcode", "error")
    )
    return remote.RemoteRefusal(streamed.status, errcode, words)
