"""Uploading and downloading as clients do, and a look at what lies in the media folders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson
from PIL import Image

from homeserver.web.incoming import Incoming
from homeserver.web.messages import Request, Response
from tests.deployment import NAME, Answer, Deployment, User

CREATE = "/_matrix/media/v1/create"
UPLOAD = "/_matrix/media/v3/upload"
MEDIA = "/_matrix/client/v1/media"
KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Got:
    """An answer with its bytes and headers; ``pieces`` is in how many parts they came."""

    status: int
    body: bytes
    headers: dict[str, str]
    content_type: str
    pieces: int

    @property
    def errcode(self) -> str | None:
        """The Matrix errcode of an error."""
        return orjson.loads(self.body).get("errcode") if self.content_type == "application/json" else None


async def collected(response: Response) -> Got:
    """Read an answer to its end."""
    body = response.body
    if isinstance(body, bytes):
        pieces = [body]
    elif isinstance(body, AsyncIterator):
        pieces = [piece async for piece in body]
    else:
        pieces = list(body)
    whole = b"".join(pieces)
    assert response.length in (None, len(whole))
    return Got(response.status, whole, dict(response.headers), response.content_type, len(pieces))


async def get(user: User, path: str, **headers: str) -> Got:
    """Make a GET; ``headers`` with underscores for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named["Authorization"] = f"Bearer {user.token}"
    return await collected(await user.deployment.site.call("GET", path, headers=named))


async def send(
    user: User,
    body: bytes,
    content_type: str | None = "application/octet-stream",
    *,
    path: str = UPLOAD,
    verb: str = "",
) -> Answer:
    """Upload: POST to the repository, PUT to a path that is named."""
    headers = {"Authorization": f"Bearer {user.token}"}
    if content_type is not None:
        headers["Content-Type"] = content_type
    verb = verb or ("POST" if path.startswith(UPLOAD) and "/" not in path[len(UPLOAD) :] else "PUT")
    response = await user.deployment.site.call(verb, path, headers=headers, body=body)
    assert isinstance(response.body, bytes)
    return Answer(response.status, orjson.loads(response.body))


async def uploaded(user: User, body: bytes, content_type: str = "application/octet-stream", filename: str = "") -> str:
    """Upload and return the media id."""
    path = f"{UPLOAD}?filename={filename}" if filename else UPLOAD
    answer = await send(user, body, content_type, path=path, verb="POST")
    assert answer.status == 200, answer
    return media_id_of(answer)


def media_id_of(answer: Answer) -> str:
    """The media id in an answer with a content URI."""
    start = f"mxc://{NAME}/"
    assert answer.json["content_uri"].startswith(start)
    return str(answer.json["content_uri"].removeprefix(start))


def download_path(media_id: str, server_name: str = NAME) -> str:
    """Where a medium is downloaded."""
    return f"{MEDIA}/download/{server_name}/{media_id}"


def thumbnail_path(media_id: str, **query: Any) -> str:
    """Where a thumbnail is to be had."""
    return f"{MEDIA}/thumbnail/{NAME}/{media_id}?" + "&".join(f"{name}={value}" for name, value in query.items())


def arriving(user: User, method: str, path: str, declared: int | None = None) -> tuple[Request, Incoming]:
    """A request whose body is still to come, and where to feed it."""
    site = user.deployment.site
    incoming = Incoming(2**62, declared)
    request = Request(method, path, {b"authorization": b"Bearer " + user.token.encode()}, "", incoming)
    route, request.args = site.table.match(method, request.path)
    request.template = route.path
    return request, incoming


async def answered(deployment: Deployment, request: Request) -> Got:
    """The answer to such a request."""
    route, _ = deployment.site.table.match(request.method, request.path)
    return await collected(await deployment.site.answer(request, route))


async def until(condition: Callable[[], bool]) -> None:
    """Let everything run until something has happened that a thread or another task does."""
    while not condition():  # noqa: ASYNC110 - there is nothing to wait for; the test's own limit ends it
        await asyncio.sleep(0)


def files_in(deployment: Deployment, node: str) -> list[Path]:
    """Every file in a node's media folder."""
    return sorted(path for path in deployment.node(node).media.rglob("*") if path.is_file())


def picture(width: int, height: int, form: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    """A picture whose left half is red and whose right half is blue."""
    image = Image.new(mode, (width, height), "red")
    image.paste(Image.new(mode, (width - width // 2, height), "blue"), (width // 2, 0))
    output = BytesIO()
    image.save(output, form, **options)
    return output.getvalue()


def opened(content: bytes) -> Image.Image:
    """A picture that was received."""
    return Image.open(BytesIO(content))
