"""Logging in, staying logged in and logging out; and who is calling.

An access token that is in use is answered from memory. The memory of a user is dropped whenever a transaction that
ends or changes one of their sessions has committed, and what was read before that is not remembered after it.

spec: client-server-api/#legacy-api
"""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import orjson

from config.forms import HOUR
from homeserver.accounts import failures, passwords, recipients, tokens
from homeserver.application_services import masquerade
from homeserver.context import Caller
from homeserver.protocol.errors import Exclusive, Forbidden, InvalidParam, MissingToken, UnknownToken, UserLocked
from homeserver.protocol.identifiers import is_device_id, is_user_id, localpart_of, user_id
from homeserver.runtime.lru import Lru
from homeserver.storage import accounts as stored_accounts
from homeserver.storage import dehydrated_devices
from homeserver.storage import devices as stored_devices
from homeserver.storage import oauth_grants as stored_grants
from homeserver.storage import tokens as stored_tokens
from homeserver.storage.directory import Kind
from homeserver.storage.nodes import Mirror

if TYPE_CHECKING:
    from config.application_services import ApplicationService
    from config.kinds import Duration
    from homeserver.context import Server
    from homeserver.storage.accounts import Account
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

REMEMBERED_BYTES = 32 * 1024 * 1024
"""Memory that the sessions of a node may take, as it is estimated."""
USER_BYTES = 500
SESSION_BYTES = 700
TOKENS_OF_A_USER = 100
"""How many are remembered; a user with more of them is asked for again."""

KEPT_EXPIRED_MS = 24 * 3600 * 1000
"""How long an expired access token is kept, so that its client is told to refresh and not that it is logged out."""

MAX_NAME = 256
"""Characters of a device's display name."""


class _Known(NamedTuple):
    """An access token as it is remembered."""

    caller: Caller
    expires_ts: int | None
    locked: bool


class Remembered(Mirror):
    """The sessions of a node's users in memory, by directory hash of the user and digest of the token.

    ``generation`` counts what was forgotten, so that nothing read before that is remembered after it.
    """

    def __init__(self) -> None:
        self._users: Lru[bytes, dict[bytes, _Known]] = Lru(
            REMEMBERED_BYTES, lambda tokens: USER_BYTES + SESSION_BYTES * len(tokens), "sessions"
        )
        self.generation = 0

    def find(self, token: tokens.Read) -> _Known | None:
        """What is known about a token."""
        of_user = self._users.get(token.owner)
        return None if of_user is None else of_user.get(token.digest)

    def remember(self, token: tokens.Read, known: _Known, generation: int) -> None:
        """Keep what was read while the generation was ``generation``."""
        if generation != self.generation:
            return
        of_user = self._users.get(token.owner)
        if of_user is None or len(of_user) >= TOKENS_OF_A_USER:
            of_user = {}
        of_user[token.digest] = known
        self._users[token.owner] = of_user  # weighed anew

    def forget(self, owner: bytes) -> None:
        """Forget a user's sessions: one of them has ended or changed."""
        self.generation += 1
        self._users.pop(owner)

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.generation += 1
        self._users.clear()


def owner_hash(server: Server, localpart: str) -> bytes:
    """The directory's hash of a user: how tokens and memories name them."""
    return server.nodes.directory.hash(Kind.USER, localpart)


def forget(server: Server, node: Node, whose: str) -> None:
    """Drop a user's sessions and devices from memory; to be called after the commit that changed them."""
    node.memory(Remembered).forget(owner_hash(server, localpart_of(whose)))
    node.memory(masquerade.Masks).forget(whose)
    recipients.forget(node, whose)


# -- who is calling


async def authenticate(server: Server, token: str, *, even_locked: bool = False) -> Caller:
    """Who has this access token. No trip to a database while the token is in memory.

    Raises UnknownToken (``soft_logout`` when it merely expired), UserLocked unless ``even_locked``, NodeUnavailable.

    spec: client-server-api/#using-access-tokens
    """
    read = tokens.read(tokens.ACCESS, token)
    known = await _known(server, read)
    if known.expires_ts is not None and known.expires_ts <= server.clock.now_ms():
        raise UnknownToken("The access token has expired", soft_logout=True)
    if known.locked and not even_locked:
        raise UserLocked("This account has been locked", soft_logout=True)
    return known.caller


async def _known(server: Server, read: tokens.Read) -> _Known:
    """What an access token stands for, wherever its owner is by now. Raises UnknownToken."""
    while True:
        node = await _node_of(server, read)
        try:
            return node.memory(Remembered).find(read) or await _load(server, node, read)
        except UnknownToken:
            if await _node_of(server, read) is node:
                raise


class Parameters(Protocol):
    """The parameters of a request's address."""

    def get(self, name: str) -> str | None:
        """The first value of one."""


class Asking(Protocol):
    """A request, as far as it says as whom an application service acts."""

    @property
    def query(self) -> Parameters:
        """Its parameters."""


async def identify(server: Server, token: str, request: Asking) -> Caller:
    """Who calls: the owner of an access token, or the user as whom the application service acts whose token it is.

    Raises what `authenticate` and `masquerade.caller` raise.

    spec: application-service-api/#identity-assertion
    """
    service = server.services.of_token(token) if server.services else None
    if service is None:
        return await authenticate(server, token)
    named = request.query.get
    device_id = named("device_id") or named("org.matrix.msc3202.device_id")
    return await masquerade.caller(server, service, named("user_id") or None, device_id or None)


