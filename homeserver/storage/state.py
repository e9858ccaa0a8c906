"""The state of rooms on one node: what it is now, what changed when, and what it was after any event.

Snapshots (`state_groups`) are chains of differences. A chain of n snapshots is read in O(log n) steps: the snapshot
at depth d holds what changed since its ancestor at depth ``d & (d - 1)`` (d without its lowest set bit), so that it
takes O(log n) rows on average to write one, however large the room is.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from homeserver.storage.engine import Transaction

StateKey = tuple[str, str]
"""(event type, state key)"""

BEFORE_ALL = -(2**62)
"""A position before every other."""

_NO_GROUPS: Mapping[int, int | None] = MappingProxyType({})


@dataclass(eq=False, slots=True)
class Group:
    """A snapshot in a chain. ``nid`` is None until the transaction that writes it has begun."""

    nid: int | None
    depth: int
    parent: Group | None

    def successor(self) -> Group:
        """A new snapshot one deeper in the chain, with the ancestor that it is stored against."""
        depth = self.depth + 1
        target = depth & (depth - 1)
        ancestor: Group | None = self
        while ancestor is not None and ancestor.depth > target:
            ancestor = ancestor.parent
        return Group(None, depth, ancestor)

    def between(self, ancestor: Group | None) -> Iterable[Group]:
        """The snapshots from this one down to ``ancestor`` (not included), newest first."""
        group: Group | None = self
        while group is not None and group is not ancestor:
            yield group
            group = group.parent


@dataclass(frozen=True, slots=True)
class NewGroup:
    """A snapshot to be written: that of ``previous`` with ``changes`` (type, state key, row id) on top.

    ``previous`` is the snapshot from which ``group`` was made by `Group.successor`, or None for a root, whose changes
    are the whole state.
    """

    room_nid: int
    group: Group
    previous: Group | None
    changes: Sequence[tuple[str, str, int]]


def insert_groups(tx: Transaction, groups: Sequence[NewGroup]) -> None:
    """Queue snapshots, ancestors before descendants."""
    tx.later(
        "INSERT INTO state_groups (group_nid, room_nid, parent_nid, depth) VALUES (?, ?, ?, ?)",
        [
            (new.group.nid, new.room_nid, None if new.group.parent is None else new.group.parent.nid, new.group.depth)
            for new in groups
        ],
    )
    tx.later(
        "INSERT INTO state_group_entries (group_nid, type, state_key, event_nid) VALUES (?, ?, ?, ?)",
        [(new.group.nid, *change) for new in groups for change in new.changes],
    )
    tx.later(  # what lies between the snapshot and the ancestor it is stored against, newest first
        "INSERT INTO state_group_entries (group_nid, type, state_key, event_nid)"
        " SELECT CAST(? AS BIGINT), type, state_key, event_nid FROM state_group_entries WHERE group_nid = ?"
        " ON CONFLICT DO NOTHING",
        [
            (new.group.nid, piece.nid)
            for new in groups
            if new.previous is not None
            for piece in new.previous.between(new.group.parent)
        ],
    )


async def load_group(tx: Transaction, group_nid: int) -> Group:
    """A snapshot's place in its chain."""
    rows = await tx.all(
        "WITH RECURSIVE chain (group_nid, parent_nid, depth) AS ("
        " SELECT group_nid, parent_nid, depth FROM state_groups WHERE group_nid = ?"
        " UNION ALL SELECT g.group_nid, g.parent_nid, g.depth FROM state_groups g JOIN chain c"
        " ON g.group_nid = c.parent_nid) SELECT group_nid, depth FROM chain ORDER BY depth",
        group_nid,
    )
    group: Group | None = None
    for nid, depth in rows:
        group = Group(nid, depth, group)
    assert group is not None
    return group


