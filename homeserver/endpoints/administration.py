"""The admin API under ``/_domicile/v1``: a route for each command that is declared with a door.

Who may is asked before anything of a request but its address is looked at.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from homeserver.control import administering
from homeserver.control.declarations import arguments_of_request, path_arguments
from homeserver.control.declared import DECLARED
from homeserver.control.describing import PREFIX, document
from homeserver.protocol.errors import InvalidParam
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

SMALL: Final = 64 * 1024
"""Bytes of the body of what takes no policy."""
LARGE: Final = 1024 * 1024
"""Bytes of the body of what takes one: reading it, others have to wait. The command line takes longer ones."""

_COMMANDS: Final = {
    (declared.door[0], PREFIX + declared.door[1]): command
    for command, declared in DECLARED.items()
    if declared.door is not None
}


async def administer(server: Server, request: Request) -> dict[str, Any]:
    """Do what a user with a role asks. Raises what `administering.admit` and the command raise."""
    method = "GET" if request.method == "HEAD" else request.method
    command = _COMMANDS[method, request.template]
    declared = DECLARED[command]
    named = path_arguments(declared, request.args)
    await administering.admit(server, request.caller, command, named)
    query = request.query.pairs()
    if method in ("POST", "PUT"):
        if query:
            raise InvalidParam("Parameters are given in the body here, and not in the address")
        arguments = arguments_of_request(declared, request.args, (), request.json(required=False))
    else:
        arguments = arguments_of_request(declared, request.args, query, {})
    return await administering.perform(server, request.caller, command, arguments)


for (_method, _path), _command in _COMMANDS.items():
    route(
        _method,
        _path,
        auth=Auth.GUEST,  # and no guest is admitted: their attempt is written down
        limit=Limit.ADMINISTRATION,
        body=LARGE if DECLARED[_command].large else SMALL,
    )(administer)


@route("GET", "/_domicile/openapi.json", auth=Auth.NONE)
async def openapi(server: Server, request: Request) -> dict[str, Any]:
    """What can be asked here, in the form of OpenAPI 3.1."""
    return document(server.name, server.settings.base_url, version("domicile"))
