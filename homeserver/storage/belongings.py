"""What a user owns on a node, table by table, in a form that means the same on every node.

Row ids and positions mean something on one node only: here a device is its device id, a room its room id, and a
position is left out, so that the same belongings read the same wherever they rest. `tests/storage/test_belongings.py`
holds the list against the schema: a table of a user's that is not dealt with here fails it.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from homeserver.storage.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from homeserver.storage.engine import Param, Row, Transaction

PAGE = 500
"""Rows that are read together."""


class Column(Enum):
    """What a column holds, as far as it is translated."""

    VALUE = auto()
    DEVICE = auto()  # device_nid of the same owner, or NULL or 0
    ROOM = auto()  # room_nid, or 0
    EVENT_PLACE = auto()  # position in the timeline of the event in `event_id`, of the room in `room_nid`
    POSITION = auto()  # a fresh one on the other node, in the order of the rows
    ARRIVAL = auto()  # the position at which the owner arrives


class Fate(Enum):
    """What becomes of the rows of a table when their owner moves."""

    CARRIED = auto()
    WAKES = auto()
    """Carried, and written once the user is there: until then they would have things done in two places."""
    DERIVED = auto()
    """Made anew there from what else is there; or worth nothing there. Erased here."""
    AWAITED = auto()
    """Work that is done here before the user goes."""


@dataclass(frozen=True, slots=True)
class Belonging:
    """A table of a user's. ``key``: columns that tell the owner's rows apart on any node; ``rest``: the others, but for
    the owner and row ids of no meaning. ``order``: columns by which rows are read page by page, unique for an owner.

    ``counted``: rows that have no name are told apart by their place in that order.
    """

    table: str
    key: Mapping[str, Column]
    rest: Mapping[str, Column]
    order: Sequence[str]
    fate: Fate = Fate.CARRIED
    counted: bool = False
    place: str | None = None
    """The column with a row's position, which is told beside it."""

    @property
    def owner(self) -> str:
        """The owner's column."""
        return TABLES[self.table].owner or ""

    @property
    def columns(self) -> dict[str, Column]:
        """All columns that are translated."""
        return {**self.key, **self.rest}


_WORDS = {
    "device": Column.DEVICE,
    "room": Column.ROOM,
    "event": Column.EVENT_PLACE,
    "pos": Column.POSITION,
    "arrival": Column.ARRIVAL,
}


def _columns(text: str) -> dict[str, Column]:
    """``name`` or ``name:what``."""
    found = {}
    for word in text.split():
        name, _, what = word.partition(":")
        found[name] = _WORDS[what] if what else Column.VALUE
    return found


def _own(
    table: str, key: str, rest: str, order: str = "", fate: Fate = Fate.CARRIED, *, place: str | None = None
) -> Belonging:
    by = (order or key.replace(":device", "")).split()
    return Belonging(table, _columns(key), _columns(rest), by, fate, place=place)


def _row_of(table: str, rest: str, order: str, fate: Fate = Fate.CARRIED, *, place: str | None = None) -> Belonging:
    return Belonging(table, {}, _columns(rest), order.split(), fate, counted=True, place=place)


def _dropped(table: str, fate: Fate = Fate.DERIVED) -> Belonging:
    return Belonging(table, {}, {}, (), fate)


