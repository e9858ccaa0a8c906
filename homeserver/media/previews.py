"""Previews of links, where the settings allow them: a page is asked by the server so that no client shows its address.

Pages and pictures are bounded in bytes, time, redirects and number, and never come from an address that our connections
may not lead to. A preview is known for an hour to all of a node; its picture is kept as long as copies of media are,
and counts against a quota of who asked first.

spec: client-server-api/#get_matrixclientv1mediapreview_url
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import structlog

from config.residency import DataClass
from homeserver.media import pages, upload
from homeserver.protocol.errors import FlowDenied, Forbidden, InvalidParam, LimitExceeded, TooLarge, Unrecognized
from homeserver.residency import gate, places, traffic
from homeserver.runtime import redirects
from homeserver.runtime.exchange import Fault, Unreachable
from homeserver.runtime.lru import Lru
from homeserver.runtime.outbound import place_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from homeserver.context import Caller, Server
    from homeserver.runtime.outbound import Place
    from homeserver.storage.nodes import Node

LARGEST_PAGE: Final = 1024 * 1024
"""Bytes of a page that are read; the rest is left where it is."""
LARGEST_ANSWER: Final = 64 * 1024 * 1024
"""Bytes that an answer may say to have; no more than `LARGEST_PAGE` or `LARGEST_PICTURE` of them are taken."""
LARGEST_PICTURE: Final = 5 * 1024 * 1024
LONGEST: Final = 20.0
"""Seconds that a preview may take, its picture included."""
PATIENCE: Final = 8.0
"""Seconds that a web server may say nothing."""
REDIRECTS: Final = 4
AT_ONCE: Final = 16
"""Previews that a node makes at the same moment."""
KNOWN_MS: Final = 3_600_000
FAILED_MS: Final = 300_000
"""How long it is not tried again to fetch what could not be had."""
KNOWN_BYTES: Final = 4 * 1024 * 1024
"""Of previews that a node has in memory, about."""
LONGEST_LINK: Final = 2048

_PAGES: Final = ("text/html", "application/xhtml+xml")
_PICTURES: Final = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF8",
    "image/webp": b"RIFF",
}
"""Types of pictures, and how they begin: what only says that it is a picture is none."""
_SAFE: Final = "!$&'()*+,;=:@/?%~-._[]"
_AGENT: Final = "Domicile (link preview bot)"

log = structlog.get_logger("media")


class Preview(NamedTuple):
    """What was found, and until when it counts (milliseconds since 1970)."""

    found: dict[str, Any]
    until_ms: int


class Looking:
    """The previews that a node knows, and those that it is making (``node.memory(Looking)``)."""

    def __init__(self) -> None:
        self.known: Lru[str, Preview] = Lru(KNOWN_BYTES, _weight, "link_previews")
        self.tasks: dict[str, asyncio.Task[dict[str, Any]]] = {}


class _Fetched(NamedTuple):
    """What a link led to: the address it came from, its content type, and as much of it as is looked at."""

    url: str
    content_type: str
    content: bytes
    whole: bool


async def find(server: Server, caller: Caller, link: str) -> dict[str, Any]:
    """The preview of a link, made by the caller's node; empty when there is nothing to be had.

    Raises Unrecognized unless previews are on, InvalidParam for what is no address of the web, FlowDenied when media
    may not come from there, LimitExceeded when too many are being made, NodeUnavailable.

    spec: client-server-api/#get_matrixclientv1mediapreview_url
    """
    if not server.settings.media.url_previews:
        raise Unrecognized("This server makes no previews of links")
    url = address(link)
    place, _ = place_of(url)
    _check(server, caller.node, place)
    memory = caller.node.memory(Looking)
    known = memory.known.get(url)
    if known is not None and known.until_ms > server.clock.now_ms():
        return known.found
    task = memory.tasks.get(url)
    if task is None:
        if len(memory.tasks) >= AT_ONCE:
            raise LimitExceeded(1000)
        # A task of its own: that one client goes away does not stop what others wait for.
        task = memory.tasks[url] = asyncio.get_running_loop().create_task(_make(server, caller, url))
        task.add_done_callback(lambda done: _done(memory, url, done))
    return await asyncio.shield(task)


def address(link: str) -> str:
    """A link as it is asked for: by https alone, so that nobody on the way reads along, and without its fragment.

    Raises InvalidParam.
    """
    wrong = InvalidParam("Query parameter 'url' must be an address of http or https")
    try:
        parts = urlsplit(link.strip())
        host, port = (parts.hostname or ""), parts.port
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    except ValueError:  # UnicodeError is one
        raise wrong from None
    if parts.scheme.lower() not in ("http", "https") or parts.username is not None or len(link) > LONGEST_LINK:
        raise wrong
    shown = f"[{host}]" if ":" in host else host
    if port is not None and (parts.scheme.lower(), port) not in (("http", 80), ("https", 443)):
        shown += f":{port}"
    path, query = quote(parts.path or "/", safe=_SAFE), quote(parts.query, safe=_SAFE)
    url = urlunsplit(("https", shown.lower(), path, query, ""))
    try:
        place_of(url)
    except Unreachable:
        raise wrong from None
    return url


def _weight(preview: Preview) -> int:
    return 200 + sum(len(name) + 4 * len(str(value)) for name, value in preview.found.items())


def _done(memory: Looking, url: str, task: asyncio.Task[dict[str, Any]]) -> None:
    del memory.tasks[url]
    if not task.cancelled():
        task.exception()  # whoever still waits is told


async def _make(server: Server, caller: Caller, url: str) -> dict[str, Any]:
    now = server.clock.now_ms()
    kept_ms = server.policy.now.retention(caller.node.jurisdiction).media_cache.ms
    found: dict[str, Any] = {}
    lasts = KNOWN_MS
    try:
        async with asyncio.timeout(LONGEST):
            fetched = await _fetch(server, caller.node, url, "text/html,application/xhtml+xml,image/*;q=0.8")
            if _type_of(fetched.content_type) in _PICTURES:
                found = await _picture(server, caller, fetched, now + kept_ms)
            else:
                found = await _page(server, caller, fetched, now + kept_ms)
    except (Unreachable, TimeoutError, FlowDenied) as fault:
        # What stands behind the link, or behind the firewall, is nothing that the asker learns from an error.
        log.info("no preview of a link", node=caller.node.name, reason=type(fault).__name__)
        lasts = FAILED_MS
    caller.node.memory(Looking).known[url] = Preview(found, now + min(lasts, kept_ms // 2))
    return found


async def _page(server: Server, caller: Caller, fetched: _Fetched, until_ms: int) -> dict[str, Any]:
    """What a page says of itself, and its picture."""
    if _type_of(fetched.content_type) not in _PAGES:
        return {}
    said = await asyncio.to_thread(_said, fetched)
    found: dict[str, Any] = {name: text for name, text in said.items() if not name.startswith("og:image")}
    if found:
        found["og:url"] = fetched.url
    if "og:image" in said:
        picture = await _picture_of(server, caller, fetched.url, said["og:image"], until_ms)
        if picture:
            sizes = {name: int(said[name]) for name in ("og:image:width", "og:image:height") if name in said}
            described = {name: said[name] for name in ("og:image:alt",) if name in said}
            found |= picture | sizes | described
    return found


def _said(fetched: _Fetched) -> dict[str, str]:
    return pages.properties(pages.decoded(fetched.content, fetched.content_type))


async def _picture_of(server: Server, caller: Caller, page: str, link: str, until_ms: int) -> dict[str, Any]:
    """A page's picture; nothing when it cannot be had, for the page has a preview without it."""
    try:
        fetched = await _fetch(server, caller.node, address(urljoin(page, link)), "image/*")
    except (Unreachable, FlowDenied, InvalidParam, ValueError) as fault:
        log.info("no picture for a preview", node=caller.node.name, reason=type(fault).__name__)
        return {}
    return await _picture(server, caller, fetched, until_ms)


