"""Opening a session for a device, by a password or for an application service, and refreshing its tokens.

A commit that opens or changes a session makes `callers` forget the user.

spec: client-server-api/#legacy-api
"""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from config.forms import HOUR
from homeserver.accounts import callers, passwords, tokens
from homeserver.application_services import masquerade
from homeserver.protocol.errors import Exclusive, Forbidden, InvalidParam, UnknownToken, UserLocked
from homeserver.protocol.identifiers import is_device_id, is_user_id, localpart_of, user_id
from homeserver.storage import accounts as stored_accounts
from homeserver.storage import dehydrated_devices
from homeserver.storage import devices as stored_devices
from homeserver.storage import oauth_grants as stored_grants
from homeserver.storage import tokens as stored_tokens

if TYPE_CHECKING:
    from config.application_services import ApplicationService
    from config.kinds import Duration
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction


KEPT_EXPIRED_MS = 24 * 3600 * 1000
"""How long an expired access token is kept, so that its client is told to refresh and not that it is logged out."""

MAX_NAME = 256
"""Characters of a device's display name."""


# -- logging in


@dataclass(frozen=True, slots=True)
class DeviceWish:
    """Which device a client wants to log in. ``refresh``: it can use refresh tokens."""

    device_id: str | None = None
    display_name: str | None = None
    refresh: bool = False

    def check(self) -> None:
        """Raise InvalidParam for what cannot be the id or the name of a device."""
        if self.device_id is not None and not is_device_id(self.device_id):
            raise InvalidParam("That cannot be the ID of a device")
        check_name(self.display_name)


def check_name(display_name: str | None) -> None:
    """Raise InvalidParam for what cannot be the name of a device."""
    if display_name is not None and len(display_name) > MAX_NAME:
        raise InvalidParam(f"The name of a device has at most {MAX_NAME} characters")


@dataclass(frozen=True, slots=True)
class Login:
    """A session that has been opened; the only time that its tokens are known."""

    user_id: str
    device_id: str
    access_token: str
    refresh_token: str | None = None
    expires_in_ms: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The answer of login and registration. spec: client-server-api/#post_matrixclientv3login"""
        shown: dict[str, Any] = {
            "user_id": self.user_id,
            "access_token": self.access_token,
            "device_id": self.device_id,
        }
        return {**shown, **_refreshable(self.refresh_token, self.expires_in_ms)}


@dataclass(frozen=True, slots=True)
class Refreshed:
    """New tokens for an old refresh token. ``scope`` is that of an OAuth session."""

    access_token: str
    refresh_token: str
    expires_in_ms: int | None
    scope: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The answer of a refresh. spec: client-server-api/#post_matrixclientv3refresh"""
        return {"access_token": self.access_token, **_refreshable(self.refresh_token, self.expires_in_ms)}


def _refreshable(refresh_token: str | None, expires_in_ms: int | None) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if refresh_token is not None:
        shown["refresh_token"] = refresh_token
    if expires_in_ms is not None:
        shown["expires_in_ms"] = expires_in_ms
    return shown


def full_user_id(server: Server, user: str) -> str:
    """The user id that a ``m.id.user`` identifier means: a localpart or a full id, in whatever case.

    spec: client-server-api/#matrix-user-id
    """
    if user.startswith("@"):
        return user if is_user_id(user) else user.lower()
    return user_id(user.lower(), server.name)


async def log_in(server: Server, user: str, password: str, wish: DeviceWish) -> Login:
    """Open a session by password. ``user`` is a localpart or a full user id.

    Raises Forbidden (wrong user or password, or the device id is a cross-signing key), InvalidParam, UserLocked.

    spec: client-server-api/#post_matrixclientv3login
    """
    wish.check()
    verified = await passwords.verify(server, full_user_id(server, user), password)
    if verified is None:
        raise Forbidden("Invalid username or password")
    node, account = verified
    if account.locked:
        raise UserLocked
    return await node.write(open_session, server, account.user_id, account.user_nid, wish)


async def log_in_for_service(server: Server, service: ApplicationService, user: str, wish: DeviceWish) -> Login:
    """Open a session for a user of an application service. ``user`` is a localpart or a full user id.

    Raises Exclusive for a user who is not the service's, Forbidden for one who was not registered, InvalidParam,
    UserLocked, FlowDenied when what rests with the user may not go to where the service runs.

    spec: application-service-api/#server-admin-style-permissions
    """
    wish.check()
    whose = full_user_id(server, user)
    if not service.has_user(whose):
        raise Exclusive("That user ID is not in the namespace of this application service")
    acting = await masquerade.caller(server, service, whose)
    return await acting.node.write(open_session, server, whose, acting.user_nid, wish)


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """By which client, and for which scope, a device is signed in by OAuth."""

    client_id: str
    scope: str


