"""Copying what a user owns to the node that they go to, while they go on using it: round after round, each ships what
has changed since the one before.

What is shipped is staged there in one table that means nothing to anybody else.
"""

from __future__ import annotations

from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any

import orjson

from homeserver.residency.moves import carrying
from homeserver.residency.moves.journal import Impossible
from homeserver.storage import belongings
from homeserver.storage import moves as stored
from homeserver.storage.belongings import BELONGINGS, CARRIED, PAGE, BelongingRow

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.residency.moves.journal import Move
    from homeserver.storage.belongings import Belonging
    from homeserver.storage.engine import Param, Transaction

MEMBERSHIPS = "memberships"
"""Rows beside the belongings: what of a room is known by an invitation, a knock or a leaving only."""

LARGE = 2_000
"""Rows of a table that nobody but their owner writes, from which on it is not read again while nobody may write."""

OWN_ONLY = frozenset({"backup_sessions", "media", "client_transactions", "event_transactions", "account_data"})
"""Tables that are written by requests of the owner alone."""

Rows = dict[str, list[BelongingRow]]
"""Rows by table."""


def _mark(row: BelongingRow) -> bytes:
    return blake2b(row.content, digest_size=16, salt=str(row.place or 0).encode()[-16:]).digest()


async def _remembered(move: Move) -> dict[str, dict[str, bytes]]:
    """What has been staged; read once, when the server was started anew meanwhile."""
    if move.staged is None:
        found: dict[str, dict[str, bytes]] = {}
        for table in [*BELONGINGS, MEMBERSHIPS]:
            marks: dict[str, bytes] = {}
            after = ""
            while part := await move.target.read(stored.staged, move.move_id, table, after, PAGE):
                marks.update({row.key: _mark(row) for row in part})
                after = part[-1].key
            found[table] = marks
        move.staged = found
    return move.staged


async def copy_round(server: Server, move: Move) -> int:
    """Ship what has changed since the last round; returns how many rows that were. Raises NodeUnavailable."""
    staged = await _remembered(move)
    changed = 0
    for belonging in CARRIED:
        changed += await _copy_table(move, belonging, staged[belonging.table])
    members = await move.source.read(carrying.memberships, move.user_nid)
    return changed + await _ship(move, MEMBERSHIPS, members, staged[MEMBERSHIPS], {row.key for row in members})


async def _copy_table(move: Move, belonging: Belonging, staged: dict[str, bytes]) -> int:
    after: Sequence[Param] = ()
    seen: set[str] = set()
    changed = 0
    while True:
        part, after = await move.source.read(belongings.page, belonging, move.user_nid, after, len(seen))
        seen.update(row.key for row in part)
        changed += await _ship(move, belonging.table, part, staged, None)
        if len(part) < PAGE:
            return changed + await _ship(move, belonging.table, [], staged, seen)


async def _ship(
    move: Move, table: str, rows: Iterable[BelongingRow], staged: dict[str, bytes], left: Collection[str] | None
) -> int:
    """Stage those of the rows that differ; of the keys, ``left`` are all that there are."""
    fresh = {row.key: (row, mark) for row in rows if staged.get(row.key) != (mark := _mark(row))}
    gone = [] if left is None else [key for key in staged if key not in left]
    if fresh or gone:
        await move.target.write(stored.stage, move.move_id, table, [row for row, _ in fresh.values()], gone)
        staged.update({key: mark for key, (_, mark) in fresh.items()})
        for key in gone:
            del staged[key]
    return len(fresh) + len(gone)


# the last round -----------------------------------------------------------------------------


async def look(tx: Transaction, user_nid: int, skipped: Collection[str] = ()) -> Rows:
    """All that a user owns, at one moment, but for the tables that are ``skipped``; of these one row says how many rows
    there are."""
    found: Rows = {}
    for belonging in BELONGINGS.values():
        if belonging.table in skipped:
            number = await belongings.count(tx, belonging, user_nid)
            found[belonging.table] = [BelongingRow("[]", orjson.dumps(number))]
        elif belonging in CARRIED:
            found[belonging.table] = await belongings.all_of(tx, belonging, user_nid)
    found[MEMBERSHIPS] = await carrying.memberships(tx, user_nid)
    return found


async def ship_last(move: Move, rows: Rows) -> int:
    """Stage what a last look found."""
    staged = await _remembered(move)
    changed = 0
    for table, found in rows.items():
        changed += await _ship(move, table, found, staged[table], {row.key for row in found})
    return changed


def encoded(account: Mapping[str, Any]) -> bytes:
    """The account of a move as it is stored."""
    return orjson.dumps(account, option=orjson.OPT_SORT_KEYS)


def digests(rows: Rows) -> dict[str, str]:
    """SHA-256 over the rows of each table that has any: the same on every node."""
    return {table: digest(found) for table, found in sorted(rows.items()) if found}


def counted(rows: Rows) -> dict[str, dict[str, Any]]:
    """How many rows of each table there are, and their `digest`: what a receipt says."""
    return {table: {"rows": len(found), "sha256": digest(found)} for table, found in sorted(rows.items()) if found}


def digest(rows: Iterable[BelongingRow]) -> str:
    """SHA-256 over the keys and contents of rows, in the order of the keys, in hexadecimal."""
    whole = sha256()
    for row in sorted(rows):
        key = row.key.encode()
        whole.update(b"%d %s %d " % (len(key), key, len(row.content)) + row.content)
    return whole.hexdigest()


def skippable(rows: Rows) -> list[str]:
    """The tables that need not be read once more while nobody may write."""
    return [table for table, found in rows.items() if table in OWN_ONLY and len(found) > LARGE]


def same(before: Rows, after: Rows, skipped: Collection[str]) -> bool:
    """Whether nothing has changed between two looks, of which the second skipped some tables."""
    for table, found in after.items():
        if table in skipped:
            if orjson.loads(found[0].content) != len(before[table]):
                return False
        elif digest(found) != digest(before[table]) or _places(found) != _places(before[table]):
            return False
    return True


def _places(rows: Iterable[BelongingRow]) -> list[int | None]:
    return [row.place for row in sorted(rows)]


def check_digests(expected: Mapping[str, str], found: Mapping[str, str], where: str) -> None:
    """Raise Impossible where rows are not what they were."""
    wrong = sorted(table for table in expected.keys() | found.keys() if expected.get(table) != found.get(table))
    if wrong:
        raise Impossible(f"what was copied to {where} differs in {', '.join(wrong)}: report this as a fault")
