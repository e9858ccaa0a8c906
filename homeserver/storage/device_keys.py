"""Public keys of devices and users: those of residents, and copies of those that residents share rooms with.

The keys of a user are the truth on their node only. A copy elsewhere carries the position there as of which it was
taken, and replaces only what is older; who holds copies is written beside the truth, in the transaction that hands
one out or changes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from homeserver.storage import streams

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from homeserver.storage.engine import Transaction

AT_ONCE = 500
"""Users that are looked up in one statement."""

UNTOLD = 2
"""What ``stale`` says of a copy that may have missed a change of which nobody was told."""

MASTER = "master"
SELF_SIGNING = "self_signing"
USER_SIGNING = "user_signing"


class DeviceKeys(NamedTuple):
    """The keys of one device: canonical JSON without ``unsigned``, and its name, which only its own node has.

    ``withheld``: it has gone unsigned for so long that others are not shown it."""

    keys: bytes
    display_name: str | None
    withheld: bool = False


class Proof(NamedTuple):
    """What the log ``origin`` says of a user's keys: a JSON object, with the checkpoint that it is proved by."""

    origin: str
    said: bytes


class Signature(NamedTuple):
    """A signature by somebody's user-signing key under another user's key; ids with their algorithm."""

    target_user_id: str
    target_key_id: str
    signing_key_id: str
    signature: str


@dataclass(slots=True)
class UserKeys:
    """The public keys of one user. ``signing``: cross-signing keys by usage, canonical JSON.

    ``user_nid`` is their row id on the node that was asked; ``copied``: this is a copy of what rests on another;
    ``remote``: namely on another server, so that it is good only as long as a room is shared. ``manifest``: the digests
    that the key log speaks of, ``leaf``: its last leaf about the user; None where there is none. ``proof``: what came
    with a copy, when it did.
    """

    devices: dict[str, DeviceKeys] = field(default_factory=dict)
    signing: dict[str, bytes] = field(default_factory=dict)
    user_nid: int = 0
    copied: bool = False
    remote: bool = False
    manifest: bytes | None = None
    leaf: bytes | None = None
    proof: Proof | None = None

    def nameless(self) -> UserKeys:
        """These keys for another node, which is not told what the devices are called."""
        devices = {device_id: DeviceKeys(device.keys, None) for device_id, device in self.devices.items()}
        return UserKeys(devices, self.signing)


# A server sends word of changed keys as long as it shares a room with us: a copy is good if one has been shared without
# a gap since it was made.
_SHARED_SINCE = (
    "EXISTS (SELECT 1 FROM memberships theirs"
    " JOIN memberships mine ON mine.room_nid = theirs.room_nid AND mine.membership = 'join' AND mine.pos <= l.as_of"
    " JOIN residents r ON r.user_nid = mine.user_nid"
    " WHERE theirs.user_nid = l.user_nid AND theirs.membership = 'join' AND theirs.pos <= l.as_of)"
)

