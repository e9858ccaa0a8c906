"""Registration tokens, in the deployment's directory database: they belong to nobody, and to no jurisdiction."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


class Token(NamedTuple):
    """A registration token. ``uses_allowed`` None: any number; ``expires_ts`` (ms) None: never."""

    token: str
    uses_allowed: int | None
    completed: int
    expires_ts: int | None


async def create(tx: Transaction, token: str, uses_allowed: int | None, expires_ts: int | None) -> bool:
    """Make a token; False when there is one of that name."""
    made = await tx.run(
        "INSERT INTO registration_tokens (token, uses_allowed, expires_ts) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        token,
        uses_allowed,
        expires_ts,
    )
    return made == 1


async def every(tx: Transaction) -> list[Token]:
    """All tokens."""
    rows = await tx.all("SELECT token, uses_allowed, completed, expires_ts FROM registration_tokens ORDER BY token")
    return [Token(*row) for row in rows]


async def find(tx: Transaction, token: str) -> Token | None:
    """One token."""
    row = await tx.one(
        "SELECT token, uses_allowed, completed, expires_ts FROM registration_tokens WHERE token = ?", token
    )
    return None if row is None else Token(*row)


async def use(tx: Transaction, token: str, now_ms: int) -> bool:
    """Count one use; False, without counting, when the token does not hold (any more)."""
    used = await tx.run(
        "UPDATE registration_tokens SET completed = completed + 1 WHERE token = ?"
        " AND (uses_allowed IS NULL OR completed < uses_allowed) AND (expires_ts IS NULL OR expires_ts > ?)",
        token,
        now_ms,
    )
    return used == 1


async def give_back(tx: Transaction, token: str) -> None:
    """Undo one use: no account came of it."""
    await tx.run("UPDATE registration_tokens SET completed = completed - 1 WHERE token = ? AND completed > 0", token)


async def delete(tx: Transaction, token: str) -> bool:
    """Remove a token; False when there was none."""
    return await tx.run("DELETE FROM registration_tokens WHERE token = ?", token) == 1
