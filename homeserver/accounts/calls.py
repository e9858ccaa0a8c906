"""What a user gets for calls: a password for the TURN server, and where media servers are.

spec: client-server-api/#voice-over-ip
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from config.load import read_secret
from homeserver.protocol.errors import NotFound

if TYPE_CHECKING:
    from config.kinds import Secret
    from homeserver.context import Server


def turn_credentials(server: Server, user_id: str) -> dict[str, Any]:
    """Name and password for the TURN server, which it checks by the secret that both know. Raises NotFound.

    The name is the moment (seconds since 1970) at which the password ends, and the user; the password its HMAC-SHA1:
    the TURN REST API, as coturn has it. spec: client-server-api/#get_matrixclientv3voipturnserver
    """
    turn = server.settings.turn
    if turn is None:
        raise NotFound("This server has no TURN server")
    seconds = int(turn.lifetime.seconds)
    username = f"{server.clock.now_ms() // 1000 + seconds}:{user_id}"
    digest = hmac.new(_secret(turn.secret).encode(), username.encode(), hashlib.sha1).digest()
    return {
        "username": username,
        "password": base64.b64encode(digest).decode(),
        "uris": list(turn.uris),
        "ttl": seconds,
    }


def transports(server: Server) -> list[dict[str, str]]:
    """How clients reach a media server for calls of many (MSC4143)."""
    return [{"type": "livekit", "livekit_service_url": url} for url in server.settings.rtc.livekit]


@lru_cache(maxsize=8)
def _secret(secret: Secret) -> str:
    return read_secret(secret)
