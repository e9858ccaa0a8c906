"""One-time and fallback keys of residents' devices. Each one-time key is given out once, the oldest first.

Claims and uploads are writing transactions of the node where the device's owner resides, which exclude each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.runtime.parts import in_parts
from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.storage.engine import Transaction

KEPT_CLAIMED = 200
"""Claimed keys of a device that are remembered."""

AT_ONCE = 500
"""Claims in one statement."""


class OneTimeKey(NamedTuple):
    """A key as its device uploaded it: ``key`` is JSON. ``key_id`` is without the algorithm."""

    algorithm: str
    key_id: str
    key: bytes


class Wanted(NamedTuple):
    """A key that somebody asks for."""

    user_id: str
    device_id: str
    algorithm: str


class Claimed(NamedTuple):
    """A key that was given out."""

    user_id: str
    device_id: str
    device_nid: int
    algorithm: str
    key_id: str
    key: bytes


class Held(NamedTuple):
    """What a device has, as far as an upload is about it.

    ``device_keys``: its identity keys (JSON). ``alone``: its owner is in no room, and no other node holds their keys.
    ``left``: how many one-time keys are left, by algorithm. ``claimed_count``: how many claimed ones are remembered.
    ``one_time_keys`` and ``claimed`` are those with the ids in question; ``fallback`` has all fallback keys, and
    ``used`` the algorithms of those that were used.
    """

    exists: bool
    alone: bool
    device_keys: bytes | None
    left: dict[str, int]
    claimed_count: int
    one_time_keys: list[OneTimeKey]
    claimed: list[OneTimeKey]
    fallback: list[OneTimeKey]
    used: set[str]


_LEFT, _CLAIMED, _COUNT, _TOTAL, _FALLBACK, _USED, _DEVICE, _KEYS, _KNOWN = range(9)
_HELD = (
    # First what has a key: it says which type each column has.
    f"SELECT {_FALLBACK} + used, algorithm, key_id, key, 0 FROM fallback_keys WHERE device_nid = ?"
    f" UNION ALL SELECT {_COUNT}, algorithm, '', NULL, COUNT(*) FROM one_time_keys"
    " WHERE device_nid = ? AND claimed = 0 GROUP BY algorithm"
    f" UNION ALL SELECT {_TOTAL}, '', '', NULL, COUNT(*) FROM one_time_keys WHERE device_nid = ?"
    f" UNION ALL SELECT {_KEYS}, '', '', keys, 0 FROM device_keys WHERE user_nid = ? AND device_id = ?"
    f" UNION ALL SELECT {_DEVICE}, '', '', NULL, 0 FROM devices"
    " WHERE device_nid = ? AND user_nid = ? AND device_id = ?"
    f" UNION ALL SELECT {_KNOWN}, '', '', NULL, 0 FROM residents WHERE user_nid = ? AND ("
    "EXISTS (SELECT 1 FROM memberships m WHERE m.user_nid = residents.user_nid AND m.membership = 'join')"
    " OR EXISTS (SELECT 1 FROM key_holders k WHERE k.user_nid = residents.user_nid))"
    " UNION ALL SELECT claimed, algorithm, key_id, key, 0 FROM one_time_keys"
    " WHERE device_nid = ? AND key_id IN ({marks})"
)


async def held(tx: Transaction, user_nid: int, device_nid: int, device_id: str, key_ids: Collection[str]) -> Held:
    """What a resident's device has; ``key_ids`` (without algorithm): the one-time keys in question. One trip."""
    rows = await tx.all(
        _HELD.format(marks=",".join("?" * len(key_ids)) or "NULL"),
        device_nid,
        device_nid,
        device_nid,
        user_nid,
        device_id,
        device_nid,
        user_nid,
        device_id,
        user_nid,
        device_nid,
        *key_ids,
    )
    by_kind: dict[int, list[tuple[str, str, bytes, int]]] = {}
    for kind, algorithm, key_id, key, count in rows:
        by_kind.setdefault(kind, []).append((algorithm, key_id, key, count))

    def keys(kind: int) -> list[OneTimeKey]:
        return [OneTimeKey(algorithm, key_id, key) for algorithm, key_id, key, _ in by_kind.get(kind, ())]

    left = {algorithm: count for algorithm, _, _, count in by_kind.get(_COUNT, ())}
    identity = by_kind.get(_KEYS)
    used = keys(_USED)
    return Held(
        exists=_DEVICE in by_kind,
        alone=_KNOWN not in by_kind,
        device_keys=None if identity is None else identity[0][2],
        left=left,
        claimed_count=by_kind[_TOTAL][0][3] - sum(left.values()),
        one_time_keys=keys(_LEFT),
        claimed=keys(_CLAIMED),
        fallback=keys(_FALLBACK) + used,
        used={key.algorithm for key in used},
    )


