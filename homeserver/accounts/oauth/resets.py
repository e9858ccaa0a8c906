"""Replacing cross-signing keys, for whoever signs in by OAuth: confirmed in a browser, then done by the client, once.

spec: client-server-api/#oauth-authentication
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.runtime.lru import Lru

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.storage.nodes import Node

SECONDS: Final = 600.0
"""How long what was confirmed waits to be done."""
MOST: Final = 10_000
ANY: Final = ""


class _Confirmed:
    """The moment (monotonic seconds) at which a confirmation ends, by user and device id (`ANY`: whichever it is)."""

    def __init__(self) -> None:
        self.ends: Lru[tuple[int, str], float] = Lru(MOST)


def confirm(server: Server, node: Node, user_nid: int, device_id: str | None) -> None:
    """Their owner lets the keys be replaced once, by the device if one is named."""
    node.memory(_Confirmed).ends[user_nid, device_id or ANY] = server.clock.monotonic() + SECONDS


def use(server: Server, caller: Caller) -> bool:
    """Whether the caller's device may replace the keys now; it may not again."""
    ends, now = caller.node.memory(_Confirmed).ends, server.clock.monotonic()
    for key in ((caller.user_nid, caller.device_id), (caller.user_nid, ANY)):
        held = ends.get(key)
        if held is not None and held > now:
            ends.pop(key)
            return True
    return False
