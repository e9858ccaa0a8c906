"""Clients register themselves: what they say is checked, and not proved, and shown to people as what they say.

The same metadata is the same client, whoever registers it.

spec: client-server-api/#client-registration
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from homeserver.protocol.errors import OAuthRefusal
from homeserver.protocol.oauth import read_client
from homeserver.protocol.signing import encode_base64_url
from homeserver.storage import oauth_clients as stored
from homeserver.storage import oauth_grants

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Server

MOST_UNUSED: Final = 10_000
"""Clients with which nobody has signed in yet; beyond that, those go that registered longest ago."""
UNUSED_MS: Final = 24 * 3600 * 1000
"""How long such a one is kept: clients register before each sign-in."""
IDLE_MS: Final = 30 * 24 * 3600 * 1000
"""How long one is kept with which nobody is signed in any more."""
LONGEST: Final = 16 * 1024
"""Bytes of a client's metadata."""
AT_ONCE: Final = 100

Client = dict[str, Any]
"""The metadata of a client, with its ``client_id``."""


async def register(server: Server, body: Mapping[str, Any]) -> Client:
    """Keep what a client says of itself; returns what was understood, with ``client_id``. Raises OAuthRefusal.

    spec: client-server-api/#dynamic-client-registration-flow
    """
    metadata = orjson.dumps(read_client(body), option=orjson.OPT_SORT_KEYS)
    if len(metadata) > LONGEST:
        raise OAuthRefusal("invalid_client_metadata", f"The metadata of a client has at most {LONGEST} bytes")
    tag = server.identity.tag("oauth client", metadata.decode())
    now = server.clock.now_ms()
    client = stored.Client(encode_base64_url(tag), metadata, now)
    await server.nodes.directory.engine.write(stored.put, client, now - UNUSED_MS, MOST_UNUSED)
    return {"client_id": client.client_id, "client_id_issued_at": now // 1000, **orjson.loads(metadata)}


async def find(server: Server, client_id: str) -> Client:
    """A registered client. Raises OAuthRefusal."""
    found = await server.nodes.directory.engine.read(stored.find, client_id) if len(client_id) <= 100 else None
    if found is None:
        raise OAuthRefusal("invalid_client", "There is no such client; it has to register again", 401)
    return {"client_id": client_id, **orjson.loads(found.metadata)}


async def note_use(server: Server, client_id: str) -> None:
    """Somebody signs in with the client, which is therefore kept."""
    await server.nodes.directory.engine.write(stored.note_use, client_id, server.clock.now_ms())


async def forget_idle(server: Server) -> None:
    """Forget clients with which nobody has signed in for long and nobody is signed in. Raises NodeUnavailable.

    One with an active session stays: the specification demands it.
    """
    before = server.clock.now_ms() - IDLE_MS
    engine = server.nodes.directory.engine
    for client_id in await engine.read(stored.idle, before, AT_ONCE):
        in_use = False
        for node in server.nodes:
            in_use = in_use or await node.read(oauth_grants.is_in_use, client_id)
        if in_use:
            await engine.write(stored.note_use, client_id, server.clock.now_ms())
        else:
            await engine.write(stored.delete, client_id, before)