_DEVICE, _RESIDENT, _COPIED, _SIGNING, _SIGNATURE, _REMOTE, _MANIFEST, _LEAF, _PROOF = range(9)
_FOUND = (
    "WITH asked AS (SELECT user_nid, user_id FROM users WHERE user_id IN ({marks}))"
    # First what has keys: it says which type each column has.
    f" SELECT a.user_id, {_DEVICE}, d.device_id, d.keys, n.display_name, '', d.withheld"
    " FROM asked a JOIN device_keys d ON d.user_nid = a.user_nid"
    " LEFT JOIN devices n ON n.user_nid = d.user_nid AND n.device_id = d.device_id"  # names never leave their node
    f" UNION ALL SELECT a.user_id, {_RESIDENT}, '', NULL, '', '', a.user_nid"
    " FROM asked a JOIN residents r ON r.user_nid = a.user_nid"
    f" UNION ALL SELECT a.user_id, {_COPIED}, '', NULL, '', '', a.user_nid"
    " FROM asked a JOIN key_replicas k ON k.user_nid = a.user_nid"
    f" UNION ALL SELECT a.user_id, {_REMOTE}, '', NULL, '', '', a.user_nid"
    f" FROM asked a JOIN remote_device_lists l ON l.user_nid = a.user_nid WHERE l.stale = 0 AND {_SHARED_SINCE}"
    f" UNION ALL SELECT a.user_id, {_SIGNING}, c.usage, c.key, '', '', 0"
    " FROM asked a JOIN cross_signing_keys c ON c.user_nid = a.user_nid"
    f" UNION ALL SELECT a.user_id, {_MANIFEST}, '', m.keys, '', '', 0"
    " FROM asked a JOIN key_manifests m ON m.user_nid = a.user_nid"
    f" UNION ALL SELECT a.user_id, {_LEAF}, '', (SELECT l.leaf FROM key_log_leaves l WHERE l.tag = m.tag"
    " ORDER BY l.leaf_index DESC LIMIT 1), '', '', 0 FROM asked a JOIN key_manifests m ON m.user_nid = a.user_nid"
    f" UNION ALL SELECT a.user_id, {_PROOF}, p.origin, p.proof, '', '', 0"
    " FROM asked a JOIN carried_proofs p ON p.user_nid = a.user_nid"
)
_SIGNED = (
    f" UNION ALL SELECT s.target_user_id, {_SIGNATURE}, s.target_key_id, NULL, s.signing_key_id, s.signature, 0 FROM"
    " (SELECT target_user_id, target_key_id, signing_key_id, signature FROM user_signatures WHERE signer_nid = ?"
    " LIMIT ?) s"
)


async def of_users(tx: Transaction, user_ids: Sequence[str]) -> dict[str, UserKeys]:
    """The keys of those users who reside here or of whom there is a copy; one trip for each 500 users.

    ``signing`` has everybody's user-signing key that rests here, and who is shown it is up to the caller.
    """
    return (await of_users_for(tx, user_ids, 0, 0))[0]


async def of_users_for(
    tx: Transaction, user_ids: Sequence[str], reader_nid: int, most: int
) -> tuple[dict[str, UserKeys], list[Signature]]:
    """`of_users`, and in the same trip ``most`` signatures that a resident made under anybody's keys."""
    found: dict[str, UserKeys] = {}
    signatures: list[Signature] = []
    for start in range(0, max(len(user_ids), 1), AT_ONCE):
        part = user_ids[start : start + AT_ONCE]
        sql = _FOUND.format(marks=",".join("?" * len(part)) or "NULL")
        if most and start == 0:
            rows = await tx.all(sql + _SIGNED, *part, reader_nid, most)
        else:
            rows = await tx.all(sql, *part)
        for user_id, kind, *_, user_nid in rows:
            if kind in (_RESIDENT, _COPIED, _REMOTE):
                found[user_id] = UserKeys(user_nid=user_nid, copied=kind != _RESIDENT, remote=kind == _REMOTE)
        for user_id, kind, name, blob, text, signature, withheld in rows:
            if kind == _SIGNATURE:
                signatures.append(Signature(user_id, name, text, signature))
            elif kind == _DEVICE and user_id in found:
                found[user_id].devices[name] = DeviceKeys(blob, text, bool(withheld))
            elif kind == _SIGNING and user_id in found:
                found[user_id].signing[name] = blob
            elif kind == _MANIFEST and user_id in found:
                found[user_id].manifest = blob
            elif kind == _LEAF and user_id in found:
                found[user_id].leaf = blob
            elif kind == _PROOF and user_id in found:
                found[user_id].proof = Proof(name, blob)
    return found, signatures


