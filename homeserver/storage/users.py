"""Matrix user ids and their row ids on one node; and who is a resident of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.runtime.parts import in_parts

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.storage.engine import Transaction

# For use inside other statements: the row id of a user id that has been interned.
NID_OF = "(SELECT user_nid FROM users WHERE user_id = ?)"


async def nid(tx: Transaction, user_id: str) -> int | None:
    """The row id of a user known to this node."""
    row = await tx.one("SELECT user_nid FROM users WHERE user_id = ?", user_id)
    return None if row is None else int(row[0])


async def id_of(tx: Transaction, user_nid: int) -> str:
    """The user id behind a row id."""
    row = await tx.one("SELECT user_id FROM users WHERE user_nid = ?", user_nid)
    assert row is not None
    return str(row[0])


async def nids(tx: Transaction, user_ids: Collection[str]) -> dict[str, int]:
    """Row ids of those of ``user_ids`` that this node knows."""
    if not user_ids:
        return {}
    marks = ",".join("?" * len(user_ids))
    rows = await tx.all(f"SELECT user_id, user_nid FROM users WHERE user_id IN ({marks})", *user_ids)
    return {row[0]: row[1] for row in rows}


def intern(tx: Transaction, user_ids: Collection[str]) -> None:
    """Make the ids known to this node, in the transaction's next trip."""
    if user_ids:
        tx.later("INSERT INTO users (user_id) VALUES (?) ON CONFLICT DO NOTHING", [(u,) for u in sorted(set(user_ids))])


async def settle(tx: Transaction, user_id: str) -> int:
    """Make a user a resident of this node; returns their row id.

    The caller has claimed the user's route in the directory for this node: this is the one place from which a
    resident table can come to hold rows of that user.
    """
    intern(tx, [user_id])
    user_nid = await nid(tx, user_id)
    assert user_nid is not None
    await tx.run("INSERT INTO residents (user_nid) VALUES (?) ON CONFLICT DO NOTHING", user_nid)
    return user_nid


async def resident(tx: Transaction, user_id: str) -> int | None:
    """The row id of a resident; None for anybody else."""
    row = await tx.one(
        "SELECT user_nid FROM users JOIN residents USING (user_nid) WHERE user_id = ?",
        user_id,
    )
    return None if row is None else int(row[0])


ANY_RESIDENT = "SELECT 1 FROM residents LIMIT 1"


async def any_resident(tx: Transaction) -> bool:
    """Whether anybody is a resident of this node."""
    return await tx.one(ANY_RESIDENT) is not None


async def residents_among(tx: Transaction, user_ids: Collection[str]) -> list[int]:
    """Row ids of those of the users who are residents of this node."""
    found: list[int] = []
    for part in in_parts(user_ids, 500):
        marks = ",".join("?" * len(part))
        rows = await tx.all(
            f"SELECT user_nid FROM users JOIN residents USING (user_nid) WHERE user_id IN ({marks})", *part
        )
        found += [int(row[0]) for row in rows]
    return found
