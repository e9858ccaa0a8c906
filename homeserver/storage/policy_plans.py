"""Plans on their way into force, in the directory's database: who has approved which, and the one being applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.protocol.policy_chain import Approval
from homeserver.storage import policy_versions
from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.protocol.policy_chain import Link
    from homeserver.storage.engine import Transaction


class Application(NamedTuple):
    """A plan that is being applied. ``plan``: its digest; ``base``: that of the record on which it was made; ``moves``:
    how many users it moves; ``replaced``: the digest of what stood in residency.toml; ``recorded``: the serial of its
    version once that is in force, 0 before.
    """

    plan: str
    base: str
    text: str
    restores: int | None
    started_ts: int
    moves: int
    replaced: str
    recorded: int = 0


@asks_once
async def approvals(tx: Transaction, plan: str) -> list[Approval]:
    """Who has said yes to a plan."""
    rows = await tx.all("SELECT name, key, signature FROM policy_approvals WHERE plan = ? ORDER BY name", plan)
    return [Approval(*row) for row in rows]


async def approve(tx: Transaction, plan: str, approval: Approval) -> bool:
    """Note somebody's yes; False when they have given one with the key that they have now."""
    changed = await tx.run(
        "INSERT INTO policy_approvals (plan, name, key, signature) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (plan, name) DO UPDATE SET key = excluded.key, signature = excluded.signature"
        " WHERE policy_approvals.key <> excluded.key",
        plan,
        *approval,
    )
    return changed == 1


@asks_once
async def application(tx: Transaction) -> Application | None:
    """The plan that is being applied, if there is one."""
    row = await tx.one(
        "SELECT plan, base, text, restores, started_ts, moves, replaced, recorded FROM policy_application WHERE id = 1"
    )
    return None if row is None else Application(*row)


async def begin(tx: Transaction, application: Application) -> None:
    """Note which plan is being applied, in place of one that has come to nothing."""
    await tx.run("DELETE FROM policy_application WHERE id = 1")
    await tx.run(
        "INSERT INTO policy_application (id, plan, base, text, restores, started_ts, moves, replaced, recorded)"
        " VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)",
        *application,
    )


async def record(tx: Transaction, link: Link, base: str) -> None:
    """Put the version of the plan in force: from here on there is no way back. Raises NotNewest."""
    await policy_versions.append(tx, link, base)
    await tx.run("UPDATE policy_application SET recorded = ? WHERE id = 1", link.serial)


async def end(tx: Transaction) -> None:
    """Nothing is being applied any more."""
    await tx.run("DELETE FROM policy_application WHERE id = 1")