async def list_of(tx: Transaction, user_id: str) -> tuple[int, UserKeys] | None:
    """A resident's keys, and the position at which they changed last (0: never); None for who is no resident."""
    keys = (await of_users(tx, [user_id])).get(user_id)
    if keys is None or keys.copied:
        return None
    row = await tx.one("SELECT pos FROM device_list_changes WHERE user_nid = ?", keys.user_nid)
    return 0 if row is None else int(row[0]), keys


async def signatures_under(tx: Transaction, signer_nid: int, user_ids: Sequence[str]) -> list[Signature]:
    """The signatures of a resident under the keys of these users, wherever they are at home."""
    found: list[Signature] = []
    for start in range(0, len(user_ids), AT_ONCE):
        part = user_ids[start : start + AT_ONCE]
        rows = await tx.all(
            "SELECT target_user_id, target_key_id, signing_key_id, signature FROM user_signatures"
            f" WHERE signer_nid = ? AND target_user_id IN ({','.join('?' * len(part))})",
            signer_nid,
            *part,
        )
        found += [Signature(*row) for row in rows]
    return found


# the truth ----------------------------------------------------------------------------------


def put_device(tx: Transaction, user_nid: int, device_id: str, keys: bytes) -> None:
    """Queue the keys of a device, which is shown to others as it was before, if it was."""
    tx.later(
        "INSERT INTO device_keys (user_nid, device_id, keys) VALUES (?, ?, ?)"
        " ON CONFLICT (user_nid, device_id) DO UPDATE SET keys = excluded.keys",
        [(user_nid, device_id, keys)],
    )


def put_manifest(tx: Transaction, user_nid: int, tag: bytes, keys: bytes) -> None:
    """Queue what the key log says of a resident now, whom its leaves call ``tag``."""
    tx.later(
        "INSERT INTO key_manifests (user_nid, tag, keys) VALUES (?, ?, ?)"
        " ON CONFLICT (user_nid) DO UPDATE SET tag = excluded.tag, keys = excluded.keys",
        [(user_nid, tag, keys)],
    )


def put_signing(tx: Transaction, user_nid: int, keys: Mapping[str, bytes]) -> None:
    """Queue cross-signing keys by usage."""
    tx.later(
        "INSERT INTO cross_signing_keys (user_nid, usage, key) VALUES (?, ?, ?)"
        " ON CONFLICT (user_nid, usage) DO UPDATE SET key = excluded.key",
        [(user_nid, usage, key) for usage, key in keys.items()],
    )


def put_signatures(tx: Transaction, signer_nid: int, pos: int, signatures: Sequence[Signature]) -> None:
    """Queue signatures of a resident under other users' keys, made at a position."""
    tx.later(
        "INSERT INTO user_signatures (signer_nid, pos, target_user_id, target_key_id, signing_key_id, signature)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (signer_nid, target_user_id, target_key_id, signing_key_id)"
        " DO UPDATE SET signature = excluded.signature, pos = excluded.pos",
        [(signer_nid, pos, *signature) for signature in signatures],
    )


def drop_signatures(tx: Transaction, signer_nid: int) -> None:
    """Queue that a resident's signatures under others' keys are void: they have another user-signing key."""
    tx.later("DELETE FROM user_signatures WHERE signer_nid = ?", [(signer_nid,)])


async def device_ids(tx: Transaction, user_nid: int, wanted: Collection[str]) -> set[str]:
    """Which of these are ids of a resident's devices, with keys or without."""
    marks = ",".join("?" * len(wanted))
    rows = await tx.all(
        f"SELECT device_id FROM devices WHERE user_nid = ? AND device_id IN ({marks})", user_nid, *wanted
    )
    return {row[0] for row in rows}


# who is told --------------------------------------------------------------------------------


class Audience(NamedTuple):
    """Whom a change of a user's keys concerns.

    ``residents``: row ids of those who share a room with the user here; ``sharing``: the nodes with members in the
    user's rooms, this one included; ``holders``: the other nodes that were given the keys; ``servers``: the other
    servers that take part in the user's rooms. ``changed_at``: the position of the change before.
    """

    residents: set[int]
    sharing: set[str]
    holders: set[str]
    servers: set[str]
    changed_at: int | None


