"""Fetches media from other servers, by the signed route and, where a server is too old for it, the open one.

What is fetched is taken as it comes, bounded, and never from an address that our connections may not lead to.

spec: server-server-api/#content-repository
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import structlog

from config.residency import DataClass
from federation import reach, remote
from federation.multipart import Multipart, NotMultipart, boundary_in
from homeserver.context import MediaHead
from homeserver.media.content_types import filename_in
from homeserver.protocol import canonical
from homeserver.protocol.errors import (
    BadJson,
    Forbidden,
    NotFound,
    NotJson,
    NotYetUploaded,
    Refusal,
    RemoteTooLarge,
    ServerUnreachable,
)
from homeserver.residency import traffic
from homeserver.runtime import redirects
from homeserver.runtime.exchange import Fault, Unreachable
from homeserver.runtime.outbound import place_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from homeserver.context import Server
    from homeserver.runtime.outbound import Place, Streamed
    from homeserver.storage.nodes import Node

    Take = Callable[[bytes], Awaitable[None]]

LONGEST: Final = 600.0
"""Seconds that one file may take, all redirects and waiting included."""
REDIRECTS: Final = 3
AROUND: Final = 64 * 1024
"""Bytes that may stand around a file, and that an error may have."""

log = structlog.get_logger("federation")


class _TooOldError(Exception):
    """The server does not know the signed route."""


async def fetch_media(
    server: Server, node: Node, server_name: str, media_id: str, wait_ms: int, take: Take
) -> MediaHead:
    """See `context.Remote.fetch_media`. spec: server-server-api/#get_matrixfederationv1mediadownloadmediaid"""
    remote.check_flow(server, node, DataClass.MEDIA, server_name, inward=True)
    reach.check(server, server_name)
    there = server.policy.now.jurisdiction_of_server(server_name)

    async def counted(piece: bytes) -> None:
        traffic.count(server, there, node.jurisdiction, len(piece))
        await take(piece)

    try:
        async with asyncio.timeout(LONGEST):
            with reach.noticed(server, server_name, server.clock.monotonic()):
                place = await remote.located(server, server_name, server.settings.federation.request_timeout.seconds)
            try:
                return await _signed(server, place, server_name, media_id, wait_ms, counted)
            except _TooOldError:
                return await _open(server, place, server_name, media_id, wait_ms, counted)
    except (Unreachable, NotMultipart, TimeoutError) as fault:
        log.info("a medium could not be fetched", server=server_name, reason=str(fault))
        if isinstance(fault, Unreachable) and fault.fault is Fault.TOO_LARGE:
            raise RemoteTooLarge("The content is too large to serve") from None
        raise ServerUnreachable(f"{server_name} did not give the content") from None


async def _signed(server: Server, place: Place, server_name: str, media_id: str, wait_ms: int, take: Take) -> MediaHead:
    target = f"/_matrix/federation/v1/media/download/{quote(media_id, safe='')}?timeout_ms={wait_ms}"
    headers = {**remote.signed(server, server_name, "GET", target, None), "Accept": "multipart/mixed"}
    most, seconds = server.settings.media.max_download + AROUND, _patience(server, wait_ms)
    async with _asked(server, server_name, place, target, headers, most, seconds) as (streamed, errcode):
        if streamed.status != 200:
            raise _refused(streamed.status, errcode, server_name)
        boundary = boundary_in(streamed.headers.get("content-type"))
        if boundary is None:
            raise NotMultipart("the answer is not of several parts")
        parts = Multipart(streamed.body, boundary)
        await parts.part()  # says nothing so far
        head = await parts.part()
        location = head.get("location")
        if location is None:
            async for piece in parts.content():
                await take(piece)
            return MediaHead(head.get("content-type"), filename_in(head.get("content-disposition")))
    return await _elsewhere(server, location, server_name, seconds, take)


