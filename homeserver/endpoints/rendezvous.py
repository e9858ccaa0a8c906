"""The rendezvous of two devices that sign each other in by a QR code, in both forms that clients speak.

Neither is specified yet: they are drafts of 2024 (MSC4108) and of 2026 (MSC4388).
"""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from homeserver.accounts import rendezvous
from homeserver.accounts.rendezvous import LARGEST
from homeserver.protocol.errors import Forbidden, MissingParam
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.messages import Response, json_response
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.accounts.rendezvous import Slot
    from homeserver.context import Server
    from homeserver.web.messages import Request

TEXT: Final = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous"
JSON: Final = "/_matrix/client/unstable/io.element.msc4388/rendezvous"
MOST_BYTES: Final = 8 * LARGEST
"""Of a request; JSON may write a byte as several."""


# -- as text (2024)


def _headers(slot: Slot) -> tuple[tuple[str, str], ...]:
    return (
        ("ETag", f'"{slot.version}"'),
        ("Expires", formatdate(slot.ends_ts / 1000, usegmt=True)),
        ("Last-Modified", formatdate(slot.written_ts / 1000, usegmt=True)),
        ("Cache-Control", "no-store"),
        ("Pragma", "no-cache"),
        ("Access-Control-Expose-Headers", "ETag, Expires, Last-Modified"),
        ("X-Content-Type-Options", "nosniff"),
    )


@route("POST", TEXT, auth=Auth.NONE, limit=Limit.LOGIN, body=MOST_BYTES)
async def create_text(server: Server, request: Request) -> Response:
    """A new slot."""
    _check_text(request)
    slot = rendezvous.create(server, request.body)
    return json_response({"url": f"{server.settings.base_url}{TEXT}/{slot.name}"}, 201, _headers(slot))


def _check_text(request: Request) -> None:
    kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
    if kind != "text/plain":
        raise MissingParam("The Content-Type must be text/plain")


@route("GET", TEXT + "/{rendezvousId}", auth=Auth.NONE)
async def read_text(server: Server, request: Request) -> Response:
    """What is in the slot, unless the client has it already."""
    slot = rendezvous.find(server, request.args["rendezvousId"])
    if request.header("if-none-match") == f'"{slot.version}"':
        return Response(304, b"", _headers(slot), content_type="text/plain")
    return Response(200, slot.text, _headers(slot), content_type="text/plain")


@route("PUT", TEXT + "/{rendezvousId}", auth=Auth.NONE, body=MOST_BYTES)
async def write_text(server: Server, request: Request) -> Response:
    """Put another text into the slot."""
    _check_text(request)
    version = request.header("if-match")
    if version is None:
        raise MissingParam("The header If-Match is missing")
    slot, written = rendezvous.write(server, request.args["rendezvousId"], request.body, version.strip('"'))
    if not written:
        error = {"errcode": "M_UNKNOWN", "org.matrix.msc4108.errcode": "M_CONCURRENT_WRITE"}
        return json_response({**error, "error": "The text is another one by now"}, 412, _headers(slot))
    return Response(202, b"", _headers(slot), content_type="text/plain")


@route("DELETE", TEXT + "/{rendezvousId}", auth=Auth.NONE)
async def delete_text(server: Server, request: Request) -> Response:
    """Remove the slot."""
    rendezvous.delete(server, request.args["rendezvousId"])
    return Response(204)


# -- as JSON (2026)


def _refuse_navigation(request: Request) -> None:
    """Raise Forbidden for a browser that shows the answer to somebody: nobody is to be led to what others have left."""
    if request.header("sec-fetch-dest") in ("document", "iframe", "frame", "object", "embed") or (
        request.header("sec-fetch-mode") == "navigate"
    ):
        raise Forbidden("This is for programs")


def _data(request: Request) -> bytes:
    return reading.text(request.json(), "data", required=True).encode()


@route("GET", JSON, auth=Auth.OPTIONAL)
async def may_create(server: Server, request: Request) -> dict[str, Any]:
    """Whether this client may make a slot."""
    _refuse_navigation(request)
    return {"create_available": True}


@route("POST", JSON, auth=Auth.OPTIONAL, limit=Limit.LOGIN, body=MOST_BYTES)
async def create(server: Server, request: Request) -> dict[str, Any]:
    """A new slot."""
    _refuse_navigation(request)
    slot = rendezvous.create(server, _data(request))
    return {"id": slot.name, **_state(server, slot)}


def _state(server: Server, slot: Slot) -> dict[str, Any]:
    return {"sequence_token": slot.version, "expires_in_ms": max(0, slot.ends_ts - server.clock.now_ms())}


@route("GET", JSON + "/{rendezvousId}", auth=Auth.NONE)
async def read(server: Server, request: Request) -> dict[str, Any]:
    """What is in the slot."""
    _refuse_navigation(request)
    slot = rendezvous.find(server, request.args["rendezvousId"])
    return {"data": slot.text.decode(errors="replace"), **_state(server, slot)}


@route("PUT", JSON + "/{rendezvousId}", auth=Auth.NONE, body=MOST_BYTES)
async def write(server: Server, request: Request) -> Response | dict[str, Any]:
    """Put another text into the slot."""
    _refuse_navigation(request)
    text, body = _data(request), request.json()
    version = reading.text(body, "sequence_token", required=True)
    slot, written = rendezvous.write(server, request.args["rendezvousId"], text, version)
    if not written and slot.text != text:
        code = "IO_ELEMENT_MSC4388_CONCURRENT_WRITE"
        return json_response({"errcode": code, "error": "The text is another one by now"}, 409)
    return {"sequence_token": slot.version}


@route("DELETE", JSON + "/{rendezvousId}", auth=Auth.NONE)
async def delete(server: Server, request: Request) -> dict[str, Any]:
    """Remove the slot."""
    _refuse_navigation(request)
    rendezvous.delete(server, request.args["rendezvousId"])
    return {}
