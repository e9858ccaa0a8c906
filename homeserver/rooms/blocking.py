"""Users who want no invitations: whoever invites them is refused, and what reaches them nevertheless is not shown.

spec: client-server-api/#invite-permission
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from homeserver.protocol.errors import InviteBlocked, NodeUnavailable
from homeserver.storage import account_data, users

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction

CONFIG: Final = "m.invite_permission_config"


async def check(server: Server, user_id: str) -> None:
    """Raise InviteBlocked when a local user wants no invitations. While their node is down nobody can say."""
    home = await server.nodes.of_user(user_id)
    if home is None:
        return
    try:
        blocked = await home.read(_blocks, user_id)
    except NodeUnavailable:
        return
    if blocked:
        raise InviteBlocked(f"{user_id} takes no invitations")


async def _blocks(tx: Transaction, user_id: str) -> bool:
    user_nid = await users.resident(tx, user_id)
    return user_nid is not None and await blocks(tx, user_nid)


async def blocks(tx: Transaction, user_nid: int) -> bool:
    """Whether a resident wants no invitations."""
    content = await account_data.find(tx, user_nid, account_data.GLOBAL, CONFIG)
    return content is not None and orjson.loads(content).get("default_action") == "block"