async def group_state(tx: Transaction, group: Group) -> dict[StateKey, int]:
    """The whole state at a snapshot: key to the event's row id."""
    chain = list(group.between(None))
    marks = ",".join("?" * len(chain))
    rows = await tx.all(
        f"SELECT group_nid, type, state_key, event_nid FROM state_group_entries WHERE group_nid IN ({marks})",
        *[piece.nid for piece in chain],
    )
    by_group: dict[int, list[tuple[StateKey, int]]] = {}
    for group_nid, kind, state_key, event_nid in rows:
        by_group.setdefault(group_nid, []).append(((kind, state_key), event_nid))
    state: dict[StateKey, int] = {}
    for piece in reversed(chain):
        assert piece.nid is not None
        state.update(by_group.get(piece.nid, ()))
    return state


def change_current(
    tx: Transaction,
    changes: Sequence[tuple[int, int, str, str, int | None]],
    groups: Mapping[int, int | None] = _NO_GROUPS,
) -> None:
    """Queue what current states became, in order: (room_nid, pos, type, state key, row id); None: it left the state.

    ``groups``: by position, the snapshot that the whole current state is from there on; cheap for `at` where known.
    """
    last = {(room_nid, kind, state_key): nid for room_nid, _, kind, state_key, nid in changes}
    tx.later(
        "INSERT INTO current_state (room_nid, type, state_key, event_nid) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (room_nid, type, state_key) DO UPDATE SET event_nid = excluded.event_nid",
        [(*key, nid) for key, nid in last.items() if nid is not None],
    )
    tx.later(
        "DELETE FROM current_state WHERE room_nid = ? AND type = ? AND state_key = ?",
        [key for key, nid in last.items() if nid is None],
    )
    note_changes(tx, changes, groups)


def note_changes(
    tx: Transaction,
    changes: Sequence[tuple[int, int, str, str, int | None]],
    groups: Mapping[int, int | None] = _NO_GROUPS,
) -> None:
    """Queue what states became at positions that have passed: rows and snapshots as `change_current` takes them."""
    tx.later(
        "INSERT INTO state_changes (room_nid, pos, type, state_key, event_nid, group_nid) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (room_nid, pos, type, state_key) DO UPDATE SET event_nid = excluded.event_nid,"
        " group_nid = excluded.group_nid",
        [(*change, groups.get(change[1])) for change in changes],
    )


def clear_current(tx: Transaction, room_nid: int) -> None:
    """Queue that a room's current state is empty, before it is written anew."""
    tx.later("DELETE FROM current_state WHERE room_nid = ?", [(room_nid,)])


async def current(tx: Transaction, room_nid: int) -> list[tuple[str, str, int, str]]:
    """The current state of a room: (type, state key, row id, event id)."""
    return [
        (kind, state_key, event_nid, event_id)
        for kind, state_key, event_nid, event_id in await tx.all(
            "SELECT s.type, s.state_key, s.event_nid, e.event_id FROM current_state s JOIN events e USING (event_nid)"
            " WHERE s.room_nid = ?",
            room_nid,
        )
    ]


async def last_change(tx: Transaction, room_nid: int) -> int:
    """The last position at which the current state of a room changed."""
    row = await tx.one("SELECT MAX(pos) FROM state_changes WHERE room_nid = ?", room_nid)
    return 0 if row is None or row[0] is None else int(row[0])


@asks_once
async def changes_between(tx: Transaction, room_nid: int, after: int, upto: int) -> dict[StateKey, int | None]:
    """What the current state became with ``after < pos <= upto``, the last change of each key."""
    rows = await tx.all(
        "SELECT type, state_key, event_nid FROM state_changes WHERE room_nid = ? AND pos > ? AND pos <= ? ORDER BY pos",
        room_nid,
        after,
        upto,
    )
    return {(kind, state_key): event_nid for kind, state_key, event_nid in rows}