async def _open(server: Server, place: Place, server_name: str, media_id: str, wait_ms: int, take: Take) -> MediaHead:
    """The route of old servers, which ask nobody who they are."""
    target = (
        f"/_matrix/media/v3/download/{quote(server_name, safe='')}/{quote(media_id, safe='')}"
        f"?allow_remote=false&allow_redirect=true&timeout_ms={wait_ms}"
    )
    return await _plain(server, place, target, server_name, _patience(server, wait_ms), take, REDIRECTS, itself=True)


async def _elsewhere(
    server: Server, location: str, server_name: str, seconds: float, take: Take, left: int = REDIRECTS
) -> MediaHead:
    """What a server says is to be had at a web address."""
    place, target = place_of(location)
    return await _plain(server, place, target, server_name, seconds, take, left - 1)


async def _plain(
    server: Server,
    place: Place,
    target: str,
    server_name: str,
    seconds: float,
    take: Take,
    left: int,
    *,
    itself: bool = False,
) -> MediaHead:
    """``itself``: the place is that of the server, and none that it has named."""
    most, headers = server.settings.media.max_download, {"Accept": "*/*"}
    asked = server_name if itself else None
    async with _asked(server, asked, place, target, headers, most, seconds) as (streamed, errcode):
        if streamed.status == 200:
            async for piece in streamed.body:
                await take(piece)
            found = streamed.headers
            return MediaHead(found.get("content-type"), filename_in(found.get("content-disposition")))
        location = redirects.location(streamed.status, streamed.headers)
        if location is None:
            refusal = _refused(streamed.status, errcode, server_name)
            raise NotFound("There is no such medium") if isinstance(refusal, _TooOldError) else refusal
    if left <= 0:
        raise redirects.too_many(REDIRECTS)
    onward = redirects.onward(f"https://{place.host}{target}", location)
    return await _elsewhere(server, onward, server_name, seconds, take, left)


@asynccontextmanager
async def _asked(
    server: Server,
    server_name: str | None,
    place: Place,
    target: str,
    headers: Mapping[str, str],
    most: int,
    seconds: float,
) -> AsyncIterator[tuple[Streamed, object]]:
    """Ask at a place: the answer as it comes, and what errcode it names if it is an error. How it went is remembered of
    the server, if the place is that of one. Raises Unreachable.

    That nobody waits any longer says nothing about a server: it may be waiting for an upload.
    """
    began = server.clock.monotonic()
    try:
        async with server.outbound.stream("GET", place, target, headers=headers, most=most, seconds=seconds) as found:
            errcode = await _errcode(found.body) if found.status >= 400 else None
            if server_name is not None:
                reach.answered(server, server_name, found.status, errcode)
            yield found, errcode
    except Unreachable as unreachable:
        if server_name is not None:
            reach.failed(server, server_name, began, unreachable.fault)
        raise


def _patience(server: Server, wait_ms: int) -> float:
    """Seconds that a server may say nothing: it may be waiting for an upload."""
    return server.settings.federation.request_timeout.seconds + wait_ms / 1000


def _refused(status: int, errcode: object, server_name: str) -> Refusal | _TooOldError:
    """What the error of another server means to who asked us."""
    if errcode == "M_UNRECOGNIZED":
        return _TooOldError()
    if status == 404:
        return NotFound("There is no such medium")
    if errcode == "M_NOT_YET_UPLOADED":
        return NotYetUploaded("The content has not yet been uploaded")
    if errcode == "M_TOO_LARGE":
        return RemoteTooLarge("The content is too large to serve")
    if status == 403:
        return Forbidden(f"{server_name} does not give the content out")
    return ServerUnreachable(f"{server_name} did not give the content")


async def _errcode(body: AsyncIterator[bytes]) -> object:
    whole = b""
    async for piece in body:
        whole += piece
        if len(whole) > AROUND:
            return None
    try:
        return canonical.parse_object(whole).get("errcode")
    except (NotJson, BadJson):
        return None