# In the order in which they are written: devices before what belongs to them.
_LIST = (
    _own("accounts", "", "password_hash created_ts admin guest locked suspended deactivated_ts", "created_ts"),
    _own("devices", "device_id", "display_name created_ts", "device_nid"),
    _own("threepids", "medium address", "validated_ts added_ts"),
    _own("access_tokens", "token_hash", "device_nid:device expires_ts refresh_hash"),
    _own("refresh_tokens", "token_hash", "device_nid:device next_hash expires_ts"),
    _own("oauth_sessions", "device_nid:device", "client_id scope lineage generation"),
    _own(
        "oauth_grants",
        "code_hash",
        "client_id device_id scope redirect_uri challenge expires_ts device_nid:device",
    ),
    _own("browser_sessions", "session_hash", "confirmed_ts expires_ts"),
    _own("upstream_identities", "provider subject", ""),
    _own("account_data", "room_nid:room type", "content pos:pos", "room_nid type"),
    _own("push_rules", "", "ruleset pos:pos", "pos"),
    _own("filters", "filter_id", "definition"),
    _own("forgotten_rooms", "room_nid:room", "", "room_nid"),
    _own(
        "private_receipts",
        "room_nid:room thread_id",
        "event_id event_pos:event ts pos:pos",
        "room_nid thread_id",
    ),
    _own("client_transactions", "txn_key", "device_nid:device txn_id ts asked_node"),
    _own("dehydrated_devices", "device_nid:device", "device_data"),
    _row_of("reports", "ts room_id event_id about reason", "report_id"),
    _own("thread_subscriptions", "room_nid:room root_id", "pos:pos subscribed automatic", "room_nid root_id"),
    _own("backup_versions", "version", "algorithm auth_data etag deleted"),
    _own(
        "backup_sessions",
        "version room_id session_id",
        "first_message_index forwarded_count is_verified session_data",
    ),
    _row_of("to_device", "pos:pos device_nid:device message", "pos", place="pos"),
    _own("user_signatures", "target_user_id target_key_id signing_key_id", "signature pos:pos"),
    _own("key_holders", "node", ""),
    _own("key_manifests", "", "tag keys", "tag"),
    _row_of("one_time_keys", "device_nid:device algorithm key_id key claimed", "key_nid"),
    _own("fallback_keys", "device_nid:device algorithm", "key_id key used", "device_nid algorithm"),
    _own("invitations", "room_nid:room", "state", "room_nid"),
    _own("presence", "", "presence status_msg last_active_ts", "last_active_ts"),
    _own("profiles", "field", "value"),
    _own("media", "media_id", "content_type filename size digest created_ts expires_ts asked_ts"),
    _own("consents", "source target", "classes shown language policy_serial given_ts withdrawn_ts"),
    _own("roles", "role", "given_ts"),
    _own("admin_log", "seq", "entry"),
    _own("admin_log_heads", "", "entries digest", "entries"),
    _own("earlier_homes", "epoch", "node left_pos came_pos"),
    _own("move_receipts", "move_id", "ended_ts receipt"),
    # Public, or of rooms, and so in tables of which replicas exist.
    _own("device_keys", "device_id", "keys unsigned_since withheld awaited"),
    _own("cross_signing_keys", "usage", "key"),
    _own("event_transactions", "txn_key", "event_id ts"),
    _own("receipts", "room_nid:room thread_id", "event_id event_pos:event ts pos:pos", "room_nid thread_id"),
    # What has something done.
    _own(
        "pushers",
        "app_id pushkey",
        "device_nid:device definition set_ts pushed_to:arrival failures failing_ts retry_ts",
        fate=Fate.WAKES,
    ),
    _row_of(
        "delayed_events",
        "delay_id device_nid:device txn_key room_id type state_key content"
        " delay_ms running_since due_ts ended_ts action sticky_ms",
        "delayed_nid",
        Fate.WAKES,
    ),
    _row_of("peer_edus", "pos:pos server class kind content", "pos", Fate.WAKES),
    # What stays behind.
    _dropped("sessions"),  # sealed to a key of this node, and never to leave its jurisdiction
    _dropped("device_days"),
    _dropped("unread_counts"),  # counted anew
    _dropped("sliding_positions"),  # full of positions of this node: their clients begin anew
    _dropped("carried_letters"),  # of the move before this one
    _dropped("departures"),
    _dropped("pins"),  # they are pinned there for another reason
    _dropped("device_list_changes"),  # goes by itself, see moves.take_over_keys
    _dropped("chores", Fate.AWAITED),
    _dropped("application_services", Fate.AWAITED),  # their users do not move
)

BELONGINGS: Mapping[str, Belonging] = {each.table: each for each in _LIST}

IN_ROOMS = frozenset(
    [
        *("users", "events", "relations", "memberships", "erased_users", "aliases"),
        *("key_replicas", "remote_device_lists", "carried_proofs"),
    ]
)
"""Tables with an owner in which rows are those of replicas of rooms, or copies of what is at home elsewhere: they come
and go with the rooms."""


