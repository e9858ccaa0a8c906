"""What the state events of a node cite as their authority, so that auth chains are followed inside the database.

Only state events have rows here: no event cites a message. What an event that is no state event cites stands in the
event itself. A link may lead to an event that the node does not have (yet).

spec: server-server-api/#auth-events-selection
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.runtime.parts import in_parts
from homeserver.storage import events

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import StoredEvent

AT_ONCE: Final = 5000
"""Events that a statement begins from."""


async def chain(tx: Transaction, event_ids: Collection[str]) -> set[str]:
    """All events in the auth chains of some state events; of these themselves those in the chain of another.

    One trip for each 5,000 of them, however long the chains are.
    """
    found: set[str] = set()
    for part in in_parts(event_ids, AT_ONCE):
        rows = await tx.all(
            "WITH RECURSIVE chain (event_id) AS ("
            " SELECT l.cites FROM events e JOIN auth_links l ON l.event_nid = e.event_nid"
            f" WHERE e.event_id IN ({_marks(part)})"
            " UNION SELECT l.cites FROM chain c JOIN events e ON e.event_id = c.event_id"
            " JOIN auth_links l ON l.event_nid = e.event_nid) SELECT event_id FROM chain",
            *part,
        )
        found.update(row[0] for row in rows)
    return found


async def chain_of_state(tx: Transaction, event_ids: Collection[str]) -> set[str]:
    """`chain` for the events of a whole state. Few events are cited by many: these alone are followed further."""
    direct: set[str] = set()
    for part in in_parts(event_ids, AT_ONCE):
        rows = await tx.all(
            "SELECT DISTINCT l.cites FROM events e JOIN auth_links l ON l.event_nid = e.event_nid"
            f" WHERE e.event_id IN ({_marks(part)})",
            *part,
        )
        direct.update(row[0] for row in rows)
    return direct | await chain(tx, direct - set(event_ids))


async def edges(tx: Transaction, event_ids: Collection[str], most: int) -> dict[str, list[str]]:
    """What state events cite, and what these cite, and so on: of at least those asked for, and ``most`` others.

    The nearest come first. Those that the node does not have are left out.
    """
    found: dict[str, list[str]] = {}
    for part in in_parts(event_ids, AT_ONCE):
        rows = await tx.all(
            f"{_near(part)} SELECT n.event_id, l.cites FROM near n JOIN events e ON e.event_id = n.event_id"
            " LEFT JOIN auth_links l ON l.event_nid = e.event_nid",
            *part,
            len(part) + most,
        )
        for event_id, cites in rows:
            links = found.setdefault(event_id, [])
            if cites is not None and cites not in links:
                links.append(cites)
    return found


async def near(
    tx: Transaction, event_ids: Collection[str], most: int, room_nid: int | None = None
) -> list[StoredEvent]:
    """The same events as of `edges`, whole; with ``room_nid`` only those of that room."""
    found: set[str] = set()
    for part in in_parts(event_ids, AT_ONCE):
        rows = await tx.all(f"{_near(part)} SELECT event_id FROM near", *part, len(part) + most)
        found.update(row[0] for row in rows)
    return await (events.by_ids(tx, found) if room_nid is None else events.of_room(tx, room_nid, found))


def _near(part: Collection[str]) -> str:
    return (
        f"WITH RECURSIVE chain (event_id) AS (SELECT event_id FROM events WHERE event_id IN ({_marks(part)})"
        " UNION SELECT l.cites FROM chain c JOIN events e ON e.event_id = c.event_id"
        " JOIN auth_links l ON l.event_nid = e.event_nid), near AS (SELECT event_id FROM chain LIMIT ?)"
    )


def _marks(part: Collection[str]) -> str:
    return ",".join("?" * len(part))
