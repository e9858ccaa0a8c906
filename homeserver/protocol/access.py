"""Who may read what: history visibility of events, and of a room's state.

Whoever serves events to a user or to another server asks here for each of them; a doubt is a no.

spec: client-server-api/#room-history-visibility
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from homeserver.protocol.event_view import HISTORY_VISIBILITY, MEMBER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from homeserver.protocol.event_view import EventCore

VISIBILITIES: Final = frozenset(("world_readable", "shared", "invited", "joined"))
DEFAULT_VISIBILITY: Final = "shared"


def visibility_of(event: EventCore | None) -> str:
    """The history visibility that an m.room.history_visibility event sets: ``shared`` if there is none (None), or if
    its value is not understood.

    spec: client-server-api/#room-history-visibility
    """
    value = None if event is None else event.content.get("history_visibility")
    return value if isinstance(value, str) and value in VISIBILITIES else DEFAULT_VISIBILITY


def allows(visibility: str, membership: str, *, joined_later: bool) -> bool:
    """Whether an event may be seen by a user whose ``membership`` was this (``leave`` if none) when it was sent under
    this ``visibility``. ``joined_later``: whether the user has joined the room at any time since.

    spec: client-server-api/#room-history-visibility
    """
    if visibility == "world_readable" or membership == "join":
        return True
    if visibility == "shared":
        return joined_later
    return visibility == "invited" and membership == "invite"


def may_see(event: EventCore, user_id: str, *, visibility: str, membership: str, joined_later: bool) -> bool:
    """Whether a user may see an event. ``visibility`` (see `visibility_of`) and ``membership`` are those of the state
    *before* the event; that the event itself may change one of them is taken into account here.

    ``joined_later`` is whether the user joined at any time after the event. The user's own join is no such time for
    itself, though it may be given as one. spec: client-server-api/#room-history-visibility
    """
    if allows(visibility, membership, joined_later=joined_later):
        return True
    if event.state_key is None:
        return False
    if (event.type, event.state_key) == HISTORY_VISIBILITY:
        return allows(visibility_of(event), membership, joined_later=joined_later)
    if event.type == MEMBER and event.state_key == user_id:
        after = event.content.get("membership")
        return isinstance(after, str) and allows(visibility, after, joined_later=joined_later)
    return False


class StateAccess(Enum):
    """Which state of a room a user may read."""

    CURRENT = "current"
    AT_LEAVING = "at_leaving"
    """As it was when the user left, or was removed, for the last time."""
    NONE = "none"


def may_read_state(membership: str, *, was_joined: bool, visibility: str) -> StateAccess:
    """Which state of a room a user may read, whose ``membership`` is this now (``leave`` if none).

    ``was_joined``: whether the user has ever been joined. ``visibility`` is the present one: the state of a
    world-readable room is everybody's, also of those who left.

    spec: client-server-api/#get_matrixclientv3roomsroomidstate, client-server-api/#room-previews
    """
    if membership == "join" or visibility == "world_readable":
        return StateAccess.CURRENT
    if was_joined and membership in ("leave", "ban"):
        return StateAccess.AT_LEAVING
    return StateAccess.NONE


def server_may_see(visibility: str, memberships: Iterable[str], *, in_room: bool) -> bool:
    """Whether another server may be given the content of an event.

    ``memberships`` are those of its users when the event was sent, ``in_room`` whether one of them is or was in the
    room after that. What it may not see it gets redacted.

    spec: server-server-api/#backfilling-and-retrieving-missing-events
    """
    return any(allows(visibility, membership, joined_later=in_room) for membership in memberships) or allows(
        visibility, "leave", joined_later=in_room
    )