async def open_session(
    tx: Transaction, server: Server, whose: str, user_nid: int, wish: DeviceWish, oauth: OAuthClient | None = None
) -> Login:
    """Give a device, new or known, an access token; what tokens it had are void.

    Raises Forbidden when the device id is that of a cross-signing key, or there are too many devices.

    spec: client-server-api/#relationship-between-access-tokens-and-devices
    """
    device_id = wish.device_id or new_device_id()
    now = server.clock.now_ms()
    device_nid, is_new = await ensure_device(
        tx, server, user_nid, device_id, wish.display_name, chosen=wish.device_id is not None
    )
    if not is_new:
        stored_tokens.drop_device(tx, device_nid)
        stored_grants.drop_session(tx, device_nid)
    owner = callers.owner_hash(server, localpart_of(whose))
    access, access_digest = tokens.make(tokens.ACCESS, owner)
    lifetime = _access_lifetime(server, oauth=oauth is not None) if wish.refresh else None
    expires = None if lifetime is None else now + lifetime.ms
    stored_tokens.put_access(tx, access_digest, user_nid, device_nid, expires)
    lineage = None
    if oauth is not None:
        lineage = tokens.begin_lineage()
        stored_grants.put_session(tx, device_nid, user_nid, oauth.client_id, oauth.scope, lineage.digest, 0)
    refresh = _put_refresh(tx, server, owner, user_nid, device_nid, lineage)[0] if wish.refresh else None
    tx.after_commit(lambda: callers.forget(server, server.nodes[tx.node], whose))
    return Login(whose, device_id, access, refresh, None if lifetime is None else lifetime.ms)


async def ensure_device(
    tx: Transaction, server: Server, user_nid: int, device_id: str, display_name: str | None, *, chosen: bool = True
) -> tuple[int, bool]:
    """The row id of a device, and whether it is new; ``display_name`` is for a new one only. ``chosen``: the client
    chose the id.

    Raises Forbidden when the device id is that of a cross-signing key or of a dehydrated device, or there are too many
    devices.
    """
    if chosen:
        _check_no_signing_key(device_id, await stored_accounts.signing_keys(tx, user_nid))
    found = await stored_devices.ensure(tx, user_nid, device_id, display_name, server.clock.now_ms())
    if not found[1] and await dehydrated_devices.is_one(tx, user_nid, found[0]):
        raise Forbidden("That device is dehydrated: nobody logs in on it")
    if found[1] and await stored_devices.count(tx, user_nid) > server.settings.limits.devices:
        raise Forbidden("This account has too many devices; log out from one of them first")
    return found


def _access_lifetime(server: Server, *, oauth: bool) -> Duration | None:
    """How long an access token lives whose client can refresh it; by OAuth it always has an end."""
    lifetime = server.settings.sessions.access_token_lifetime
    return HOUR if lifetime is None and oauth else lifetime


def _put_refresh(
    tx: Transaction, server: Server, owner: bytes, user_nid: int, device_nid: int, lineage: tokens.Lineage | None
) -> tuple[str, bytes]:
    lifetime = server.settings.sessions.refresh_token_lifetime
    expires = None if lifetime is None else server.clock.now_ms() + lifetime.ms
    token, token_digest = tokens.make(tokens.REFRESH, owner, lineage)
    stored_tokens.put_refresh(tx, token_digest, user_nid, device_nid, expires)
    return token, token_digest


def new_device_id() -> str:
    """A device id for a client that did not choose one."""
    return "".join(secrets.choice(string.ascii_uppercase) for _ in range(10))


def _check_no_signing_key(device_id: str, keys: list[bytes]) -> None:
    for key in keys:
        if f"ed25519:{device_id}" in orjson.loads(key).get("keys", {}):
            raise Forbidden("That device ID is the ID of a cross-signing key")


# -- refreshing


async def refresh(server: Server, token: str, client_id: str | None = None) -> Refreshed:
    """New tokens for a refresh token, which stays valid until one of the new ones is used.

    It must be of a session that the client ``client_id`` began by OAuth, or, without one, of a legacy login. Raises
    UnknownToken (``soft_logout`` when it expired), UserLocked.

    spec: client-server-api/#refreshing-access-tokens
    """
    read = tokens.read(tokens.REFRESH, token)
    while True:
        node = await callers.node_of(server, read)
        try:
            return await node.write(_refresh, server, read, tokens.lineage_of(token), client_id)
        except UnknownToken:
            if await callers.node_of(server, read) is node:  # else they moved meanwhile
                raise


async def _refresh(
    tx: Transaction, server: Server, read: tokens.Read, lineage: tokens.Lineage, client_id: str | None
) -> Refreshed:
    now = server.clock.now_ms()
    found = await stored_tokens.find_refresh(tx, read.digest)
    if found is None or found.client_id != client_id:
        raise UnknownToken("Unrecognised refresh token")
    if found.expires_ts is not None and found.expires_ts <= now:
        raise UnknownToken("The refresh token has expired", soft_logout=True)
    if found.locked:
        raise UserLocked
    for used in await stored_tokens.predecessors(tx, read.digest):
        stored_tokens.revoke_used(tx, used)
    stored_tokens.take_back(tx, read.digest)
    stored_tokens.drop_expired(tx, found.device_nid, now - KEPT_EXPIRED_MS)
    lifetime = _access_lifetime(server, oauth=found.client_id is not None)
    expires = None if lifetime is None else now + lifetime.ms
    access, access_digest = tokens.make(tokens.ACCESS, read.owner)
    stored_tokens.put_access(tx, access_digest, found.user_nid, found.device_nid, expires, read.digest)
    following = None if found.client_id is None else lineage.next()
    if following is not None:
        stored_grants.count_refresh(tx, found.device_nid, following.generation)
    next_token, next_digest = _put_refresh(tx, server, read.owner, found.user_nid, found.device_nid, following)
    stored_tokens.set_bought(tx, read.digest, next_digest)
    tx.after_commit(lambda: server.nodes[tx.node].memory(callers.Remembered).forget(read.owner))
    return Refreshed(access, next_token, None if lifetime is None else lifetime.ms, found.scope)
