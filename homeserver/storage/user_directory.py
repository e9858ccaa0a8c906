"""Finding users by name: those who share a room with somebody, and those in rooms that are open to everybody.

What members call themselves is noted when their events are written, and forgotten when these are redacted.

spec: client-server-api/#user-directory
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from homeserver.protocol.client_format import content_of
from homeserver.protocol.event_view import MEMBER
from homeserver.runtime.parts import in_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import NewEvent

OPENINGS: Final = {
    "m.room.join_rules": ("join_rule", "public"),
    "m.room.history_visibility": ("history_visibility", "world_readable"),
}
"""By type of state events: the key of their content, and its value, that opens a room to everybody."""

AT_ONCE: Final = 500
"""Rooms that are asked about in one statement."""

LONGEST_NAME: Final = 256
"""Characters of a name that are looked at."""


class Found(NamedTuple):
    """A member whose name or id fits, with their member event in client format."""

    user_id: str
    member: bytes


def note(tx: Transaction, events: Sequence[NewEvent]) -> None:
    """Queue what is to be known of new events for finding users."""
    names, openings = [], []
    for event in events:
        if event.type == MEMBER:
            name = _content(event).get("displayname")
            if isinstance(name, str) and name and "\0" not in name:
                names.append((event.event_nid, name[:LONGEST_NAME].lower()))
        elif event.type in OPENINGS and event.state_key == "":
            key, value = OPENINGS[event.type]
            if _content(event).get(key) == value:
                openings.append((event.event_nid,))
    tx.later("INSERT INTO member_names (event_nid, name) VALUES (?, ?) ON CONFLICT DO NOTHING", names)
    tx.later("INSERT INTO openings (event_nid) VALUES (?) ON CONFLICT DO NOTHING", openings)


def _content(event: NewEvent) -> dict[str, object]:
    content: dict[str, object] = orjson.loads(content_of(event.client))
    return content


def forget(tx: Transaction, event_ids: Sequence[str]) -> None:
    """Queue that events were redacted: they give nobody a name any more. Who has opened a room has opened it still."""
    tx.later(
        "DELETE FROM member_names WHERE event_nid = (SELECT event_nid FROM events WHERE event_id = ?)",
        [(event_id,) for event_id in event_ids],
    )


_FITTING = (
    " JOIN users u ON u.user_nid = theirs.user_nid JOIN events e ON e.event_nid = theirs.event_nid"
    " LEFT JOIN member_names n ON n.event_nid = theirs.event_nid"
    " WHERE theirs.membership = 'join' AND theirs.user_nid <> ?"
    " AND (n.name LIKE ? ESCAPE '!' OR LOWER(u.user_id) LIKE ? ESCAPE '!')"
)


async def search(tx: Transaction, user_nid: int, term: str, limit: int) -> list[Found]:
    """Up to ``limit`` members whose name or user id has ``term``, in lower case, anywhere: of rooms that a resident
    has joined, then of rooms open to everybody. A user who is in several rooms is found once for each.
    """
    pattern = f"%{term.replace('!', '!!').replace('%', '!%').replace('_', '!_')}%"
    shared = await tx.all(
        "SELECT u.user_id, e.client FROM memberships mine JOIN memberships theirs ON theirs.room_nid = mine.room_nid"
        f"{_FITTING} AND mine.user_nid = ? AND mine.membership = 'join' LIMIT ?",
        user_nid,
        pattern,
        pattern,
        user_nid,
        limit,
    )
    found = [Found(*row) for row in shared]
    open_rooms = await _open_rooms(tx) if len(found) < limit else []
    for part in in_parts(open_rooms, AT_ONCE):
        if len(found) >= limit:
            break
        in_the_open = await tx.all(
            f"SELECT u.user_id, e.client FROM memberships theirs{_FITTING}"
            f" AND theirs.room_nid IN ({','.join('?' * len(part))}) LIMIT ?",
            user_nid,
            pattern,
            pattern,
            *part,
            limit - len(found),
        )
        found += [Found(*row) for row in in_the_open]
    return found


async def _open_rooms(tx: Transaction) -> list[int]:
    """The rooms of which the state has one of the `OPENINGS`."""
    rows = await tx.all(
        "SELECT DISTINCT e.room_nid FROM openings o JOIN events e ON e.event_nid = o.event_nid"
        " WHERE o.event_nid = (SELECT s.event_nid FROM current_state s"
        " WHERE s.room_nid = e.room_nid AND s.type = e.type AND s.state_key = '')"
    )
    return [int(row[0]) for row in rows]