REPLICATED = ("receipts", "event_transactions")
"""Tables of which replicas of rooms bring rows."""

CARRIED = tuple(each for each in _LIST if each.fate in (Fate.CARRIED, Fate.WAKES))


class BelongingRow(NamedTuple):
    """A row of a user's. ``key`` and ``content`` are JSON and mean the same on every node; ``place``: its position."""

    key: str
    content: bytes
    place: int | None = None


def _read_sql(belonging: Belonging, *, first: bool) -> str:
    names = list(belonging.columns)
    shown = []
    joins = ""
    for name, kind in belonging.columns.items():
        if kind is Column.DEVICE:
            # One that is gone is none that there never was: a grant that was taken up stays taken up.
            shown.append(f"CASE WHEN t.{name} IS NULL THEN NULL ELSE COALESCE(d.device_id, '') END")
            joins += f" LEFT JOIN devices d ON d.device_nid = t.{name} AND d.user_nid = t.{belonging.owner}"
        elif kind is Column.ROOM:
            shown.append("r.room_id")
            joins += f" LEFT JOIN rooms r ON r.room_nid = t.{name}"
        elif kind in (Column.POSITION, Column.EVENT_PLACE, Column.ARRIVAL):
            continue
        else:
            shown.append(f"t.{name}")
    assert names or not belonging.counted
    order = ", ".join(f"t.{name}" for name in belonging.order)
    place = "NULL" if belonging.place is None else f"t.{belonging.place}"
    marks = ", ".join("?" * len(belonging.order))
    behind = "" if first else f" AND ({order}) > ({marks})"
    return (
        f"SELECT {', '.join([*shown, place, order])} FROM {belonging.table} t{joins}"
        f" WHERE t.{belonging.owner} = ?{behind} ORDER BY {order} LIMIT ?"
    )


def _shown(belonging: Belonging) -> list[str]:
    """The columns that are read, in their order."""
    hidden = (Column.POSITION, Column.EVENT_PLACE, Column.ARRIVAL)
    return [name for name, kind in belonging.columns.items() if kind not in hidden]


async def page(
    tx: Transaction, belonging: Belonging, user_nid: int, after: Sequence[Param], number: int, limit: int = PAGE
) -> tuple[list[BelongingRow], Sequence[Param]]:
    """Rows of a user behind ``after`` (empty: from the first on), of which ``number`` have been read; and behind what
    the next page begins."""
    sql = _read_sql(belonging, first=not after)
    rows = await tx.all(sql, user_nid, *after, limit)
    names = _shown(belonging)
    found = [_neutral(belonging, names, row, number + at) for at, row in enumerate(rows)]
    return found, (tuple(rows[-1][len(names) + 1 :]) if rows else after)


async def all_of(tx: Transaction, belonging: Belonging, user_nid: int) -> list[BelongingRow]:
    """All rows of a user in a table, on one snapshot."""
    found: list[BelongingRow] = []
    after: Sequence[Param] = ()
    while True:
        part, after = await page(tx, belonging, user_nid, after, len(found))
        found += part
        if len(part) < PAGE:
            return found


def _neutral(belonging: Belonging, names: Sequence[str], row: Row, number: int) -> BelongingRow:
    values = dict(zip(names, row, strict=False))
    place = row[len(names)]
    key = [number] if belonging.counted else [_plain(values[name]) for name in belonging.key]
    content = [_plain(values[name]) for name in names if name not in belonging.key]
    return BelongingRow(orjson.dumps(key).decode(), orjson.dumps(content), place)


def _plain(value: Any) -> Any:
    return {"bytes": b64encode(value).decode()} if isinstance(value, bytes) else value


def _rich(value: Any) -> Param:
    return b64decode(value["bytes"]) if isinstance(value, dict) else value