NOBODY = Audience(set(), set(), set(), set(), None)


async def audience(tx: Transaction, user_nid: int) -> Audience:
    """Whom a change of the user's keys concerns. One trip."""
    rows = await tx.all(
        "WITH mine AS (SELECT room_nid FROM memberships WHERE user_nid = ? AND membership = 'join')"
        " SELECT 0, r.user_nid, '' FROM mine JOIN memberships m ON m.room_nid = mine.room_nid"
        " JOIN residents r ON r.user_nid = m.user_nid WHERE m.membership = 'join'"
        " UNION SELECT 1, 0, n.node FROM mine JOIN room_nodes n ON n.room_nid = mine.room_nid WHERE n.members > 0"
        " UNION SELECT 2, 0, node FROM key_holders WHERE user_nid = ?"
        " UNION SELECT 3, 0, p.server FROM mine JOIN peer_rooms p ON p.room_nid = mine.room_nid"
        " WHERE p.until_pos IS NULL UNION SELECT 4, pos, '' FROM device_list_changes WHERE user_nid = ?",
        *[user_nid] * 3,
    )
    return Audience(
        {nid for kind, nid, _ in rows if kind == 0},
        {node for kind, _, node in rows if kind == 1},
        {node for kind, _, node in rows if kind == 2},
        {server for kind, _, server in rows if kind == 3},
        next((pos for kind, pos, _ in rows if kind == 4), None),
    )


def note_change(tx: Transaction, user_nid: int, pos: int) -> None:
    """Queue that a user's public keys changed at a position."""
    tx.later(
        "INSERT INTO device_list_changes (user_nid, pos) VALUES (?, ?)"
        " ON CONFLICT (user_nid) DO UPDATE SET pos = excluded.pos",
        [(user_nid, pos)],
    )


def set_holders(tx: Transaction, user_nid: int, gained: Collection[str], lost: Collection[str]) -> None:
    """Queue which nodes are given a resident's keys, and which are told to forget them."""
    tx.later("DELETE FROM key_holders WHERE user_nid = ? AND node = ?", [(user_nid, node) for node in lost])
    tx.later(
        "INSERT INTO key_holders (user_nid, node) VALUES (?, ?) ON CONFLICT DO NOTHING",
        [(user_nid, node) for node in gained],
    )


async def lend(tx: Transaction, user_ids: Sequence[str], holder: str) -> tuple[int, dict[str, UserKeys]]:
    """The keys of residents, for a node that will keep copies: it is told of changes from now on.

    Returns the position as of which they are, too.
    """
    for start in range(0, len(user_ids), AT_ONCE):
        part = user_ids[start : start + AT_ONCE]
        await tx.run(
            "INSERT INTO key_holders (user_nid, node) SELECT u.user_nid, CAST(? AS TEXT) FROM users u"
            f" JOIN residents r ON r.user_nid = u.user_nid WHERE u.user_id IN ({','.join('?' * len(part))})"
            " ON CONFLICT DO NOTHING",
            holder,
            *part,
        )
    return await streams.current(tx), await of_users(tx, user_ids)


# copies -------------------------------------------------------------------------------------


async def versions(tx: Transaction, user_nids: Collection[int]) -> dict[int, tuple[str, int]]:
    """From which node the copies of these users' keys are, and as of which position there."""
    if not user_nids:
        return {}
    marks = ",".join("?" * len(user_nids))
    rows = await tx.all(f"SELECT user_nid, source, version FROM key_replicas WHERE user_nid IN ({marks})", *user_nids)
    return {row[0]: (row[1], row[2]) for row in rows}


def replace_copy(tx: Transaction, user_nid: int, source: str, version: int, keys: UserKeys) -> None:
    """Queue the keys of a user of another node."""
    drop_copy(tx, user_nid)
    tx.later("INSERT INTO key_replicas (user_nid, source, version) VALUES (?, ?, ?)", [(user_nid, source, version)])
    _put_copied(tx, user_nid, keys)


