"""Replacing cross-signing keys, for whoever signs in by OAuth: confirmed in a browser, then done by the client, once.

spec: client-server-api/#oauth-authentication
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.runtime.passing import Passing

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.storage.nodes import Node

SECONDS: Final = 600.0
"""How long what was confirmed waits to be done."""
ANY: Final = ""


class _Confirmed(Passing[tuple[int, str], bool]):
    """Who has confirmed it: user and device id (`ANY`: whichever it is)."""


def confirm(server: Server, node: Node, user_nid: int, device_id: str | None) -> None:
    """Their owner lets the keys be replaced once, by the device if one is named."""
    node.memory(_Confirmed).put((user_nid, device_id or ANY), True, server.clock.monotonic(), SECONDS)


def use(server: Server, caller: Caller) -> bool:
    """Whether the caller's device may replace the keys now; it may not again."""
    confirmed, now = caller.node.memory(_Confirmed), server.clock.monotonic()
    return any(confirmed.pop((caller.user_nid, device_id), now) for device_id in (caller.device_id, ANY))
