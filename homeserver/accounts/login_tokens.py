"""Tokens by which a client that is logged in, or a browser that is signed in, lets another client log in: each for one
login, for a short time.

They are kept in memory, bounded in number; one that came from a device that has gone since is void.

spec: client-server-api/#post_matrixclientv1loginget_token
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from homeserver.accounts import sessions
from homeserver.accounts.tokens import digest
from homeserver.protocol.errors import Forbidden, UserLocked
from homeserver.runtime.passing import Passing
from homeserver.storage import accounts as stored
from homeserver.storage import devices as stored_devices

if TYPE_CHECKING:
    from homeserver.accounts.sessions import DeviceWish, Login
    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Transaction


class _Tokens(Passing[bytes, "Caller"]):
    """The tokens that were given out and not used, by digest: for whom each is, from which of their devices, unless its
    id is empty. One for the deployment.
    """


def make(server: Server, caller: Caller) -> tuple[str, int]:
    """A token for one login as the caller, and for how many milliseconds it holds.

    A caller without a device is somebody who is signed in in a browser.
    """
    lifetime = server.settings.sessions.login_token_lifetime
    token = secrets.token_urlsafe(32)
    given, now = server.nodes.directory.memory(_Tokens), server.clock.monotonic()
    given.put(digest(token), caller, now, lifetime.seconds)
    return token, lifetime.ms


async def log_in(server: Server, token: str, wish: DeviceWish) -> Login:
    """Open a session by a token, which is used up by the attempt.

    Raises Forbidden (there is no such token any more, too many devices), InvalidParam, UserLocked, NodeUnavailable.

    spec: client-server-api/#post_matrixclientv3login
    """
    wish.check()
    giver = server.nodes.directory.memory(_Tokens).pop(digest(token), server.clock.monotonic())
    if giver is None:
        raise Forbidden("Invalid login token")
    return await giver.node.write(_log_in, server, giver, wish)


async def _log_in(tx: Transaction, server: Server, giver: Caller, wish: DeviceWish) -> Login:
    account = await stored.find(tx, giver.user_id)
    gone = giver.device_id and await stored_devices.find(tx, giver.user_nid, giver.device_id) is None
    if account is None or account.deactivated_ts is not None or gone:
        raise Forbidden("Invalid login token")
    if account.locked:
        raise UserLocked
    return await sessions.open_session(tx, server, giver.user_id, giver.user_nid, wish)