def _put_copied(tx: Transaction, user_nid: int, keys: UserKeys) -> None:
    tx.later(
        "INSERT INTO device_keys (user_nid, device_id, keys) VALUES (?, ?, ?)",
        [(user_nid, device_id, device.keys) for device_id, device in keys.devices.items()],
    )
    put_signing(tx, user_nid, {usage: key for usage, key in keys.signing.items() if usage != USER_SIGNING})
    if keys.proof is not None:
        put_proof(tx, user_nid, keys.proof)


def put_proof(tx: Transaction, user_nid: int, proof: Proof) -> None:
    """Queue what proves the copy of a user's keys that there is now."""
    tx.later(
        "INSERT INTO carried_proofs (user_nid, origin, proof) VALUES (?, ?, ?)"
        " ON CONFLICT (user_nid) DO UPDATE SET origin = excluded.origin, proof = excluded.proof",
        [(user_nid, *proof)],
    )


def drop_proof(tx: Transaction, user_nid: int) -> None:
    """Queue that what came with a copy does not prove it any more."""
    tx.later("DELETE FROM carried_proofs WHERE user_nid = ?", [(user_nid,)])


def drop_copy(tx: Transaction, user_nid: int) -> None:
    """Queue that there is no copy of this user's keys here."""
    for table in ("key_replicas", "remote_device_lists", "carried_proofs", "device_keys", "cross_signing_keys"):
        tx.later(f"DELETE FROM {table} WHERE user_nid = ?", [(user_nid,)])


async def sharing_with_residents(tx: Transaction, user_ids: Sequence[str]) -> dict[str, int]:
    """Row ids of those users who share a joined room with a resident."""
    found: dict[str, int] = {}
    for start in range(0, len(user_ids), AT_ONCE):
        part = user_ids[start : start + AT_ONCE]
        rows = await tx.all(
            "SELECT u.user_id, u.user_nid FROM users u WHERE u.user_id IN"
            f" ({','.join('?' * len(part))}) AND EXISTS (SELECT 1 FROM memberships theirs"
            " JOIN memberships mine ON mine.room_nid = theirs.room_nid AND mine.membership = 'join'"
            " JOIN residents r ON r.user_nid = mine.user_nid"
            " WHERE theirs.user_nid = u.user_nid AND theirs.membership = 'join')",
            *part,
        )
        found.update({row[0]: row[1] for row in rows})
    return found


async def drop_idle_copies(tx: Transaction) -> int:
    """Delete the copies of keys of users who share no room with a resident any more; returns how many users."""
    rows = await tx.all(
        "SELECT k.user_nid FROM (SELECT user_nid FROM key_replicas UNION SELECT user_nid FROM remote_device_lists) k"
        " WHERE NOT EXISTS (SELECT 1 FROM memberships theirs"
        " JOIN memberships mine ON mine.room_nid = theirs.room_nid AND mine.membership = 'join'"
        " JOIN residents r ON r.user_nid = mine.user_nid"
        " WHERE theirs.user_nid = k.user_nid AND theirs.membership = 'join')"
    )
    for (user_nid,) in rows:
        drop_copy(tx, user_nid)
    return len(rows)


# copies from other servers ------------------------------------------------------------------


class RemoteList(NamedTuple):
    """What is known of the copy of a remote user's keys: which version of their server's count it is (None: it did not
    say), and whether a change was missed."""

    stream_id: int | None
    stale: bool


async def remote_list(tx: Transaction, user_nid: int) -> RemoteList | None:
    """The copy of a remote user's keys; None when there is none, or the room was left through which it was kept up."""
    row = await tx.one(
        f"SELECT l.stream_id, l.stale FROM remote_device_lists l WHERE l.user_nid = ? AND {_SHARED_SINCE}", user_nid
    )
    return None if row is None else RemoteList(row[0], bool(row[1]))


