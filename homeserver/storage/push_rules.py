"""Push rules of residents, as ``protocol.push_rules`` encodes them. No row: the user has changed nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.storage.engine import Transaction


async def put(tx: Transaction, user_nid: int, ruleset: bytes, pos: int) -> None:
    """Replace a user's ruleset at a position. Only inside `Node.advance`."""
    tx.later(
        "INSERT INTO push_rules (user_nid, ruleset, pos) VALUES (?, ?, ?)"
        " ON CONFLICT (user_nid) DO UPDATE SET ruleset = excluded.ruleset, pos = excluded.pos",
        [(user_nid, ruleset, pos)],
    )


async def find(tx: Transaction, user_nid: int) -> tuple[bytes, int] | None:
    """A user's ruleset and the position at which it was set."""
    row = await tx.one("SELECT ruleset, pos FROM push_rules WHERE user_nid = ?", user_nid)
    return None if row is None else (row[0], int(row[1]))


async def of_users(tx: Transaction, user_nids: Collection[int]) -> dict[int, bytes]:
    """The rulesets of those who have changed something."""
    if not user_nids:
        return {}
    marks = ",".join("?" * len(user_nids))
    rows = await tx.all(f"SELECT user_nid, ruleset FROM push_rules WHERE user_nid IN ({marks})", *user_nids)
    return dict(rows)
