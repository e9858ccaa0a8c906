"""What is made of a node's rows when they come back from an archive, beside their positions (`archive.settle`).

Nobody knows which of the sessions, and of what was to be sent later, were ended after the archive was made: so none is
believed. What the directory knows better is done again. What others may hold that is newer is asked for by chores, for
it takes the other nodes. All of it stands in the transaction that brings the rows.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from homeserver.storage import streams

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from homeserver.storage.engine import Transaction

REUNION: Final = "reunion"
"""The kind of chore that asks to be told by another node what this one has forgotten; it is about no resident."""


class Reunion(NamedTuple):
    """That another node is to tell this one what it has forgotten: what has a position above ``since`` here came after
    the restore."""

    chore_nid: int
    node: str
    since: int


async def end_sessions(tx: Transaction) -> int:
    """End all sessions, so that their clients ask to sign in again and keep their keys; returns how many. Nothing is
    pushed to their phones until they have."""
    row = await tx.one("SELECT COUNT(DISTINCT device_nid) FROM access_tokens")
    await tx.run("UPDATE access_tokens SET expires_ts = 0, refresh_hash = NULL")
    await tx.run("UPDATE refresh_tokens SET expires_ts = 0, next_hash = NULL")
    for table in ("oauth_grants", "browser_sessions", "pushers"):
        await tx.run(f"DELETE FROM {table}")
    return 0 if row is None else int(row[0])


async def call_off(tx: Transaction) -> int:
    """Have nothing sent that was to be sent later: it may have been sent since, or called off. Returns how much."""
    row = await tx.one("SELECT COUNT(*) FROM delayed_events WHERE due_ts IS NOT NULL")
    await tx.run("DELETE FROM delayed_events")
    return 0 if row is None else int(row[0])


async def halt_moves(tx: Transaction) -> None:
    """Have moves away from here wait for an operator: they may have been given up since."""
    reason = "the node was put back from an archive, in which the move was under way"
    await tx.run("UPDATE departures SET halted = 'stopped', reason = ? WHERE halted IS NULL", reason)


async def close_again(tx: Transaction, closed: Mapping[int, bool], kind: str, now_ms: int) -> None:
    """Close accounts that have been closed since, by row id; with True, their owners are erased too. ``kind`` of chore
    does what is left."""
    await tx.many(
        "UPDATE accounts SET password_hash = NULL, admin = 0, deactivated_ts = COALESCE(deactivated_ts, ?)"
        " WHERE user_nid = ?",
        [(now_ms, user_nid) for user_nid in closed],
    )
    for table in ("access_tokens", "refresh_tokens", "oauth_grants", "browser_sessions", "pushers"):
        await tx.many(f"DELETE FROM {table} WHERE user_nid = ?", [(user_nid,) for user_nid in closed])
    await tx.many(
        "INSERT INTO chores (kind, user_nid, body) VALUES (?, ?, ?)",
        [(kind, user_nid, orjson.dumps({"again": True, "erase": erased})) for user_nid, erased in closed.items()],
    )


async def publish_keys(tx: Transaction, kind: str, since: int) -> None:
    """Note that the keys of residents are what they were: others may know later ones. ``kind`` of chore tells them;
    ``since``: a position that nobody was ever told of, so that other servers ask for all devices."""
    rows = await tx.all(
        "SELECT k.user_nid, k.device_id FROM device_keys k JOIN residents r ON r.user_nid = k.user_nid"
        " ORDER BY k.user_nid, k.device_id"
    )
    first = await streams.allocate(tx, len(rows))
    changes, asked = [], []
    for user_nid, mine in groupby(rows, lambda row: row[0]):
        devices = [row[1] for row in mine]
        body = {"devices": devices, "first": first, "before": since}
        first += len(devices)
        changes.append((user_nid, first - 1))
        asked.append((kind, user_nid, orjson.dumps(body)))
    await tx.many(
        "INSERT INTO device_list_changes (user_nid, pos) VALUES (?, ?)"
        " ON CONFLICT (user_nid) DO UPDATE SET pos = excluded.pos",
        changes,
    )
    await tx.many("INSERT INTO chores (kind, user_nid, body) VALUES (?, ?, ?)", asked)


async def ask_others(tx: Transaction, nodes: Collection[str], since: int) -> None:
    """Ask other nodes to tell this one what it has forgotten; see `Reunion`."""
    await tx.run("DELETE FROM chores WHERE kind = ?", REUNION)
    await tx.many(
        "INSERT INTO chores (kind, user_nid, body) VALUES (?, NULL, ?)",
        [(REUNION, orjson.dumps({"node": name, "since": since})) for name in nodes],
    )


async def reunions(tx: Transaction) -> list[Reunion]:
    """The nodes that have yet to tell this one what it has forgotten."""
    rows = await tx.all("SELECT chore_nid, body FROM chores WHERE kind = ? ORDER BY chore_nid", REUNION)
    found: Sequence[tuple[int, dict[str, object]]] = [(row[0], orjson.loads(row[1])) for row in rows]
    return [Reunion(nid, str(body["node"]), int(str(body["since"]))) for nid, body in found]
