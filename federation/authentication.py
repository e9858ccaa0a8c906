"""Which server speaks: what makes a request believed to be of its origin.

A key of the origin that is valid now signed its method, target, destination and content. Every other request is a 401.

spec: server-server-api/#request-authentication
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from federation import reach, server_keys, x_matrix
from homeserver.protocol.errors import BadJson, Unauthorized
from homeserver.protocol.signing import decode_base64
from homeserver.residency.listing import pulling

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


async def verify(server: Server, request: Request) -> str:
    """The server that signed a request. The body is read when that server is known to have the key, and not before.

    Raises Unauthorized, NotJson and BadJson for a body that is none, NodeUnavailable.
    """
    header = request.header("Authorization")
    if header is None:
        raise Unauthorized("The request is not signed")
    claim = x_matrix.read(header)
    if claim.destination is not None and claim.destination != server.name:
        raise Unauthorized("The request is meant for another server")
    if claim.origin == server.name:
        raise Unauthorized("The request claims to come from this server itself")
    keys = await server_keys.verify_keys(server, claim.origin, [claim.key_id], server.clock.now_ms(), request.address)
    if claim.key_id not in keys:
        raise Unauthorized(f"There is no such key of {claim.origin} that is valid now, or it could not be asked for")
    content = request.json(exact=True) if await request.read() else None
    try:
        message = x_matrix.signed(request.method, request.target, claim.origin, claim.destination, content)
        signature = decode_base64(claim.signature)
    except BadJson as error:
        raise Unauthorized(f"The request cannot have been signed: {error.message}") from None
    if not keys[claim.key_id].verifies(message, signature):
        raise Unauthorized("The signature is not of this request")
    reach.heard_from(server, claim.origin)
    await pulling.appears(server, claim.origin)
    return claim.origin
