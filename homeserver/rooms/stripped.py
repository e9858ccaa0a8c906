"""What somebody outside may see of a room: stripped state, for the invited, the knocking, and room summaries.

spec: client-server-api/#stripped-state
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol import client_format
from homeserver.protocol.event_view import CREATE, JOIN_RULES, MEMBER, StateKey

if TYPE_CHECKING:
    from homeserver.protocol.events import Event
    from homeserver.rooms.state import Snapshot

SHOWN: tuple[StateKey, ...] = (
    CREATE,
    JOIN_RULES,
    ("m.room.name", ""),
    ("m.room.avatar", ""),
    ("m.room.topic", ""),
    ("m.room.canonical_alias", ""),
    ("m.room.encryption", ""),
)


def stripped_keys(snapshot: Snapshot, sender: str) -> list[StateKey]:
    """The entries of a room's state that `stripped_state` reads, as far as the state has them."""
    return [key for key in (*SHOWN, (MEMBER, sender)) if key in snapshot.state]


def stripped_state(snapshot: Snapshot, member: Event) -> bytes:
    """A JSON array of stripped state events; that of ``member``, the invitation or knock itself, stands last."""
    chosen = [snapshot.event(key) for key in stripped_keys(snapshot, member.sender)]
    # Spliced: what old rooms may have as numbers could not be encoded.
    found = [client_format.stripped(event.client) for event in (*chosen, member) if event is not None]
    return b"[" + b",".join(found) + b"]"