def values_of(belonging: Belonging, row: BelongingRow) -> dict[str, Param]:
    """The columns of a row, without positions; a device by its id, a room by its id."""
    names = _shown(belonging)
    keys = [] if belonging.counted else orjson.loads(row.key)
    found = dict(zip(belonging.key, map(_rich, keys), strict=False))
    found.update(
        zip((name for name in names if name not in belonging.key), map(_rich, orjson.loads(row.content)), strict=True)
    )
    return found


class Translation(NamedTuple):
    """What row ids and positions are on the node where rows are written. ``devices``, ``rooms``: row ids by Matrix id;
    ``places``: of events in timelines; ``arrival``: the position at which the owner arrives."""

    user_nid: int
    devices: Mapping[str, int]
    rooms: Mapping[str, int]
    places: Mapping[str, int]
    arrival: int


def write(
    tx: Transaction, belonging: Belonging, rows: Sequence[BelongingRow], known: Translation, first: int
) -> list[int]:
    """Queue rows of a user who arrives, with positions from ``first`` on where they have one; returns these.

    What is told of an event that is nowhere in the timeline stands before all of it.
    """
    names = [belonging.owner, *belonging.columns]
    marks = ", ".join("?" * len(names))
    made: list[Sequence[Param]] = []
    positions: list[int] = []
    for row in rows:
        values = values_of(belonging, row)
        line: list[Param] = [known.user_nid]
        for name, kind in belonging.columns.items():
            value = values.get(name)
            if kind is Column.DEVICE:
                line.append(None if value is None else known.devices.get(str(value), 0))
            elif kind is Column.ROOM:
                line.append(0 if value is None else known.rooms[str(value)])
            elif kind is Column.EVENT_PLACE:
                line.append(known.places.get(str(values["event_id"]), -(2**62)))
            elif kind is Column.POSITION:
                positions.append(first + len(positions))
                line.append(positions[-1])
            elif kind is Column.ARRIVAL:
                line.append(known.arrival)
            else:
                line.append(value)
        made.append(line)
    tx.later(f"INSERT INTO {belonging.table} ({', '.join(names)}) VALUES ({marks})", made)
    return positions


def raw_key(key: str) -> bytes:
    """The bytes in the key of a row whose key is one column of bytes."""
    return bytes(_rich(orjson.loads(key)[0]))  # type: ignore[arg-type]


def has_positions(belonging: Belonging) -> bool:
    """Whether its rows take positions of the node."""
    return Column.POSITION in belonging.columns.values()


def rooms_in(belonging: Belonging, rows: Iterable[BelongingRow]) -> set[str]:
    """The rooms that rows are about."""
    names = [name for name, kind in belonging.columns.items() if kind is Column.ROOM]
    found = (values_of(belonging, row)[name] for name in names for row in rows)
    return {str(room_id) for room_id in found if room_id is not None}


def events_in(belonging: Belonging, rows: Iterable[BelongingRow]) -> set[str]:
    """The events whose places in the timeline rows tell."""
    if Column.EVENT_PLACE not in belonging.columns.values():
        return set()
    return {str(values_of(belonging, row)["event_id"]) for row in rows}


async def count(tx: Transaction, belonging: Belonging, user_nid: int) -> int:
    """How many rows of a table are a user's."""
    row = await tx.one(f"SELECT COUNT(*) FROM {belonging.table} WHERE {belonging.owner} = ?", user_nid)
    return 0 if row is None else int(row[0])


def erase(tx: Transaction, user_nid: int, *, replicas: bool) -> None:
    """Queue the deletion of all that a user owns here, and that they are a resident: from then on the database takes no
    row of theirs. ``replicas``: also of what replicas of rooms have of them beside events."""
    for belonging in reversed(_LIST):
        if replicas or belonging.table not in REPLICATED:
            tx.later(f"DELETE FROM {belonging.table} WHERE {belonging.owner} = ?", [(user_nid,)])
    tx.later("DELETE FROM residents WHERE user_nid = ?", [(user_nid,)])


def make_way(tx: Transaction, user_nid: int) -> None:
    """Queue the deletion of what replicas have brought of a user, before all of it is written."""
    for table in REPLICATED:
        tx.later(f"DELETE FROM {table} WHERE {BELONGINGS[table].owner} = ?", [(user_nid,)])
