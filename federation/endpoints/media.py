"""Our users' media for other servers. spec: server-server-api/#content-repository"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from federation.multipart import around
from homeserver.media import download, reading, thumbnails
from homeserver.media.content_types import disposition
from homeserver.media.thumbnails import Wish
from homeserver.web import media_queries
from homeserver.web.limits import Limit
from homeserver.web.messages import Response
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from homeserver.context import Server
    from homeserver.media.reading import Reading
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/federation/v1/media/download/{mediaId}",
    auth=Auth.SIGNED,
    limit=Limit.FEDERATION,
    spec="server-server-api/#get_matrixfederationv1mediadownloadmediaid",
    long_poll=True,
)
async def download_content(server: Server, request: Request) -> Response:
    """The content of one of our media."""
    node, medium = await download.local(server, *_wish(server, request))
    content = await reading.read(node, medium)
    assert medium.size is not None
    return _parts(content, medium.size, medium.content_type, disposition(medium.content_type, medium.filename))


@route(
    "GET",
    "/_matrix/federation/v1/media/thumbnail/{mediaId}",
    auth=Auth.SIGNED,
    limit=Limit.FEDERATION,
    spec="server-server-api/#get_matrixfederationv1mediathumbnailmediaid",
    long_poll=True,
)
async def thumbnail(server: Server, request: Request) -> Response:
    """A smaller picture of one of our media; never one that moves."""
    wish = Wish(*media_queries.thumbnail(request.query))
    node, medium = await download.local(server, *_wish(server, request))
    made = await thumbnails.find(server, node, medium, wish)
    named = disposition(made.content_type, made.filename)
    if made.content is not None:
        return _parts(made.content, len(made.content), made.content_type, named)
    assert medium.size is not None
    return _parts(await reading.read(node, medium), medium.size, made.content_type, named)


def _wish(server: Server, request: Request) -> tuple[str, str, int]:
    """The media id, the jurisdiction of who asks, and how long they would wait."""
    asking = server.policy.now.jurisdiction_of_server(request.origin)
    return request.args["mediaId"], asking, media_queries.wait_ms(request.query)


def _parts(content: bytes | Reading, size: int, content_type: str, named: str) -> Response:
    """An answer of two parts: nothing, and a file."""
    boundary = secrets.token_hex(16)  # nobody could have put it into the file
    before, after = around(boundary, content_type, named)
    length = len(before) + size + len(after)
    kind = f"multipart/mixed; boundary={boundary}"
    if isinstance(content, bytes):
        return Response(200, [before, content, after], content_type=kind, length=length)
    return Response(200, _flow(before, content, after), content_type=kind, length=length)


async def _flow(before: bytes, content: Reading, after: bytes) -> AsyncIterator[bytes]:
    try:
        yield before
        async for piece in content:
            yield piece
        yield after
    finally:
        content.close()
