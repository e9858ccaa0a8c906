"""Tokens by which a user proves to a third party who they are: good for being asked back about, and for nothing else.

Nothing of them is stored: a token says whose it is and until when, under a keyed hash that only this deployment makes.

spec: client-server-api/#openid
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from hmac import compare_digest
from typing import TYPE_CHECKING, Final

from homeserver.protocol.errors import UnknownToken
from homeserver.protocol.identifiers import is_user_id
from homeserver.protocol.signing import encode_base64_url
from homeserver.storage import accounts as stored

if TYPE_CHECKING:
    from homeserver.context import Caller, Server

LIFETIME: Final = 3600
"""Seconds that a token is good for."""

_FORM: Final = re.compile(r"domo_([A-Za-z0-9_-]{1,400})_([0-9]{1,12})_([0-9a-f]{32})")


def issue(server: Server, caller: Caller) -> str:
    """A token of the caller that is good for `LIFETIME` seconds."""
    until = server.clock.now_ms() // 1000 + LIFETIME
    named = encode_base64_url(caller.user_id.encode())
    return f"domo_{named}_{until}_{_mark(server, caller.user_id, until)}"


async def owner(server: Server, token: str) -> str:
    """The user id of whose token it is. Raises UnknownToken for one that is none, is over, or whose owner's account is
    locked or gone, and NodeUnavailable.

    spec: server-server-api/#get_matrixfederationv1openiduserinfo
    """
    unknown = UnknownToken("Access token unknown or expired")
    form = _FORM.fullmatch(token)
    if form is None:
        raise unknown
    named, until = form[1], int(form[2])
    try:
        user_id = urlsafe_b64decode(named + "=" * (-len(named) % 4)).decode()
    except ValueError:
        raise unknown from None
    if not compare_digest(form[3], _mark(server, user_id, until)) or until * 1000 <= server.clock.now_ms():
        raise unknown
    node = await server.whose(user_id) if is_user_id(user_id) else None
    account = None if node is None else await node.read(stored.find, user_id)
    if account is None or account.locked or account.deactivated_ts is not None:
        raise unknown
    return user_id


def _mark(server: Server, user_id: str, until: int) -> str:
    return server.identity.tag("openid", user_id, str(until)).hex()
