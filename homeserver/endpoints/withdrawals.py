"""What anybody may know of the jurisdictions that this deployment leaves, and what users may take away with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from homeserver.endpoints import browsing
from homeserver.endpoints.residency_pages import EXPORT
from homeserver.residency import exporting, leaving
from homeserver.residency.changes import history
from homeserver.web.limits import Limit
from homeserver.web.messages import Response
from homeserver.web.routes import Auth, Resource, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route("GET", "/_domicile/v1/residency/withdrawals", auth=Auth.NONE, limit=Limit.REQUEST, resource=Resource.CLIENT)
async def residency_withdrawals(server: Server, request: Request) -> dict[str, Any]:
    """The jurisdictions that are being left, since when and until when, and receipts of those that were."""
    return {"server_name": server.name, **history.key_of(server), "withdrawals": await leaving.public(server)}


@route("GET", "/_domicile/v1/residency/export", auth=Auth.USER, limit=Limit.DIRECTORY, resource=Resource.CLIENT)
async def residency_export(server: Server, request: Request) -> dict[str, Any]:
    """All that is the caller's on their node."""
    return await exporting.of_user(server, request.caller)


@browsing.page("GET", EXPORT, limit=Limit.DIRECTORY)
async def export_page(server: Server, request: Request) -> Response:
    """The same, as a file for the browser in which somebody is signed in."""
    browser = await browsing.browser_of(server, request)
    if browser.visitor is None:
        return browsing.to_login(server, EXPORT)
    found = await exporting.of_user(server, browser.visitor.caller)
    headers = [("Content-Disposition", 'attachment; filename="export.json"'), ("Cache-Control", "no-store")]
    return Response(200, orjson.dumps(found, option=orjson.OPT_INDENT_2), headers)
