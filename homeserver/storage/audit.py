"""What an auditor asks of a node's database: whose rows rest there, and what justifies a copy.

The statements are made from `storage.tables`, so that a table that is added is audited. They read whole tables, a part
at a time where these grow with what people write; nobody waits for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from homeserver.storage.tables import TABLES, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from homeserver.storage.engine import Transaction

SPAN: Final = 50_000
"""Row ids of events that are looked at in one statement."""


class Held(NamedTuple):
    """How many rows somebody owns in a table; ``user_id`` is None for an owner whom the node has no name for."""

    user_id: str | None
    rows: int


class Misfit(NamedTuple):
    """Rows of a table that nothing on the node justifies; ``user_id``: whose they are, where they are somebody's."""

    table: str
    user_id: str | None
    rows: int


def resident_tables() -> Iterator[Table]:
    """The tables whose rows may rest on the owner's node only."""
    return (table for table in TABLES.values() if table.resident)


async def owners(tx: Transaction, table: Table) -> list[Held]:
    """Whose rows a resident table has."""
    rows = await tx.all(
        f"SELECT u.user_id, COUNT(*) FROM {table.name} t LEFT JOIN users u ON u.user_nid = t.{table.owner}"
        f" WHERE t.{table.owner} IS NOT NULL GROUP BY u.user_id ORDER BY u.user_id"
    )
    return [Held(*row) for row in rows]


async def residents(tx: Transaction) -> list[Held]:
    """Whom the node takes for its residents."""
    rows = await tx.all(
        "SELECT u.user_id, 1 FROM residents r LEFT JOIN users u ON u.user_nid = r.user_nid ORDER BY u.user_id"
    )
    return [Held(*row) for row in rows]


# What a node may have a copy of: rooms in which one of its residents is, was, or is invited.
# Rooms of somebody who is being moved here are here before them.
_JUSTIFIED: Final = (
    "SELECT m.room_nid FROM memberships m JOIN residents r ON r.user_nid = m.user_nid"
    " UNION ALL SELECT m.room_nid FROM arrivals a JOIN users u ON u.user_id = a.user_id"
    " JOIN memberships m ON m.user_nid = u.user_nid"
)

_BY_ROOM: Final = ("current_state", "room_nodes", "relations", "threads", "aliases", "receipts", "network_rooms")
"""Tables of copies whose rows name their room."""

_BY_EVENT: Final = ("member_names", "openings", "auth_links", "waiting_redactions")
"""Tables of copies whose rows name an event."""


async def rooms_of_nobody(tx: Transaction) -> list[Misfit]:
    """Copies of rooms that no resident has to do with."""
    found = []
    for name in ("events", *_BY_ROOM):
        # An event without a place is on its way in, or known as authority only.
        within = " AND t.pos IS NOT NULL" if name == "events" else ""
        row = await tx.one(f"SELECT COUNT(*) FROM {name} t WHERE t.room_nid NOT IN ({_JUSTIFIED}){within}")
        if row is not None and row[0]:
            found.append(Misfit(name, None, int(row[0])))
    return found


async def about_nothing(tx: Transaction) -> list[Misfit]:
    """Rows about events that are not there."""
    found = []
    for name in _BY_EVENT:
        via = TABLES[name].via
        row = await tx.one(
            f"SELECT COUNT(*) FROM {name} t LEFT JOIN events e ON e.event_nid = t.{via} WHERE e.event_nid IS NULL"
        )
        if row is not None and row[0]:
            found.append(Misfit(name, None, int(row[0])))
    return found


async def last_event(tx: Transaction) -> int:
    """The highest row id of an event; 0 without any."""
    row = await tx.one("SELECT MAX(event_nid) FROM events")
    return 0 if row is None or row[0] is None else int(row[0])


async def events_of_strangers(tx: Transaction, after: int) -> list[Misfit]:
    """Events in timelines of rooms that their senders never were in, of a span of row ids behind ``after``."""
    rows = await tx.all(
        "SELECT u.user_id, COUNT(*) FROM events e LEFT JOIN users u ON u.user_nid = e.sender_nid"
        " WHERE e.event_nid > ? AND e.event_nid <= ? AND e.pos IS NOT NULL AND e.verdict = 0 AND NOT EXISTS"
        " (SELECT 1 FROM memberships m WHERE m.user_nid = e.sender_nid AND m.room_nid = e.room_nid)"
        " GROUP BY u.user_id",
        after,
        after + SPAN,
    )
    return [Misfit("events", *row) for row in rows]


async def receipts_of_strangers(tx: Transaction) -> list[Misfit]:
    """Receipts in rooms that those who read never were in."""
    rows = await tx.all(
        "SELECT u.user_id, COUNT(*) FROM receipts c LEFT JOIN users u ON u.user_nid = c.user_nid WHERE NOT EXISTS"
        " (SELECT 1 FROM memberships m WHERE m.user_nid = c.user_nid AND m.room_nid = c.room_nid) GROUP BY u.user_id"
    )
    return [Misfit("receipts", *row) for row in rows]


class KeyCopy(NamedTuple):
    """Whose public keys a node has a copy of, in which table, and the node that it has them from: None for none, and
    "" for another server.
    """

    table: str
    user_id: str | None
    rows: int
    source: str | None


async def key_copies(tx: Transaction) -> list[KeyCopy]:
    """The public keys of those who are no residents."""
    found = []
    for name in ("device_keys", "cross_signing_keys"):
        rows = await tx.all(
            "SELECT u.user_id, COUNT(*), MAX(COALESCE(k.source, CASE WHEN d.user_nid IS NULL THEN NULL ELSE '' END))"
            f" FROM {name} t LEFT JOIN users u ON u.user_nid = t.user_nid"
            " LEFT JOIN residents r ON r.user_nid = t.user_nid"
            " LEFT JOIN key_replicas k ON k.user_nid = t.user_nid"
            " LEFT JOIN remote_device_lists d ON d.user_nid = t.user_nid"
            " WHERE r.user_nid IS NULL GROUP BY u.user_id"
        )
        found += [KeyCopy(name, *row) for row in rows]
    return found


async def members_from_elsewhere(tx: Transaction) -> list[Held]:
    """Who is or was in a room that the node has a copy of, and is no resident; ``rows``: in how many rooms."""
    rows = await tx.all(
        "SELECT u.user_id, COUNT(*) FROM memberships m JOIN users u ON u.user_nid = m.user_nid"
        " LEFT JOIN residents r ON r.user_nid = m.user_nid WHERE r.user_nid IS NULL GROUP BY u.user_id"
    )
    return [Held(*row) for row in rows]


async def file_names(tx: Transaction) -> dict[str, str]:
    """The media that rows speak of: id, and the beginning of the digest in the names of their files."""
    found = {}
    for sql in (
        "SELECT media_id, digest FROM media WHERE digest IS NOT NULL",
        "SELECT file_id, digest FROM remote_media",
    ):
        for name, digest in await tx.all(sql):
            found[str(name)] = bytes(digest).hex()[:16]
    return found
