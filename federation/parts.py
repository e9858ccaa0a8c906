"""Asks other servers what may take a large answer: it is read while it comes, and taken in slices.

The other server is held up while a slice is looked at. How long it is waited for is bounded all in all, so that nobody
keeps us by a byte now and then.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from federation import reach, remote
from federation.slices import Slices
from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson, NotJson
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
AT_ONCE: Final = 500
"""Elements of a list that are given together: so the servers that signed them are asked for keys at the same time."""


@asynccontextmanager
async def ask_for(
    server: Server,
    node: Node,
    data_class: DataClass,
    destination: str,
    method: str,
    target: str,
    content: bytes | None = None,
    *,
    most: int,
    lists: Collection[str],
    inward: bool = False,
) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
    """As `remote.ask_for`, for an object whose ``lists`` come in slices: each property with its value, or with some
    elements of it, in the order in which they stand there (see `slices.Slices`), at most `AT_ONCE`.

    Raises FlowDenied, ServerUnreachable, RemoteRefusal; whoever takes the parts gets ServerUnreachable and
    `slices.Malformed`.
    """
    remote.check_flow(server, node, data_class, destination, inward=inward)
    seconds = server.settings.federation.request_timeout.seconds
    there = server.policy.now.jurisdiction_of_server(destination)
    with remote.told_plainly(destination):
        async with _asked(server, destination, method, target, content, node, most, seconds) as streamed:
            pieces = _heard(server, destination, _within(streamed.body, seconds, server.clock))
            refusal = None if streamed.status == 200 else await _refusal(streamed, pieces)
            reach.answered(server, destination, streamed.status, None if refusal is None else refusal.errcode)
            if refusal is not None:
                raise refusal
            yield batched(_parts(server, node, there, pieces, lists), lists)


@asynccontextmanager
async def _asked(
    server: Server,
    destination: str,
    method: str,
    target: str,
    content: bytes | None,
    node: Node,
    most: int,
    seconds: float,
) -> AsyncIterator[Streamed]:
    """Find a server and ask it; its answer, of which the head has come. Raises Unreachable."""
    headers = remote.signed(server, destination, method, target, content)
    async with AsyncExitStack() as opening:
        with reach.noticed(server, destination, server.clock.monotonic()):
            place = await remote.located(server, destination, seconds)
            there = server.policy.now.jurisdiction_of_server(destination)
            traffic.count(server, node.jurisdiction, there, len(content or b""))
            streamed = await opening.enter_async_context(
                server.outbound.stream(
                    method, place, target, headers=headers, body=content or b"", most=most, seconds=seconds
                )
            )
        yield streamed


async def _heard(server: Server, destination: str, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces of an answer, of which the rest may not come. Raises Unreachable."""
    while True:
        with reach.noticed(server, destination, server.clock.monotonic()):
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                return
        yield piece


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


async def batched(parts: AsyncIterator[tuple[str, Any]], lists: Collection[str]) -> AsyncIterator[tuple[str, Any]]:
    """The same parts, with `AT_ONCE` elements of a list together: only the last of them are fewer."""
    waiting: dict[str, list[Any]] = {}
    async for name, value in parts:
        for ended in waiting.keys() - {name}:
            yield ended, waiting.pop(ended)
        if name not in lists or not isinstance(value, list):
            yield name, value
            continue
        held = waiting.setdefault(name, [])
        held += value
        while len(held) >= AT_ONCE:
            yield name, held[:AT_ONCE]
            del held[:AT_ONCE]
    for ended, held in waiting.items():
        yield ended, held


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
        found = None
    return remote.refusal_of(streamed.status, found)