def is_unlimited(server: Server, token: str | None) -> bool:
    """Whether no rate limit holds for what an application service does before it says as whom."""
    if token is None or not server.services:
        return False
    service = server.services.of_token(token)
    return service is not None and not service.rate_limited


def service_of(server: Server, token: str | None) -> ApplicationService:
    """The application service that registers a user, or logs one in. Raises MissingToken, UnknownToken.

    spec: application-service-api/#server-admin-style-permissions
    """
    if token is None:
        raise MissingToken("The token of an application service is needed")
    service = server.services.of_token(token)
    if service is None:
        raise UnknownToken("That is not the token of an application service")
    return service


async def _node_of(server: Server, token: tokens.Read) -> Node:
    name = await server.nodes.directory.find_hash(Kind.USER, token.owner)
    if not name:
        raise UnknownToken("Unrecognised access token")
    return server.nodes[name]


async def _load(server: Server, node: Node, token: tokens.Read) -> _Known:
    memory = node.memory(Remembered)
    generation = memory.generation
    session = await node.read(stored_tokens.find_access, token.digest)
    if session is None:
        raise UnknownToken("Unrecognised access token")
    known = _Known(
        Caller(
            user_id=session.user_id,
            localpart=localpart_of(session.user_id),
            node=node,
            user_nid=session.user_nid,
            device_id=session.device_id,
            device_nid=session.device_nid,
            admin=session.admin,
            guest=session.guest,
            suspended=session.suspended,
            oauth=session.oauth,
            epoch=session.epoch,
            came_pos=session.came_pos,
        ),
        session.expires_ts,
        session.locked,
    )
    in_time = session.expires_ts is None or session.expires_ts > server.clock.now_ms()
    if in_time and session.refresh_hash is not None:
        await node.write(_revoke_used, session.refresh_hash)
    if in_time:
        memory.remember(token, known, generation)
    return known


async def _revoke_used(tx: Transaction, refresh_hash: bytes) -> None:
    stored_tokens.revoke_used(tx, refresh_hash)


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


async def verify(server: Server, whose: str, password: str) -> tuple[Node, Account] | None:
    """The account of a local user and its node, if this is the password; None after the same time if anything is not.

    A hash of an outdated cost is replaced. Raises LimitExceeded after too many wrong passwords, NodeUnavailable.
    """
    failures.check(server, whose)
    node = await server.nodes.of_user(whose)
    account = None if node is None else await node.read(stored_accounts.find, whose)
    stored = None if account is None else account.password_hash
    if not await passwords.matches(server, password, stored):
        failures.count(server, whose)
        return None
    assert node is not None
    assert account is not None
    assert stored is not None
    if passwords.is_outdated(server, stored):
        renewed = await passwords.hashed(server, password)
        await node.write(stored_accounts.renew_password, account.user_nid, stored, renewed)
    return node, account


async def has_password(caller: Caller) -> bool:
    """Whether the caller can prove by a password to be who they are."""
    account = await caller.node.read(stored_accounts.find, caller.user_id)
    return account is not None and account.password_hash is not None


async def log_in(server: Server, user: str, password: str, wish: DeviceWish) -> Login:
    """Open a session by password. ``user`` is a localpart or a full user id.

    Raises Forbidden (wrong user or password, or the device id is a cross-signing key), InvalidParam, UserLocked.

    spec: client-server-api/#post_matrixclientv3login
    """
    wish.check()
    verified = await verify(server, full_user_id(server, user), password)
    if verified is None:
        raise Forbidden("Invalid username or password")
    node, account = verified
    if account.locked:
        raise UserLocked("This account has been locked", soft_logout=True)
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
    owner = owner_hash(server, localpart_of(whose))
    access, access_digest = tokens.make(tokens.ACCESS, owner)
    lifetime = _access_lifetime(server, oauth=oauth is not None) if wish.refresh else None
    expires = None if lifetime is None else now + lifetime.ms
    stored_tokens.put_access(tx, access_digest, user_nid, device_nid, expires)
    lineage = None
    if oauth is not None:
        lineage = tokens.begin_lineage()
        stored_grants.put_session(tx, device_nid, user_nid, oauth.client_id, oauth.scope, lineage.digest, 0)
    refresh = _put_refresh(tx, server, owner, user_nid, device_nid, lineage)[0] if wish.refresh else None
    tx.after_commit(lambda: forget(server, server.nodes[tx.node], whose))
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
    UnknownToken (``soft_logout``
    when it expired), UserLocked.

    spec: client-server-api/#refreshing-access-tokens
    """
    read = tokens.read(tokens.REFRESH, token)
    while True:
        node = await _node_of(server, read)
        try:
            return await node.write(_refresh, server, read, tokens.lineage_of(token), client_id)
        except UnknownToken:
            if await _node_of(server, read) is node:  # else they moved meanwhile
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
        raise UserLocked("This account has been locked", soft_logout=True)
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
    tx.after_commit(lambda: server.nodes[tx.node].memory(Remembered).forget(read.owner))
    return Refreshed(access, next_token, None if lifetime is None else lifetime.ms, found.scope)
