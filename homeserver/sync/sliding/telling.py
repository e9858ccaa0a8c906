"""What all parts of an answer of sliding sync have in common: who asks, about which stretch of time; and its rooms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.protocol.event_view import StateKey
    from homeserver.rooms.sight import Sight
    from homeserver.rooms.state import Room, Timed
    from homeserver.storage.sliding import Listed
    from homeserver.sync.sliding.connections import Sent
    from homeserver.sync.sliding.openings import Opening
    from homeserver.sync.sliding.request import Config, Form


@dataclass(frozen=True, slots=True)
class Telling:
    """An answer: what happened with ``since < position <= upto``, or after the tick ``seen`` of what has no position.

    ``since`` None: the connection is new. ``ignored``, ``erased``: see accounts/ignored.py and rooms/erasure.py;
    ``direct``: the room ids of direct chats. ``now``: milliseconds since 1970.
    """

    server: Server
    caller: Caller
    form: Form
    since: int | None
    upto: int
    seen: int
    ignored: frozenset[str]
    erased: Mapping[str, int]
    direct: frozenset[str]
    now: int


@dataclass(slots=True)
class Draft:
    """A room of an answer while it is being made.

    ``since``: up to where the connection has been told of it; None: everything is told anew (``initial``). ``upto``:
    the end of what is told, which for who is not in the room any more is where they left. ``expanded``: events are told
    once more, because more of them are wanted than before.

    ``changes``: what became of entries of the state, to row ids, None: it is no more; ``state``: those that are told;
    ``then``: the whole state, where it is not that of now. ``opening``: state that is told beside ``state``.
    """

    listed: Listed
    room: Room | None
    config: Config
    sent: Sent | None
    since: int | None
    upto: int
    expanded: bool = False
    seen: Sight | None = None
    events: Sequence[Timed] = ()
    limited: bool = False
    floor: int = 0
    changes: Mapping[StateKey, int | None] = field(default_factory=dict)
    state: dict[StateKey, int | None] = field(default_factory=dict)
    then: Mapping[StateKey, int] | None = None
    opening: Opening | None = None

    @property
    def initial(self) -> bool:
        """Whether the client is told everything about the room."""
        return self.since is None

    @property
    def joined(self) -> bool:
        """Whether the user is in the room."""
        return self.listed.membership == "join"

    def nid_of(self, key: StateKey) -> int | None:
        """The row id of an entry of the state."""
        if self.then is not None:
            return self.then.get(key)
        entry = None if self.room is None else self.room.now.state.get(key)
        return None if entry is None else entry.nid

    def has_moved(self, kind: str) -> bool:
        """Whether a type of state is to be told of, because it is told everything, or of a change."""
        return self.initial or any(key[0] == kind for key in self.changes)
