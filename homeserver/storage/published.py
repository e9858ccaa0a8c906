"""What the room directory, and a walk through a space, show of rooms: read for some at once, without loading them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.engine import Transaction

SPACE_CHILD = "m.space.child"


class Ranked(NamedTuple):
    """A published room, and how many members it has on our nodes."""

    members: int
    room_id: str
    room_nid: int


_PUBLISHED = "SELECT p.room_nid FROM rooms p WHERE p.published = 1"
_OF_NETWORK = "SELECT w.room_nid FROM network_rooms w WHERE w.network = ?"


async def ranked(
    tx: Transaction, home: str, most: int, networks: Collection[str] | None = None
) -> tuple[list[Ranked], int]:
    """The first of the published rooms whose home is this node, most members first; and how many there are.

    ``networks``: those in the directories of networks of application services instead; "" among them means the
    directory of the server.
    """
    named = [name for name in networks or () if name]
    sources = [_OF_NETWORK] * len(named)
    if networks is None or "" in networks:
        sources.append(_PUBLISHED)
    if not sources:
        return [], 0
    chosen = f"FROM rooms r WHERE r.room_nid IN ({' UNION '.join(sources)}) AND r.home = ?"
    rows = await tx.all(
        "SELECT COALESCE((SELECT SUM(n.members) FROM room_nodes n WHERE n.room_nid = r.room_nid), 0) AS members,"
        f" r.room_id, r.room_nid {chosen} ORDER BY members DESC, r.room_id LIMIT ?",
        *named,
        home,
        most,
    )
    row = await tx.one(f"SELECT COUNT(*) {chosen}", *named, home)
    assert row is not None
    return [Ranked(int(members), room_id, room_nid) for members, room_id, room_nid in rows], int(row[0])


class Outline(NamedTuple):
    """What there is to say of a room. ``state``: its events of these types with an empty state key (client format)."""

    room_nid: int
    room_id: str
    version: str
    joined: int
    state: dict[str, bytes]


async def outlines(tx: Transaction, room_nids: Sequence[int], types: Collection[str]) -> list[Outline]:
    """What there is to say of rooms of which the node holds the state."""
    if not room_nids:
        return []
    marks = ",".join("?" * len(room_nids))
    rows = await tx.all(
        "SELECT r.room_nid, r.room_id, r.version, (SELECT COUNT(*) FROM memberships m"
        " WHERE m.room_nid = r.room_nid AND m.membership = 'join') FROM rooms r"
        f" WHERE r.room_nid IN ({marks}) AND r.state_group IS NOT NULL",
        *room_nids,
    )
    found = {row[0]: Outline(row[0], row[1], row[2], int(row[3]), {}) for row in rows}
    type_marks = ",".join("?" * len(types))
    for room_nid, kind, client in await tx.all(
        "SELECT s.room_nid, s.type, e.client FROM current_state s JOIN events e ON e.event_nid = s.event_nid"
        f" WHERE s.room_nid IN ({marks}) AND s.type IN ({type_marks}) AND s.state_key = ''",
        *room_nids,
        *types,
    ):
        if room_nid in found:
            found[room_nid].state[kind] = bytes(client)
    return list(found.values())


async def children(tx: Transaction, room_nid: int) -> list[bytes]:
    """The m.space.child events of a room, in client format."""
    rows = await tx.all(
        "SELECT e.client FROM current_state s JOIN events e ON e.event_nid = s.event_nid"
        f" WHERE s.room_nid = ? AND s.type = '{SPACE_CHILD}'",
        room_nid,
    )
    return [bytes(row[0]) for row in rows]


async def known_nid(tx: Transaction, room_id: str) -> int | None:
    """The row id of a room whose state the node holds."""
    row = await tx.one("SELECT room_nid FROM rooms WHERE room_id = ? AND state_group IS NOT NULL", room_id)
    return None if row is None else int(row[0])