async def at(tx: Transaction, room_nid: int, pos: int) -> dict[StateKey, int]:
    """The state of a room as it was at a position of this node: key to row id.

    From the newest snapshot of the current state up to there, and what changed between the two: so the past costs as
    much as there is state, however often it has changed. Two trips.
    """
    chain = await tx.all(
        "WITH RECURSIVE start AS (SELECT pos, group_nid FROM state_changes WHERE room_nid = ? AND pos <= ?"
        " AND group_nid IS NOT NULL ORDER BY pos DESC LIMIT 1),"
        " chain (group_nid, parent_nid, depth) AS (SELECT g.group_nid, g.parent_nid, g.depth FROM state_groups g"
        " WHERE g.group_nid = (SELECT group_nid FROM start) UNION ALL SELECT g.group_nid, g.parent_nid, g.depth"
        " FROM chain c JOIN state_groups g ON g.group_nid = c.parent_nid)"
        " SELECT group_nid, (SELECT pos FROM start) FROM chain ORDER BY depth",
        room_nid,
        pos,
    )
    marks = ",".join("?" * len(chain)) or "NULL"
    rows = await tx.all(  # the snapshots are named one by one: PostgreSQL would read all there are to join them
        "SELECT 0, group_nid, type, state_key, event_nid FROM state_group_entries WHERE group_nid"
        f" IN ({marks}) UNION ALL SELECT 1, pos, type, state_key, event_nid FROM state_changes"
        " WHERE room_nid = ? AND pos > ? AND pos <= ?",
        *[group_nid for group_nid, _ in chain],
        room_nid,
        chain[0][1] if chain else BEFORE_ALL,
        pos,
    )
    pieces: dict[tuple[int, int], list[tuple[StateKey, int | None]]] = {(0, group_nid): [] for group_nid, _ in chain}
    for part, place, kind, state_key, event_nid in rows:
        pieces.setdefault((part, place), []).append(((kind, state_key), event_nid))
    state: dict[StateKey, int | None] = {}
    for piece in [*((0, group_nid) for group_nid, _ in chain), *sorted(place for place in pieces if place[0])]:
        state.update(pieces[piece])
    return {key: event_nid for key, event_nid in state.items() if event_nid is not None}


@asks_once
async def changed_after(tx: Transaction, room_nid: int, pos: int) -> dict[StateKey, int | None]:
    """The entries of a room's state that have changed after a position, as they were at it; None: there was none.

    What undoes the newest changes of a state that is in memory.
    """
    rows = await tx.all(
        "SELECT c.type, c.state_key, (SELECT b.event_nid FROM state_changes b WHERE b.room_nid = ?"
        " AND b.type = c.type AND b.state_key = c.state_key AND b.pos <= ? ORDER BY b.pos DESC LIMIT 1)"
        " FROM (SELECT DISTINCT type, state_key FROM state_changes WHERE room_nid = ? AND pos > ?) c",
        room_nid,
        pos,
        room_nid,
        pos,
    )
    return {(kind, state_key): event_nid for kind, state_key, event_nid in rows}


@asks_once
async def key_at(tx: Transaction, room_nid: int, kind: str, state_key: str, pos: int) -> int | None:
    """The row id of one entry of the state as it was at a position."""
    row = await tx.one(
        "SELECT event_nid FROM state_changes WHERE room_nid = ? AND type = ? AND state_key = ? AND pos <= ?"
        " ORDER BY pos DESC LIMIT 1",
        room_nid,
        kind,
        state_key,
        pos,
    )
    return None if row is None or row[0] is None else int(row[0])


async def entries(tx: Transaction, room_nid: int, keys: Collection[StateKey]) -> dict[StateKey, int]:
    """Chosen entries of the current state."""
    if not keys:
        return {}
    marks = ",".join("(?, ?)" for _ in keys)
    flat: Sequence[str] = [part for key in keys for part in key]
    rows = await tx.all(
        f"SELECT type, state_key, event_nid FROM current_state WHERE room_nid = ? AND (type, state_key) IN"
        f" (VALUES {marks})",
        room_nid,
        *flat,
    )
    return {(kind, state_key): event_nid for kind, state_key, event_nid in rows}
