"""The form of answers that are transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from homeserver.web.messages import spliced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.web.messages import Response


def transaction(server: Server, pdus: Sequence[bytes]) -> Response:
    """Encoded events, as a transaction from this server."""
    return spliced(
        b'{"origin":%s,"origin_server_ts":%d,"pdus":[' % (orjson.dumps(server.name), server.clock.now_ms()),
        b",".join(pdus),
        b"]}",
    )
