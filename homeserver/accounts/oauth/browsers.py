"""Browsers in which somebody is signed in to our pages: for a short time, by a token of which a digest rests on the
user's node.

A browser also holds a second token, that says nothing of anybody: what a form is sent back with must have been made for
the browser that sends it, so that no other site can send one in its name.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from homeserver.accounts import callers, tokens
from homeserver.context import Caller
from homeserver.protocol.errors import NotFound, UnknownToken
from homeserver.protocol.identifiers import localpart_of
from homeserver.protocol.signing import encode_base64_url
from homeserver.storage import accounts as stored_accounts
from homeserver.storage import browser_sessions as stored
from homeserver.storage.directory import Kind

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

RECENT_MS: Final = 5 * 60 * 1000
"""For how long somebody without a password counts as confirmed after they came from their provider."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is signed in in a browser. ``confirmed``: they proved it a moment ago."""

    user_id: str
    user_nid: int
    node: Node
    has_password: bool
    suspended: bool
    confirmed: bool
    token: str

    @property
    def caller(self) -> Caller:
        """The visitor as services know users; they have no device."""
        return Caller(
            self.user_id, localpart_of(self.user_id), self.node, self.user_nid, "", 0, suspended=self.suspended
        )


async def account_of(server: Server, user_id: str) -> tuple[Node, str, int]:
    """Where a local user's account is, as `sign_in` takes it. Raises NotFound, NodeUnavailable."""
    node = await server.nodes.of_user(user_id)
    account = None if node is None else await node.read(stored_accounts.find, user_id)
    if node is None or account is None:
        raise NotFound("There is no such user")
    return node, user_id, account.user_nid


async def sign_in(server: Server, node: Node, user_id: str, user_nid: int) -> str:
    """Sign a browser in as somebody who has proved to be it; returns the token that it is to hold."""
    token, digest = tokens.make(tokens.BROWSER, callers.owner_hash(server, localpart_of(user_id)))
    now = server.clock.now_ms()
    await node.write(_put, digest, user_nid, now, now + server.settings.oauth.browser_lifetime.ms)
    return token


async def _put(tx: Transaction, digest: bytes, user_nid: int, now: int, expires: int) -> None:
    stored.put(tx, digest, user_nid, now, expires)


async def find(server: Server, token: str | None) -> Visitor | None:
    """Who is signed in in the browser that holds this token. Raises NodeUnavailable."""
    node, read = await _node_of(server, token)
    if node is None or read is None or token is None:
        return None
    now = server.clock.now_ms()
    found = await node.read(stored.find, read.digest, now)
    if found is None:
        return None
    recent = found.confirmed_ts > now - RECENT_MS
    return Visitor(found.user_id, found.user_nid, node, found.has_password, found.suspended, recent, token)


async def sign_out(server: Server, token: str | None) -> None:
    """Sign the browser out that holds this token."""
    node, read = await _node_of(server, token)
    if node is not None and read is not None:
        await node.write(stored.drop, read.digest)


async def _node_of(server: Server, token: str | None) -> tuple[Node | None, tokens.Read | None]:
    try:
        read = tokens.read(tokens.BROWSER, token or "")
    except UnknownToken:
        return None, None
    name = await server.nodes.directory.find_hash(Kind.USER, read.owner)
    return (None, None) if not name else (server.nodes[name], read)


# -- forms


def new_mark() -> str:
    """What a browser is given to be known again by, before anybody is signed in."""
    return secrets.token_urlsafe(24)


def form_token(server: Server, mark: str) -> str:
    """What a form must be sent back with by the browser that has this mark."""
    return encode_base64_url(server.identity.tag("form", mark))


def is_of(server: Server, mark: str | None, token: str | None) -> bool:
    """Whether a form was made for the browser that sends it."""
    return bool(mark) and hmac.compare_digest(form_token(server, mark or "").encode(), (token or "").encode())