async def _picture(server: Server, caller: Caller, fetched: _Fetched, until_ms: int) -> dict[str, Any]:
    """Keep a picture as a medium on the asker's node; nothing when it is none."""
    kind = _type_of(fetched.content_type)
    start = _PICTURES.get(kind)
    if start is None or not fetched.whole or not fetched.content.startswith(start):
        return {}

    size = len(fetched.content)
    try:
        uri = await upload.upload(
            server,
            caller,
            upload.Ready(fetched.content),
            declared=size,
            content_type=kind,
            filename=None,
            until_ms=until_ms,
        )
    except (TooLarge, Forbidden):  # the settings allow less, or the asker has had so many that are here still
        return {}
    return {"og:image": uri, "og:image:type": kind, "matrix:image:size": size}


async def _fetch(server: Server, node: Node, url: str, accept: str) -> _Fetched:
    """What a link leads to. Each step on the way is judged like the first.

    Raises Unreachable, FlowDenied.
    """
    for _ in range(REDIRECTS + 1):
        place, target = place_of(url)
        there = _check(server, node, place)
        headers = {"Accept": accept, "Accept-Encoding": "identity", "User-Agent": _AGENT}
        async with server.outbound.stream(
            "GET", place, target, headers=headers, most=LARGEST_ANSWER, seconds=PATIENCE
        ) as streamed:
            if streamed.status == 200:
                kind = streamed.headers.get("content-type", "")
                content, whole = await _beginning(
                    streamed.body, _most(kind), partial(traffic.count, server, there, node.jurisdiction)
                )
                return _Fetched(url, kind, content, whole)
        location = redirects.location(streamed.status, streamed.headers)
        if location is None:
            raise Unreachable(Fault.BROKEN, f"status {streamed.status}")
        try:
            url = address(redirects.onward(url, location))
        except (ValueError, InvalidParam):
            raise redirects.nowhere() from None
    raise redirects.too_many(REDIRECTS)


async def _beginning(body: AsyncIterator[bytes], most: int, count: Callable[[int], None]) -> tuple[bytes, bool]:
    """The first ``most`` bytes of a body, and whether that is all of it."""
    taken = bytearray()
    if most:
        async for piece in body:
            count(len(piece))
            taken += piece
            if len(taken) > most:
                return bytes(taken[:most]), False
    return bytes(taken), True


def _type_of(content_type: str) -> str:
    """Without what comes after the type."""
    return content_type.partition(";")[0].strip().lower()


def _most(content_type: str) -> int:
    """How many bytes of this type are looked at."""
    kind = _type_of(content_type)
    if kind in _PICTURES:
        return LARGEST_PICTURE
    return LARGEST_PAGE if kind in _PAGES else 0


def _check(server: Server, node: Node, place: Place) -> str:
    """Where a web server stands; raises FlowDenied unless media may go there and come from there.

    What goes there is that somebody of this node looks at the link.
    """
    there = places.of_place(server, place)
    gate.check(server, DataClass.MEDIA, node.jurisdiction, there)
    gate.check(server, DataClass.MEDIA, there, node.jurisdiction)
    return there
