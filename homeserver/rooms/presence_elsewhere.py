"""Presence of users of other servers, as these tell it: who is not offline is so only as long as their server says so
again. In memory; after a restart everybody elsewhere is offline until their server says otherwise.

spec: server-server-api/#presence
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from homeserver.rooms.presence import OFFLINE, REMEMBERED, Presences

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.rooms.presence import Shown
    from homeserver.runtime.clock import Timer
    from homeserver.storage.nodes import Node

BELIEVED: Final = 30 * 60.0
"""Seconds for which a server is believed. Ours, and others, say it again before that (`presence.TOLD_AGAIN`)."""


class Heard:
    """When it was last said of users elsewhere that they are not offline, in that order (``node.memory(Heard)``);
    seconds of the monotonic clock."""

    def __init__(self) -> None:
        self.at: OrderedDict[str, float] = OrderedDict()
        self.timer: Timer | None = None


def show(server: Server, node: Node, shown: Shown) -> bool:
    """Show the presence of a user of another server on a node; whether that is other than what was shown."""
    presences, heard = node.memory(Presences), node.memory(Heard)
    heard.at.pop(shown.user_id, None)
    if shown.state != OFFLINE:
        heard.at[shown.user_id] = server.clock.monotonic()
        if len(heard.at) > REMEMBERED:
            heard.at.popitem(last=False)
    before = presences.shown.get(shown.user_id)
    if before is not None and (before.state, before.status) == (shown.state, shown.status):
        before.active_ms = shown.active_ms
        changed = False
    else:
        presences.show(node, shown)
        changed = True
    _set_timer(server, node)
    return changed


def _set_timer(server: Server, node: Node) -> None:
    heard = node.memory(Heard)
    if heard.at and heard.timer is None:
        due = next(iter(heard.at.values())) + BELIEVED
        heard.timer = server.clock.call_later(max(due - server.clock.monotonic(), 0.0), _end, server, node)


def _end(server: Server, node: Node) -> None:
    """Who was not spoken of for too long is offline. Nobody is woken: there may be many of them, all at once."""
    presences, heard = node.memory(Presences), node.memory(Heard)
    heard.timer = None
    now = server.clock.monotonic()
    while heard.at and next(iter(heard.at.values())) + BELIEVED <= now:
        user_id, _ = heard.at.popitem(last=False)
        shown = presences.shown.get(user_id)
        if shown is not None and shown.state != OFFLINE:
            presences.show(node, replace(shown, state=OFFLINE))
    _set_timer(server, node)
