"""The jurisdictions that the deployment leaves, or has left: in the directory, for that outlives their nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from homeserver.storage.directory import NOBODY, Kind

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction

_COLUMNS: Final = "plan, jurisdiction, nodes, state, announced_ts, ends_ts, account, receipt"


class Withdrawal(NamedTuple):
    """A withdrawal; see the schema. ``account``: what has been done so far."""

    plan: str
    jurisdiction: str
    nodes: tuple[str, ...]
    state: str
    announced_ts: int
    ends_ts: int
    account: dict[str, Any]
    receipt: bytes | None


async def announce(tx: Transaction, made: Withdrawal) -> bool:
    """Begin one; False while there is another of the jurisdiction."""
    return (
        await tx.run(
            f"INSERT INTO withdrawals ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, NULL) ON CONFLICT DO NOTHING",
            made.plan,
            made.jurisdiction,
            orjson.dumps(made.nodes).decode(),
            made.state,
            made.announced_ts,
            made.ends_ts,
            orjson.dumps(made.account).decode(),
        )
        == 1
    )


async def every(tx: Transaction) -> list[Withdrawal]:
    """All of them, the oldest first."""
    rows = await tx.all(f"SELECT {_COLUMNS} FROM withdrawals ORDER BY announced_ts, plan")
    return [
        Withdrawal(
            plan,
            jurisdiction,
            tuple(orjson.loads(nodes)),
            state,
            announced_ts,
            ends_ts,
            orjson.loads(account),
            None if receipt is None else bytes(receipt),
        )
        for plan, jurisdiction, nodes, state, announced_ts, ends_ts, account, receipt in rows
    ]


async def open_of(tx: Transaction, jurisdiction: str) -> Withdrawal | None:
    """The one of a jurisdiction that has not come to its end."""
    return next(
        (each for each in await every(tx) if each.jurisdiction == jurisdiction and each.state != "done"),
        None,
    )


async def note(tx: Transaction, plan: str, before: str, state: str, account: dict[str, Any]) -> bool:
    """One has come from one state to another, or is where it was with more to tell; False: it is in another."""
    sql = "UPDATE withdrawals SET state = ?, account = ? WHERE plan = ? AND state = ?"
    return await tx.run(sql, state, orjson.dumps(account).decode(), plan, before) == 1


async def call_off(tx: Transaction, plan: str) -> bool:
    """Have one be none; False when it has gone further than to be announced."""
    return await tx.run("DELETE FROM withdrawals WHERE plan = ? AND state = 'announced'", plan) == 1


async def end(tx: Transaction, plan: str, nodes: tuple[str, ...], receipt: bytes) -> None:
    """One has come to its end: nothing leads to its nodes any more. Names of users stay taken, and are nobody's."""
    for node in nodes:
        await tx.run("UPDATE routes SET node = ? WHERE node = ? AND kind = ?", NOBODY, node, Kind.USER.value)
        await tx.run("DELETE FROM routes WHERE node = ?", node)
        await tx.run("DELETE FROM founded_nodes WHERE node = ?", node)
    await tx.run("UPDATE withdrawals SET state = 'done', receipt = ? WHERE plan = ?", receipt, plan)


# on a node ----------------------------------------------------------------------------------


class Left(NamedTuple):
    """What rests on a node: residents, those of them whose accounts are open, files and their bytes."""

    residents: int
    accounts: int
    files: int
    bytes: int


async def left(tx: Transaction) -> Left:
    """What rests here."""
    row = await tx.one(
        "SELECT (SELECT COUNT(*) FROM residents), (SELECT COUNT(*) FROM accounts WHERE deactivated_ts IS NULL),"
        " (SELECT COUNT(*) FROM media WHERE size IS NOT NULL), (SELECT COALESCE(SUM(size), 0) FROM media)"
    )
    assert row is not None
    return Left(*(int(each) for each in row))


async def residents(tx: Transaction, after: int, limit: int) -> list[tuple[int, str, bool]]:
    """Residents by row id: that, the user id, and whether the account is open."""
    rows = await tx.all(
        "SELECT r.user_nid, u.user_id, CASE WHEN a.user_nid IS NOT NULL AND a.deactivated_ts IS NULL THEN 1 ELSE 0 END"
        " FROM residents r JOIN users u ON u.user_nid = r.user_nid LEFT JOIN accounts a ON a.user_nid = r.user_nid"
        " WHERE r.user_nid > ? ORDER BY r.user_nid LIMIT ?",
        after,
        limit,
    )
    return [(row[0], row[1], bool(row[2])) for row in rows]


async def any_chore(tx: Transaction) -> bool:
    """Whether something is still to be done for a resident."""
    return await tx.one("SELECT 1 FROM chores LIMIT 1") is not None


async def any_move(tx: Transaction) -> bool:
    """Whether somebody is on the way from here, or to here."""
    return await tx.one("SELECT 1 FROM departures UNION ALL SELECT 1 FROM arrivals LIMIT 1") is not None
