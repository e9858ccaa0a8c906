"""A step: one event on its way into a node's replica of a room, and all that it does there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from homeserver.protocol import canonical
from homeserver.protocol.relations import relation_of as relation_of  # for those who make steps
from homeserver.storage.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.protocol.event_view import StateKey
    from homeserver.protocol.events import Event
    from homeserver.rooms.state import Entry, Room, Snapshot
    from homeserver.storage.client_transactions import Echo
    from homeserver.storage.outbox import NewParcel
    from homeserver.storage.state import Group


@dataclass(frozen=True, slots=True)
class MemberChange:
    """What a membership became, by which entry of the state (None: the entry went).

    ``resident`` is the member's row id when they are pinned to this node; ``stripped`` what an invited or knocking
    resident may see of the room (a JSON array).
    """

    user_id: str
    membership: str
    entry: Entry | None
    resident: int | None
    stripped: bytes | None


@dataclass(frozen=True, slots=True)
class Redacted:
    """What a redaction leaves of its target."""

    event: Event
    unsigned: bytes


@dataclass(frozen=True, slots=True)
class GroupStep:
    """A new snapshot: ``previous`` with ``changes`` on top; None as ``previous``: the changes are all of it."""

    group: Group
    previous: Group | None
    changes: Mapping[StateKey, Entry]


@dataclass(eq=False, slots=True)
class Step:
    """One event on its way into a node's replica of a room.

    ``after`` is the room after it; ``changes`` is what that does to the current state (None: the key goes).
    ``group`` is the state after the event itself. ``held_as`` is the row id of an event that the node has already,
    outside the timeline. ``awaits`` is the event that a redaction names and the node does not have yet. ``nid`` and
    ``pos`` are given anew by each attempt to write the step.

    ``entered`` and ``left``: the other servers that take part in the room after it, and those that do no more.
    ``to_peers``: this node sends it to the servers that took part before it, and to those ``reached``, which do not
    take part and whose users it is about.
    """

    room: Room
    event: Event
    after: Snapshot
    group: Group
    verdict: Verdict = Verdict.ACCEPTED
    timeline: bool = True
    entry: Entry | None = None
    changes: Mapping[StateKey, Entry | None] = field(default_factory=dict)
    groups: Sequence[GroupStep] = ()
    unsigned: bytes | None = None
    txn_key: bytes | None = None
    echo: Echo | None = None
    redacted: Redacted | None = None
    awaits: str | None = None
    members: Sequence[MemberChange] = ()
    nodes: Mapping[str, int] = field(default_factory=dict)
    relation: tuple[str, str] | None = None
    parcels: Sequence[NewParcel] = ()
    held_as: int | None = None
    entered: Sequence[str] = ()
    left: Sequence[str] = ()
    reached: Sequence[str] = ()
    to_peers: bool = False
    nid: int = 0
    pos: int | None = None


def replaced(before: Entry | None) -> bytes | None:
    """The ``unsigned`` of a state event that takes the place of another, as it is spliced."""
    if before is None or before.event is None:
        return None
    return (
        b'"prev_content":'
        + canonical.encode(before.event.content, strict=False)
        + b',"prev_sender":'
        + orjson.dumps(before.event.sender)
        + b',"replaces_state":'
        + orjson.dumps(before.event_id)
    )
