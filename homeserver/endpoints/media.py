"""The content repository. spec: client-server-api/#content-repository"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Final

from homeserver.media import download, previews, reading, thumbnails, upload
from homeserver.media.content_types import content_type, disposition, file_name
from homeserver.media.thumbnails import Wish
from homeserver.protocol.errors import NotFound
from homeserver.web import media_queries
from homeserver.web.limits import Limit
from homeserver.web.messages import Response, json_response
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

SAFE: Final = (
    (
        "Content-Security-Policy",
        "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; "
        "style-src 'unsafe-inline'; object-src 'self';",
    ),
    ("Cross-Origin-Resource-Policy", "cross-origin"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "private, max-age=31536000, immutable"),
)
"""Content comes from anybody: a browser may do nothing with it but show it; it never changes.

spec: client-server-api/#content-repository
"""
_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)


@route(
    "POST",
    "/_matrix/media/v3/upload",
    auth=Auth.USER,
    limit=Limit.MEDIA,
    spec="client-server-api/#post_matrixmediav3upload",
    stream=True,
    body=sys.maxsize,  # the settings say how much, and whoever stores it counts
    also=("r0", "v1"),
    unless_suspended=True,
)
async def upload_content(server: Server, request: Request) -> dict[str, Any]:
    """Upload content."""
    content_uri = await upload.upload(
        server,
        request.caller,
        request.incoming,
        declared=request.incoming.declared,
        content_type=content_type(request.header("Content-Type")),
        filename=file_name(request.query.get("filename")),
    )
    return {"content_uri": content_uri}


@route(
    "POST",
    "/_matrix/media/v1/create",
    auth=Auth.USER,
    limit=Limit.MEDIA,
    spec="client-server-api/#post_matrixmediav1create",
    unless_suspended=True,
)
async def create(server: Server, request: Request) -> dict[str, Any]:
    """Make a content URI for content that comes later."""
    content_uri, expires_ms = await upload.create(server, request.caller)
    return {"content_uri": content_uri, "unused_expires_at": expires_ms}


@route(
    "PUT",
    "/_matrix/media/v3/upload/{serverName}/{mediaId}",
    auth=Auth.USER,
    limit=Limit.MEDIA,
    spec="client-server-api/#put_matrixmediav3uploadservernamemediaid",
    stream=True,
    body=sys.maxsize,
    unless_suspended=True,
)
async def upload_to_uri(server: Server, request: Request) -> dict[str, Any]:
    """Upload the content of a URI that was made before."""
    await upload.fill(
        server,
        request.caller,
        request.args["serverName"],
        request.args["mediaId"],
        request.incoming,
        declared=request.incoming.declared,
        content_type=content_type(request.header("Content-Type")),
        filename=file_name(request.query.get("filename")),
    )
    return {}


@route(
    "GET",
    "/_matrix/client/v1/media/config",
    auth=Auth.GUEST,
    limit=Limit.MEDIA,
    spec="client-server-api/#get_matrixclientv1mediaconfig",
)
@route(
    "GET",
    "/_matrix/media/v3/config",
    auth=Auth.GUEST,
    limit=Limit.MEDIA,
    spec="client-server-api/#get_matrixmediav3config",
    also=("r0",),
)
async def config(server: Server, request: Request) -> dict[str, Any]:
    """What the repository takes."""
    return {"m.upload.size": server.settings.media.max_upload}


@route(
    "GET",
    "/_matrix/client/v1/media/preview_url",
    auth=Auth.USER,
    limit=Limit.MEDIA,
    spec="client-server-api/#get_matrixclientv1mediapreview_url",
    long_poll=True,
)
@route(
    "GET",
    "/_matrix/media/v3/preview_url",
    auth=Auth.USER,
    limit=Limit.MEDIA,
    spec="client-server-api/#get_matrixmediav3preview_url",
    also=("r0",),
    long_poll=True,
)
async def preview(server: Server, request: Request) -> Response:
    """What a page says of itself, as of now or of the last hour, whatever time is preferred."""
    link = request.query.require("url")
    request.query.integer("ts", 0)
    return json_response(await previews.find(server, request.caller, link), 200, [("Cache-Control", "private")])


@route(
    "GET",
    "/_matrix/client/v1/media/download/{serverName}/{mediaId}",
    auth=Auth.GUEST,
    limit=Limit.MEDIA,
    spec="client-server-api/#get_matrixclientv1mediadownloadservernamemediaid",
    long_poll=True,
)
@route(
    "GET",
    "/_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}",
    auth=Auth.GUEST,
    limit=Limit.MEDIA,
    spec="client-server-api/#get_matrixclientv1mediadownloadservernamemediaidfilename",
    long_poll=True,
)
async def download_content(server: Server, request: Request) -> Response:
    """The content, or the part of it that is asked for, under the name it was uploaded with or the one asked for."""
    node, medium = await download.find(server, request.caller, *_sought(request))
    assert medium.size is not None
    tag = download.tag(medium)
    if _has(request, tag):
        return _unchanged(tag)
    named = request.args.get("fileName")
    headers = [
        *SAFE,
        ("ETag", tag),
        ("Accept-Ranges", "bytes"),
        ("Content-Disposition", disposition(medium.content_type, file_name(named) if named else medium.filename)),
    ]
    part = _part(request, medium.size, tag)
    if part is None:
        content = await reading.read(node, medium)
        return Response(200, content, headers, content_type=medium.content_type, length=medium.size)
    start, length = part
    if length <= 0:
        error = {"errcode": "M_UNKNOWN", "error": "The content has no such part"}
        return json_response(error, 416, [("Content-Range", f"bytes */{medium.size}")])
    headers.append(("Content-Range", f"bytes {start}-{start + length - 1}/{medium.size}"))
    content = await reading.read(node, medium, start, length)
    return Response(206, content, headers, content_type=medium.content_type, length=length)


@route(
    "GET",
    "/_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}",
    auth=Auth.GUEST,
    limit=Limit.MEDIA,
    spec="client-server-api/#get_matrixclientv1mediathumbnailservernamemediaid",
    long_poll=True,
)
async def thumbnail(server: Server, request: Request) -> Response:
    """A smaller picture of the content; never one that moves."""
    wish = Wish(*media_queries.thumbnail(request.query))
    node, medium = await download.find(server, request.caller, *_sought(request))
    made = await thumbnails.find(server, node, medium, wish)
    tag = download.tag(medium, f"{wish.width}x{wish.height}-{wish.method}")
    if _has(request, tag):
        return _unchanged(tag)
    headers = [*SAFE, ("ETag", tag), ("Content-Disposition", disposition(made.content_type, made.filename))]
    content = made.content
    if content is None:
        whole = await reading.read(node, medium)
        return Response(200, whole, headers, content_type=made.content_type, length=medium.size)
    return Response(200, content, headers, content_type=made.content_type)


@route(
    "GET",
    "/_matrix/media/v3/download/{serverName}/{mediaId}",
    auth=Auth.NONE,
    limit=Limit.MEDIA,
    spec="client-server-api/#get_matrixmediav3downloadservernamemediaid",
    also=("r0", "v1"),
)
@route(
    "GET",
    "/_matrix/media/v3/download/{serverName}/{mediaId}/{fileName}",
    auth=Auth.NONE,
    limit=Limit.MEDIA,
    spec="client-server-api/#get_matrixmediav3downloadservernamemediaidfilename",
    also=("r0", "v1"),
)
@route(
    "GET",
    "/_matrix/media/v3/thumbnail/{serverName}/{mediaId}",
    auth=Auth.NONE,
    limit=Limit.MEDIA,
    spec="client-server-api/#get_matrixmediav3thumbnailservernamemediaid",
    also=("r0", "v1"),
)
async def frozen(server: Server, request: Request) -> dict[str, Any]:
    """Nothing: whoever asks must say who they are, or nobody could say where media flow to.

    spec: client-server-api/#content-repo-client-behaviour
    """
    raise NotFound("Media are given out to those who are logged in: use /_matrix/client/v1/media")


def _sought(request: Request) -> tuple[str, str, int]:
    """The server and the id of the medium, and how long the client would wait."""
    return request.args["serverName"], request.args["mediaId"], media_queries.wait_ms(request.query)


def _has(request: Request, tag: str) -> bool:
    """Whether the client has this content already."""
    known = request.header("If-None-Match")
    return known is not None and tag in (entry.strip().removeprefix("W/") for entry in known.split(","))


def _unchanged(tag: str) -> Response:
    return Response(304, b"", [*SAFE, ("ETag", tag)])


def _part(request: Request, size: int, tag: str) -> tuple[int, int] | None:
    """Start and length of the part that is asked for, None for all of it; a length of 0: there is no such part.

    More than one part at once is more than anybody needs: all of it is the answer then.
    """
    match = _RANGE.fullmatch((request.header("Range") or "").replace(" ", ""))
    if match is None or request.header("If-Range") not in (None, tag):
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        length = min(int(last), size)
        return size - length, length
    start = int(first)
    end = min(int(last) + 1, size) if last else size
    if last and int(last) < start:
        return None
    return start, max(end - start, 0)
