"""Sticky events as members are given them: each once, whatever its place in the timeline, and whether or not they were
there when it was sent. Only who is in the room is given any.

Encrypted like all else, they can be read by whoever was given their keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.rooms import showing
from homeserver.storage.sticky_events import of_rooms as of_rooms  # for those who tell of them

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.storage.sticky_events import Sticky


def is_for(each: Sticky, ignored: Collection[str], erased: Collection[str]) -> bool:
    """Whether a member is to be given it: not what users sent whom they ignore, or who asked to be forgotten."""
    return each.event.sender not in ignored and each.event.sender not in erased


def show(each: Sticky, now_ms: int, transaction_id: str | None = None) -> bytes:
    """One of them as a client reads it, with how long it lasts."""
    parts = [showing.stays(each.expires_ts - now_ms)[1:]]
    if each.event.unsigned is not None:
        parts.append(each.event.unsigned)
    if transaction_id is not None:
        parts.append(b"".join(showing.own(transaction_id))[1:])
    return showing.show_stored(each.event._replace(unsigned=b",".join(parts)), now_ms)
