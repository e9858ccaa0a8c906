"""The door of the command line, on the UNIX socket of the data directory only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.control import commands
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, Resource, route

LONGEST_POLICY = 8 * 1024 * 1024
"""Bytes of the text of a policy, which is the longest that a command is given."""

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "POST",
    "/_domicile/v1/control/{command}",
    auth=Auth.NONE,
    limit=Limit.NONE,
    resource=Resource.CONTROL,
    body=LONGEST_POLICY,
)
async def perform(server: Server, request: Request) -> dict[str, Any]:
    """Do what the command line asks."""
    return await commands.perform(server, request.args["command"], request.json())
