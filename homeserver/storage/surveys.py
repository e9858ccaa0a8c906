"""What a change of the policy would touch on one node, read page by page: residents, rooms, files, other servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.storage.engine import Transaction


class Resident(NamedTuple):
    """Somebody who rests here, and the conditions of the pin rule that brought them; "" when there was none."""

    user_nid: int
    user_id: str
    rule: str


@asks_once
async def residents(tx: Transaction, after: str, limit: int) -> list[Resident]:
    """Everybody with an account here, in the order of their user ids, behind ``after``."""
    rows = await tx.all(
        "SELECT a.user_nid, u.user_id, COALESCE(p.rule, '') FROM users u JOIN accounts a ON a.user_nid = u.user_nid"
        " LEFT JOIN pins p ON p.user_nid = u.user_nid WHERE u.user_id > ? ORDER BY u.user_id LIMIT ?",
        after,
        limit,
    )
    return [Resident(*row) for row in rows]


@asks_once
async def pinned_by(tx: Transaction, rule: str, after: int, limit: int) -> list[Resident]:
    """Those whom a pin rule brought here, in the order of their row ids, behind ``after``."""
    rows = await tx.all(
        "SELECT p.user_nid, u.user_id, p.rule FROM pins p JOIN users u ON u.user_nid = p.user_nid"
        " WHERE p.rule = ? AND p.rule <> '' AND p.user_nid > ? ORDER BY p.user_nid LIMIT ?",
        rule,
        after,
        limit,
    )
    return [Resident(*row) for row in rows]


@asks_once
async def rooms(tx: Transaction, after: int, limit: int) -> list[tuple[int, str, str | None]]:
    """Rooms that this node knows, in the order of their row ids: (room_nid, room id, home)."""
    rows = await tx.all(
        "SELECT room_nid, room_id, home FROM rooms WHERE room_nid > ? ORDER BY room_nid LIMIT ?", after, limit
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def spans(tx: Transaction, room_nids: Collection[int]) -> tuple[dict[int, set[str]], dict[int, set[str]]]:
    """Which nodes have members in these rooms, and which other servers take part, by row id of the room."""
    nodes: dict[int, set[str]] = {}
    servers: dict[int, set[str]] = {}
    if not room_nids:
        return nodes, servers
    marks = ",".join("?" * len(room_nids))
    for room_nid, node in await tx.all(
        f"SELECT room_nid, node FROM room_nodes WHERE room_nid IN ({marks}) AND members > 0", *room_nids
    ):
        nodes.setdefault(room_nid, set()).add(node)
    for room_nid, server in await tx.all(
        f"SELECT room_nid, server FROM peer_rooms WHERE room_nid IN ({marks}) AND until_pos IS NULL", *room_nids
    ):
        servers.setdefault(room_nid, set()).add(server)
    return nodes, servers


@asks_once
async def joined(tx: Transaction, user_nids: Collection[int]) -> set[str]:
    """The ids of rooms that any of these users has joined."""
    marks = ",".join("?" * len(user_nids))
    rows = await tx.all(
        "SELECT DISTINCT r.room_id FROM memberships m JOIN rooms r ON r.room_nid = m.room_nid"
        f" WHERE m.user_nid IN ({marks}) AND m.membership = 'join'",
        *user_nids,
    )
    return {str(row[0]) for row in rows}


@asks_once
async def media_bytes(tx: Transaction, user_nids: Collection[int]) -> int:
    """Bytes of the files that these residents have uploaded."""
    marks = ",".join("?" * len(user_nids))
    row = await tx.one(f"SELECT SUM(size) FROM media WHERE user_nid IN ({marks})", *user_nids)
    return 0 if row is None or row[0] is None else int(row[0])


@asks_once
async def servers(tx: Transaction, after: str, limit: int) -> list[str]:
    """Other servers that this node has to do with, in the order of their names, behind ``after``."""
    rows = await tx.all("SELECT server FROM peers WHERE server > ? ORDER BY server LIMIT ?", after, limit)
    return [str(row[0]) for row in rows]


@asks_once
async def homes(tx: Transaction, node: str) -> int:
    """How many rooms of which this node has a replica are ordered by a node."""
    row = await tx.one("SELECT COUNT(*) FROM rooms WHERE home = ? AND state_group IS NOT NULL", node)
    return 0 if row is None else int(row[0])
