"""Asks other servers what their room aliases stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from config.residency import DataClass
from federation.remote import RemoteRefusal, ask_for
from homeserver.context import FoundRoom
from homeserver.protocol import identifiers
from homeserver.protocol.errors import NotFound, ServerUnreachable

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.nodes import Node

MOST_BYTES: Final = 64 * 1024
MOST_SERVERS: Final = 100
"""Servers of an answer that are looked at."""


async def resolve_alias(server: Server, node: Node, alias: str) -> FoundRoom:
    """See `context.Remote.resolve_alias`. spec: server-server-api/#get_matrixfederationv1querydirectory"""
    target = f"/_matrix/federation/v1/query/directory?room_alias={quote(alias, safe='')}"
    owner = identifiers.domain_of(alias)
    try:
        answer = await ask_for(
            server, node, DataClass.EVENTS, owner, "GET", target, most=MOST_BYTES, inward=True, if_reachable=True
        )
    except RemoteRefusal as refusal:
        if refusal.status == 404:
            raise NotFound("There is no such room alias") from None
        raise ServerUnreachable(f"{owner} does not tell what that room alias stands for") from None
    room_id, servers = answer.get("room_id"), answer.get("servers")
    if not isinstance(room_id, str) or not identifiers.is_room_id(room_id):
        raise ServerUnreachable(f"{owner} gave no room for that alias")
    named = servers if isinstance(servers, list) else []
    found = [name for name in named[:MOST_SERVERS] if isinstance(name, str) and identifiers.is_server_name(name)]
    return FoundRoom(room_id, found)
