"""What residents report to the operator: events, rooms and users. A report rests with whoever made it.

spec: client-server-api/#reporting-content
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction


class Report(NamedTuple):
    """One report. ``ts``: milliseconds since 1970; ``about``: the user whom, or whose event, it is about."""

    report_id: int
    reporter: str
    ts: int
    room_id: str | None
    event_id: str | None
    about: str | None
    reason: str


async def add(
    tx: Transaction,
    user_nid: int,
    ts: int,
    *,
    room_id: str | None,
    event_id: str | None,
    about: str | None,
    reason: str,
    most: int,
) -> None:
    """Store a report of a resident; beyond ``most`` of theirs, the oldest go."""
    await tx.run(
        "INSERT INTO reports (user_nid, ts, room_id, event_id, about, reason) VALUES (?, ?, ?, ?, ?, ?)",
        user_nid,
        ts,
        room_id,
        event_id,
        about,
        reason,
    )
    await tx.run(
        "DELETE FROM reports WHERE user_nid = ? AND report_id <="
        " (SELECT report_id FROM reports WHERE user_nid = ? ORDER BY report_id DESC LIMIT 1 OFFSET ?)",
        user_nid,
        user_nid,
        most,
    )


@asks_once
async def page(tx: Transaction, after: int, limit: int) -> list[Report]:
    """The reports behind the one with the number ``after``, oldest first."""
    rows = await tx.all(
        "SELECT r.report_id, u.user_id, r.ts, r.room_id, r.event_id, r.about, r.reason FROM reports r"
        " JOIN users u USING (user_nid) WHERE r.report_id > ? ORDER BY r.report_id LIMIT ?",
        after,
        limit,
    )
    return [Report(*row) for row in rows]


async def delete(tx: Transaction, report_id: int) -> bool:
    """Remove a report; False: there is none."""
    return await tx.run("DELETE FROM reports WHERE report_id = ?", report_id) > 0