def add(tx: Transaction, user_nid: int, device_nid: int, keys: Sequence[OneTimeKey], held: Held) -> None:
    """Queue new one-time keys; one that takes the id of a claimed key takes its place in memory too.

    What was claimed longest ago is forgotten.
    """
    claimed = {(key.algorithm, key.key_id) for key in held.claimed}
    tx.later(
        "DELETE FROM one_time_keys WHERE device_nid = ? AND algorithm = ? AND key_id = ? AND claimed = 1",
        [(device_nid, key.algorithm, key.key_id) for key in keys if (key.algorithm, key.key_id) in claimed],
    )
    tx.later(
        "INSERT INTO one_time_keys (user_nid, device_nid, algorithm, key_id, key) VALUES (?, ?, ?, ?, ?)",
        [(user_nid, device_nid, *key) for key in keys],
    )
    if held.claimed_count > KEPT_CLAIMED:
        tx.later(
            "DELETE FROM one_time_keys WHERE device_nid = ? AND claimed = 1 AND key_nid NOT IN (SELECT key_nid FROM"
            " one_time_keys WHERE device_nid = ? AND claimed = 1 ORDER BY key_nid DESC LIMIT ?)",
            [(device_nid, device_nid, KEPT_CLAIMED)],
        )


def put_fallback(tx: Transaction, user_nid: int, device_nid: int, keys: Sequence[OneTimeKey]) -> None:
    """Queue fallback keys, one for each algorithm; the one that is there already stays as used as it is."""
    tx.later(
        "INSERT INTO fallback_keys (user_nid, device_nid, algorithm, key_id, key) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (device_nid, algorithm) DO UPDATE SET used = CASE"
        " WHEN fallback_keys.key_id = excluded.key_id AND fallback_keys.key = excluded.key"
        " THEN fallback_keys.used ELSE 0 END, key_id = excluded.key_id, key = excluded.key",
        [(user_nid, device_nid, *key) for key in keys],
    )


@asks_once
async def counts(tx: Transaction, device_nid: int) -> tuple[dict[str, int], list[str], bool]:
    """How many one-time keys of each algorithm are left, and the algorithms of fallback keys that were never used;
    and whether a message waits for the device, so that nobody has to ask that with a trip of its own."""
    rows = await tx.all(
        "SELECT 0, algorithm, COUNT(*) FROM one_time_keys WHERE device_nid = ? AND claimed = 0 GROUP BY algorithm"
        " UNION ALL SELECT 1, algorithm, 0 FROM fallback_keys WHERE device_nid = ? AND used = 0"
        " UNION ALL SELECT 2, '', 0 WHERE EXISTS (SELECT 1 FROM to_device WHERE device_nid = ?)",
        device_nid,
        device_nid,
        device_nid,
    )
    left = {algorithm: count for kind, algorithm, count in rows if kind == 0}
    return left, sorted(row[1] for row in rows if row[0] == 1), any(row[0] == 2 for row in rows)


async def claim(tx: Transaction, wanted: Sequence[Wanted]) -> list[Claimed]:
    """Take a key for each device that has one: its oldest one-time key, else its fallback key."""
    found: list[Claimed] = []
    for part in in_parts(wanted, AT_ONCE):
        found += await _claim(tx, part)
    return found


async def _claim(tx: Transaction, wanted: Sequence[Wanted]) -> list[Claimed]:
    asked = await tx.all(
        f"WITH {_wanted(len(wanted))}"
        " SELECT u.user_id, d.device_id, d.device_nid, w.algorithm, (SELECT MIN(k.key_nid) FROM one_time_keys k"
        " WHERE k.device_nid = d.device_nid AND k.algorithm = w.algorithm AND k.claimed = 0)"
        " FROM wanted w JOIN users u ON u.user_id = w.user_id"
        " JOIN devices d ON d.user_nid = u.user_nid AND d.device_id = w.device_id",
        *(part for each in wanted for part in each),
    )
    places = {row[4]: (row[0], row[1], row[2], row[3]) for row in asked if row[4] is not None}
    found = []
    if places:
        rows = await tx.all(
            f"UPDATE one_time_keys SET claimed = 1 WHERE key_nid IN ({','.join('?' * len(places))})"
            " RETURNING key_nid, key_id, key",
            *places,
        )
        found = [Claimed(*places[key_nid], key_id, key) for key_nid, key_id, key in rows]
    empty = {(row[2], row[3]): (row[0], row[1], row[2], row[3]) for row in asked if row[4] is None}
    return found + await _fall_back(tx, empty)


async def _fall_back(tx: Transaction, empty: dict[tuple[int, str], tuple[str, str, int, str]]) -> list[Claimed]:
    """The fallback keys of devices that have no one-time key left, which are used from now on."""
    if not empty:
        return []
    marks = ",".join("(?, ?)" for _ in empty)
    rows = await tx.all(
        f"UPDATE fallback_keys SET used = 1 WHERE (device_nid, algorithm) IN (VALUES {marks})"
        " RETURNING device_nid, algorithm, key_id, key",
        *(part for place in empty for part in place),
    )
    return [Claimed(*empty[device_nid, algorithm], key_id, key) for device_nid, algorithm, key_id, key in rows]


def _wanted(count: int) -> str:
    return f"wanted (user_id, device_id, algorithm) AS (VALUES {','.join(['(?, ?, ?)'] * count)})"
