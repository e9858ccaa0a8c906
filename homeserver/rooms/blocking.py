"""Users who do not take invitations of everybody: whom they block is refused, and what reaches them nevertheless is not
shown.

spec: client-server-api/#invite-permission
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from homeserver.protocol.errors import InviteBlocked, NodeUnavailable
from homeserver.protocol.invite_permissions import TYPES, Action, Permissions, read, strictest
from homeserver.storage import account_data, users

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction


async def check(server: Server, user_id: str, sender: str) -> None:
    """Raise InviteBlocked when a local user wants no invitation of ``sender``, as far as their node is up to say so."""
    home = await server.nodes.of_user(user_id)
    if home is None:
        return
    try:
        said = await home.read(_of_id, user_id)
    except NodeUnavailable:
        return
    if strictest(said, sender) is Action.BLOCK:
        raise InviteBlocked(f"{user_id} takes no invitations of you")


async def _of_id(tx: Transaction, user_id: str) -> list[Permissions]:
    user_nid = await users.resident(tx, user_id)
    return [] if user_nid is None else await permissions(tx, user_nid)


async def permissions(tx: Transaction, user_nid: int) -> list[Permissions]:
    """What a resident says about who may invite them; empty for everybody who has said nothing. One trip."""
    return [read(orjson.loads(content)) for content in (await account_data.of_types(tx, user_nid, TYPES)).values()]


def hides(said: list[Permissions], sender: str) -> bool:
    """Whether an invitation of a user is not shown."""
    return strictest(said, sender) is not Action.ALLOW