def replace_remote(tx: Transaction, user_nid: int, as_of: int, stream_id: int | None, keys: UserKeys) -> None:
    """Queue the keys of a user of another server, which was asked at position ``as_of`` of this node."""
    drop_copy(tx, user_nid)
    tx.later(
        "INSERT INTO remote_device_lists (user_nid, as_of, stream_id) VALUES (?, ?, ?)", [(user_nid, as_of, stream_id)]
    )
    _put_copied(tx, user_nid, keys)


def mark_stale(tx: Transaction, user_nid: int) -> None:
    """Queue that the copy of a remote user's keys is not to be used any more."""
    tx.later("UPDATE remote_device_lists SET stale = 1 WHERE user_nid = ?", [(user_nid,)])


async def mark_all_stale(tx: Transaction) -> None:
    """No copy of a remote user's keys is to be used any more: any of them may have missed a change, of which then
    nobody was told either."""
    await tx.run("UPDATE remote_device_lists SET stale = 2 WHERE stale = 0")  # UNTOLD


async def stale_lists(tx: Transaction, after: int, limit: int) -> list[tuple[int, str]]:
    """Users of other servers who share a room with a resident and whose keys are to be asked for anew, behind the row
    id ``after``: row id and user id."""
    rows = await tx.all(
        "SELECT l.user_nid, u.user_id FROM remote_device_lists l JOIN users u ON u.user_nid = l.user_nid"
        " WHERE l.user_nid > ? AND l.stale > 0 AND EXISTS (SELECT 1 FROM memberships theirs"
        " JOIN memberships mine ON mine.room_nid = theirs.room_nid AND mine.membership = 'join'"
        " JOIN residents r ON r.user_nid = mine.user_nid"
        " WHERE theirs.user_nid = l.user_nid AND theirs.membership = 'join') ORDER BY l.user_nid LIMIT ?",
        after,
        limit,
    )
    return [(int(row[0]), str(row[1])) for row in rows]


async def untold(tx: Transaction, user_nids: Sequence[int]) -> dict[int, UserKeys]:
    """The copies of which a change may have been missed without anybody being told, as they were before that."""
    marks = ",".join("?" * len(user_nids))
    if not marks:
        return {}
    rows = await tx.all(
        f"SELECT user_nid FROM remote_device_lists WHERE user_nid IN ({marks}) AND stale = {UNTOLD}", *user_nids
    )
    found = {int(row[0]): UserKeys() for row in rows}
    if not found:
        return {}
    for user_nid, device_id, keys in await tx.all(
        f"SELECT user_nid, device_id, keys FROM device_keys WHERE user_nid IN ({marks})", *user_nids
    ):
        if user_nid in found:
            found[user_nid].devices[device_id] = DeviceKeys(keys, None)
    for user_nid, usage, key in await tx.all(
        f"SELECT user_nid, usage, key FROM cross_signing_keys WHERE user_nid IN ({marks})", *user_nids
    ):
        if user_nid in found:
            found[user_nid].signing[usage] = key
    return found


def advance_remote(tx: Transaction, user_nid: int, stream_id: int, device_id: str, keys: bytes | None) -> None:
    """Queue that a remote user's list has become the one of ``stream_id``, by what happened to one device (``keys``
    None: it is gone, or has none)."""
    drop_proof(tx, user_nid)
    tx.later("UPDATE remote_device_lists SET stream_id = ? WHERE user_nid = ?", [(stream_id, user_nid)])
    if keys is None:
        tx.later("DELETE FROM device_keys WHERE user_nid = ? AND device_id = ?", [(user_nid, device_id)])
    else:
        put_device(tx, user_nid, device_id, keys)


# what a client tracks -----------------------------------------------------------------------


