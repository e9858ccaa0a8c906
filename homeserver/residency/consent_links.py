"""The link to the page on which somebody is asked: it says who they are and what is asked, to nobody but this server.

It is signed, ends after an hour, and is good for that page alone: whoever has it can do nothing else with it.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlencode

from homeserver.protocol.errors import BadJson, Forbidden
from homeserver.protocol.identifiers import localpart_of
from homeserver.protocol.signing import decode_base64, encode_base64_url
from homeserver.storage import accounts
from homeserver.storage.directory import Kind

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.nodes import Node

PAGE: Final = "/_domicile/consent"
LIFETIME_MS: Final = 60 * 60 * 1000

_HASH: Final = 16
_NUMBER: Final = 8
_TAG: Final = 16
_LEAST: Final = _HASH + 2 * _NUMBER + _TAG
_LONGEST: Final = 4000
TOO_OLD: Final = "This link is too old. Do once more in your app what you wanted to do: it will get a new one."


class Asked(NamedTuple):
    """Who is asked, and about what: rooms of theirs, whose data rests in ``source``, may reach ``targets``."""

    user_id: str
    user_nid: int
    node: Node
    source: str
    targets: tuple[str, ...]


def link(server: Server, asked: Asked) -> str:
    """The address of the page."""
    return f"{server.settings.base_url}{PAGE}?{urlencode({'t': token(server, asked)})}"


def token(server: Server, asked: Asked) -> str:
    """What the address and the form hold."""
    ends = server.clock.now_ms() + LIFETIME_MS
    numbers = (asked.user_nid.to_bytes(_NUMBER, "big"), ends.to_bytes(_NUMBER, "big"))
    body = b"".join((_owner(server, asked.user_id), *numbers, ",".join((asked.source, *asked.targets)).encode()))
    return encode_base64_url(body + _signature(server, body))


async def read(server: Server, text: str) -> Asked:
    """Who and what a token is for. Raises Forbidden when it does not hold (any more), NodeUnavailable."""
    body = _body(server, text)
    user_nid = int.from_bytes(body[_HASH : _HASH + _NUMBER], "big")
    ends = int.from_bytes(body[_HASH + _NUMBER : _HASH + 2 * _NUMBER], "big")
    source, *targets = body[_HASH + 2 * _NUMBER :].decode().split(",")
    name = await server.nodes.directory.find_hash(Kind.USER, body[:_HASH])
    if not name or ends <= server.clock.now_ms():
        raise Forbidden(TOO_OLD)
    node = server.nodes[name]
    user_id = await node.read(accounts.living, user_nid)
    # Somebody who has moved has another number, and data in another place.
    if user_id is None or _owner(server, user_id) != body[:_HASH] or node.jurisdiction != source:
        raise Forbidden(TOO_OLD)
    return Asked(user_id, user_nid, node, source, tuple(targets))


def _body(server: Server, text: str) -> bytes:
    try:
        raw = decode_base64(text) if len(text) <= _LONGEST else b""
    except BadJson:
        raw = b""
    body = raw[:-_TAG]
    if len(raw) <= _LEAST or not hmac.compare_digest(raw[-_TAG:], _signature(server, body)):
        raise Forbidden(TOO_OLD)
    return body


def _owner(server: Server, user_id: str) -> bytes:
    return server.nodes.directory.hash(Kind.USER, localpart_of(user_id))


def _signature(server: Server, body: bytes) -> bytes:
    return server.identity.tag("consent", encode_base64_url(body))
