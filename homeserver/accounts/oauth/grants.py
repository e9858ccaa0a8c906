"""What a user allows a client, and what the client does with it: a code for tokens, new tokens for old ones, an end.

A code, like a token, says by the hash in it on which node to look. What is tried twice ends the session that came of
the first time, for one of the two who tried is not the client.

spec: client-server-api/#grant-types
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from homeserver.accounts import callers, devices, sessions, tokens
from homeserver.accounts.oauth import clients
from homeserver.accounts.sessions import DeviceWish, OAuthClient
from homeserver.protocol import oauth
from homeserver.protocol.errors import OAuthRefusal, Refusal, UnknownToken, UserLocked
from homeserver.protocol.identifiers import localpart_of
from homeserver.storage import accounts as stored_accounts
from homeserver.storage import devices as stored_devices
from homeserver.storage import oauth_grants as stored
from homeserver.storage import tokens as stored_tokens
from homeserver.storage.directory import Kind

if TYPE_CHECKING:
    from homeserver.accounts.oauth.browsers import Visitor
    from homeserver.accounts.oauth.clients import Client
    from homeserver.context import Server
    from homeserver.protocol.oauth import Scope
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.oauth_grants import Grant, Held

CODE_MS: Final = 60 * 1000
"""How long a code holds that a browser carries to its client."""


@dataclass(frozen=True, slots=True)
class Issued:
    """The tokens that a client is given; the only time that they are known."""

    access_token: str
    refresh_token: str
    expires_in_ms: int
    scope: str

    def as_json(self) -> dict[str, Any]:
        """The answer of the token endpoint. spec: client-server-api/#authorisation-code-flow"""
        return {
            "access_token": self.access_token,
            "token_type": "Bearer",
            "expires_in": self.expires_in_ms // 1000,
            "refresh_token": self.refresh_token,
            "scope": self.scope,
        }


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a user allows a client. The device authorization grant has neither ``redirect_uri`` nor ``challenge``."""

    client: Client
    scope: Scope
    redirect_uri: str | None = None
    challenge: str | None = None
    lifetime_ms: int = CODE_MS


async def allow(server: Server, visitor: Visitor, what: Allowed) -> str:
    """Note what a user allows; returns the code by which the client takes it up."""
    await clients.note_use(server, what.client["client_id"])
    code, digest = tokens.make(tokens.CODE, callers.owner_hash(server, localpart_of(visitor.user_id)))
    now = server.clock.now_ms()
    grant = stored.Grant(
        visitor.user_id,
        visitor.user_nid,
        what.client["client_id"],
        what.scope.device_id,
        what.scope.text,
        what.redirect_uri,
        what.challenge,
        now + what.lifetime_ms,
        None,
    )
    await visitor.node.write(_put, digest, grant, now)
    return code


async def _put(tx: Transaction, digest: bytes, grant: Grant, now: int) -> None:
    stored.put(tx, digest, grant, now)


async def existing_device(visitor: Visitor, device_id: str) -> bool:
    """Whether the visitor has a device of this id, whose session would end when it is signed in again."""
    return await visitor.node.read(stored_devices.find, visitor.user_nid, device_id) is not None


# -- codes


async def redeem(
    server: Server, client_id: str, code: str, *, redirect_uri: str | None = None, verifier: str | None = None
) -> Issued:
    """Give a client the tokens that a code is good for, once.

    Raises OAuthRefusal: a second attempt, which also ends the session that came of the first; another client or
    redirect URI than the code was for; a verifier that is not its challenge's; a code that has expired.

    spec: client-server-api/#authorisation-code-flow
    """
    client = await clients.find(server, client_id)
    try:
        read = tokens.read(tokens.CODE, code)
        node = await _node_of(server, read)
    except UnknownToken:
        raise _invalid() from None
    outcome = await node.write(_redeem, server, client, read.digest, redirect_uri, verifier)
    if isinstance(outcome, Issued):
        return outcome
    if outcome is not None:  # the second time
        await devices.remove(server, node, outcome.user_id, outcome.user_nid, [outcome.device_id])
    raise _invalid()


def _invalid() -> OAuthRefusal:
    return OAuthRefusal("invalid_grant", "That is not a code that holds")


async def _redeem(
    tx: Transaction, server: Server, client: Client, digest: bytes, redirect_uri: str | None, verifier: str | None
) -> Issued | Grant | None:
    """The tokens; or the grant that was taken up before; or None, and then the code holds no longer."""
    grant = await stored.find(tx, digest)
    if grant is None or grant.client_id != client["client_id"]:
        return None
    if grant.device_nid is not None:
        return grant
    account = await stored_accounts.find(tx, grant.user_id)
    proved = grant.challenge is None or (verifier is not None and oauth.proves(verifier, grant.challenge))
    in_time = grant.expires_ts > server.clock.now_ms()
    closed = account is None or account.locked or account.deactivated_ts is not None
    if not proved or not in_time or grant.redirect_uri != redirect_uri or closed:
        stored.drop(tx, digest)
        return None
    wish = DeviceWish(grant.device_id, _device_name(client), refresh=True)
    try:
        by = OAuthClient(grant.client_id, grant.scope)
        login = await sessions.open_session(tx, server, grant.user_id, grant.user_nid, wish, by)
    except Refusal as refusal:  # too many devices, or the id of a key
        raise OAuthRefusal("invalid_grant", refusal.message) from None
    device = await stored_devices.find(tx, grant.user_nid, grant.device_id)
    assert device is not None
    stored.take(tx, digest, device.device_nid)
    return Issued(login.access_token, login.refresh_token or "", login.expires_in_ms or 0, grant.scope)


def _device_name(client: Client) -> str:
    return str(client.get("client_name") or oauth.shown_host(client["client_uri"]))[: sessions.MAX_NAME]


async def _node_of(server: Server, read: tokens.Read) -> Node:
    name = await server.nodes.directory.find_hash(Kind.USER, read.owner)
    if not name:
        raise UnknownToken("Unrecognised token")
    return server.nodes[name]


# -- refreshing


async def refresh(server: Server, client_id: str, token: str) -> Issued:
    """New tokens for a refresh token, which stays valid until one of the new ones is used.

    Raises OAuthRefusal. One that was exchanged, and what it bought used, ends its session when it comes again.

    spec: client-server-api/#refresh-token-grant
    """
    try:
        new = await sessions.refresh(server, token, client_id)
    except UnknownToken:
        await _end_if_reused(server, token)
        raise OAuthRefusal("invalid_grant", "That is not a refresh token that holds") from None
    except UserLocked as locked:  # no other answer leaves the client its session
        raise OAuthRefusal("temporarily_unavailable", locked.message, 503) from None
    return Issued(new.access_token, new.refresh_token, new.expires_in_ms or 0, new.scope or "")


async def _end_if_reused(server: Server, token: str) -> None:
    try:
        node = await _node_of(server, tokens.read(tokens.REFRESH, token))
    except UnknownToken:
        return
    lineage = tokens.lineage_of(token)
    held: Held | None = await node.read(stored.by_lineage, lineage.digest)
    known = await node.read(stored_tokens.find_refresh, tokens.digest(token))
    if held is not None and known is None and lineage.generation < held.generation:
        await devices.remove(server, node, held.user_id, held.user_nid, [held.device_id])


# -- revocation


async def revoke(server: Server, token: str) -> Node | None:
    """End the session of an access or refresh token; the device goes with it. Returns its node if there was one.

    spec: client-server-api/#token-revocation
    """
    for kind in _FIND:
        try:
            read = tokens.read(kind, token)
            node = await _node_of(server, read)
        except UnknownToken:
            continue
        found = await node.read(_FIND[kind], read.digest)
        if found is not None:
            await devices.remove(server, node, found.user_id, found.user_nid, [found.device_id])
            return node
    return None


_FIND: Final = {tokens.ACCESS: stored_tokens.find_access, tokens.REFRESH: stored_tokens.find_refresh}
