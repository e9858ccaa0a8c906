"""What residents have agreed to: that rooms of theirs cross from one jurisdiction to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.engine import Transaction


class Consent(NamedTuple):
    """A yes. ``classes``: names of the data classes that it was told would flow; ``shown``: digest of the page's text;
    times in milliseconds, ``withdrawn_ts`` None while it holds."""

    source: str
    target: str
    classes: tuple[str, ...]
    shown: bytes
    language: str
    policy_serial: int
    given_ts: int
    withdrawn_ts: int | None = None


async def of_user(tx: Transaction, user_nid: int) -> list[Consent]:
    """All that a resident has ever agreed to, the newest first."""
    rows = await tx.all(
        "SELECT source, target, classes, shown, language, policy_serial, given_ts, withdrawn_ts FROM consents"
        " WHERE user_nid = ? ORDER BY given_ts DESC, target",
        user_nid,
    )
    return [Consent(row[0], row[1], tuple(row[2].split()), *row[3:]) for row in rows]


def put(tx: Transaction, user_nid: int, consents: Sequence[Consent]) -> None:
    """Queue what a resident agrees to, in place of what they said before."""
    tx.later(
        "INSERT INTO consents"
        " (user_nid, source, target, classes, shown, language, policy_serial, given_ts, withdrawn_ts)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL) ON CONFLICT (user_nid, source, target) DO UPDATE SET"
        " classes = excluded.classes, shown = excluded.shown, language = excluded.language,"
        " policy_serial = excluded.policy_serial, given_ts = excluded.given_ts, withdrawn_ts = NULL",
        [
            (
                user_nid,
                each.source,
                each.target,
                " ".join(each.classes),
                each.shown,
                each.language,
                each.policy_serial,
                each.given_ts,
            )
            for each in consents
        ],
    )


def withdraw(tx: Transaction, user_nid: int, source: str, targets: Collection[str], now_ms: int) -> None:
    """Queue that a resident takes back what they agreed to. What was taken back stays so since then."""
    tx.later(
        "UPDATE consents SET withdrawn_ts = ?"
        " WHERE user_nid = ? AND source = ? AND target = ? AND withdrawn_ts IS NULL",
        [(now_ms, user_nid, source, target) for target in targets],
    )