async def changed_since(tx: Transaction, user_nid: int, since: int) -> list[str]:
    """Those who share a room with a resident, or are that resident, and whose keys changed after ``since``; and those
    whose keys the resident has signed since.
    """
    rows = await tx.all(
        "SELECT u.user_id FROM device_list_changes c JOIN users u ON u.user_nid = c.user_nid"
        " WHERE c.pos > ? AND (c.user_nid = ? OR EXISTS (SELECT 1 FROM memberships theirs"
        " JOIN memberships mine ON mine.room_nid = theirs.room_nid"
        " WHERE theirs.user_nid = c.user_nid AND theirs.membership = 'join'"
        " AND mine.user_nid = ? AND mine.membership = 'join'))"
        " UNION SELECT target_user_id FROM user_signatures WHERE signer_nid = ? AND pos > ?",
        since,
        user_nid,
        user_nid,
        user_nid,
        since,
    )
    return [row[0] for row in rows]


class MemberChange(NamedTuple):
    """Somebody's membership in a room in which a resident has one too changed.

    ``before`` is the member event as of then (client format), None when there was none; ``now`` is the membership now.
    """

    room_nid: int
    user_id: str
    before: bytes | None
    now: str | None


async def member_changes(tx: Transaction, user_nid: int, since: int) -> list[MemberChange]:
    """Memberships that changed after ``since`` in the rooms of a resident, once for each room and user."""
    rows = await tx.all(
        "SELECT c.room_nid, c.state_key, e.client, m.membership FROM"
        " (SELECT DISTINCT s.room_nid, s.state_key FROM memberships mine JOIN state_changes s"
        " ON s.room_nid = mine.room_nid AND s.type = 'm.room.member' AND s.pos > ?"
        " WHERE mine.user_nid = ? AND (mine.membership = 'join' OR mine.pos > ?)) c"
        " JOIN users u ON u.user_id = c.state_key"
        " LEFT JOIN memberships m ON m.room_nid = c.room_nid AND m.user_nid = u.user_nid"
        " LEFT JOIN events e ON e.event_nid = (SELECT p.event_nid FROM state_changes p WHERE p.room_nid = c.room_nid"
        " AND p.type = 'm.room.member' AND p.state_key = c.state_key AND p.pos <= ? ORDER BY p.pos DESC LIMIT 1)",
        since,
        user_nid,
        since,
        since,
    )
    return [MemberChange(*row) for row in rows]


async def name_of(tx: Transaction, user_nid: int) -> str:
    """The user id behind a row id."""
    row = await tx.one("SELECT user_id FROM users WHERE user_nid = ?", user_nid)
    assert row is not None
    return str(row[0])


async def members_of(tx: Transaction, room_nids: Collection[int]) -> list[tuple[int, str]]:
    """(room_nid, user id) of everybody who is in these rooms."""
    if not room_nids:
        return []
    rows = await tx.all(
        "SELECT m.room_nid, u.user_id FROM memberships m JOIN users u ON u.user_nid = m.user_nid"
        f" WHERE m.membership = 'join' AND m.room_nid IN ({','.join('?' * len(room_nids))})",
        *room_nids,
    )
    return [(row[0], row[1]) for row in rows]


async def sharing_with(tx: Transaction, user_nid: int, user_ids: Collection[str]) -> set[str]:
    """Which of these users share a joined room with a resident."""
    found: set[str] = set()
    asked = list(user_ids)
    for start in range(0, len(asked), AT_ONCE):
        part = asked[start : start + AT_ONCE]
        rows = await tx.all(
            f"SELECT u.user_id FROM users u WHERE u.user_id IN ({','.join('?' * len(part))})"
            " AND EXISTS (SELECT 1 FROM memberships theirs JOIN memberships mine ON mine.room_nid = theirs.room_nid"
            " WHERE theirs.user_nid = u.user_nid AND theirs.membership = 'join'"
            " AND mine.user_nid = ? AND mine.membership = 'join')",
            *part,
            user_nid,
        )
        found.update(row[0] for row in rows)
    return found
