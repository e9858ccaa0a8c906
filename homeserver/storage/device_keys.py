"""Public keys of devices and users, as a node holds them: the truth of residents, or a copy of what rests elsewhere.

This reads both and writes the truth; copies come and go in `key_copies` and `remote_device_lists`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from homeserver.runtime.parts import in_parts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from homeserver.storage.engine import Transaction

AT_ONCE = 500
"""Users that are looked up in one statement."""

MASTER = "master"
SELF_SIGNING = "self_signing"
USER_SIGNING = "user_signing"


class DeviceKeys(NamedTuple):
    """The keys of one device: canonical JSON without ``unsigned``, and its name, which only its own node has.

    ``withheld``: it has gone unsigned for so long that others are not shown it. ``awaited``: the identity before the
    present one had signed it, and it has not vouched for that; ``heard``: it may, whether it is waited for or not."""

    keys: bytes
    display_name: str | None
    withheld: bool = False
    awaited: bool = False
    heard: bool = False


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

    @property
    def contested(self) -> bool:
        """Whether the identity was replaced, and none of the devices that the one before had signed vouches for it."""
        return any(device.awaited for device in self.devices.values())

    def nameless(self) -> UserKeys:
        """These keys for another node, which is not told what the devices are called."""
        devices = {device_id: DeviceKeys(device.keys, None) for device_id, device in self.devices.items()}
        return UserKeys(devices, self.signing)


# A server sends word of changed keys as long as it shares a room with us: a copy is good if one has been shared without
# a gap since it was made.
SHARED_SINCE = (
    "EXISTS (SELECT 1 FROM memberships theirs"
    " JOIN memberships mine ON mine.room_nid = theirs.room_nid AND mine.membership = 'join' AND mine.pos <= l.as_of"
    " JOIN residents r ON r.user_nid = mine.user_nid"
    " WHERE theirs.user_nid = l.user_nid AND theirs.membership = 'join' AND theirs.pos <= l.as_of)"
)

_DEVICE, _RESIDENT, _COPIED, _SIGNING, _SIGNATURE, _REMOTE, _MANIFEST, _LEAF, _PROOF = range(9)
_FOUND = (
    "WITH asked AS (SELECT user_nid, user_id FROM users WHERE user_id IN ({marks}))"
    # First what has keys: it says which type each column has.
    f" SELECT a.user_id, {_DEVICE}, d.device_id, d.keys, n.display_name, '', d.withheld + 2 * d.awaited"
    " FROM asked a JOIN device_keys d ON d.user_nid = a.user_nid"
    " LEFT JOIN devices n ON n.user_nid = d.user_nid AND n.device_id = d.device_id"  # names never leave their node
    f" UNION ALL SELECT a.user_id, {_RESIDENT}, '', NULL, '', '', a.user_nid"
    " FROM asked a JOIN residents r ON r.user_nid = a.user_nid"
    f" UNION ALL SELECT a.user_id, {_COPIED}, '', NULL, '', '', a.user_nid"
    " FROM asked a JOIN key_replicas k ON k.user_nid = a.user_nid"
    f" UNION ALL SELECT a.user_id, {_REMOTE}, '', NULL, '', '', a.user_nid"
    f" FROM asked a JOIN remote_device_lists l ON l.user_nid = a.user_nid WHERE l.stale = 0 AND {SHARED_SINCE}"
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
        for user_id, kind, name, blob, text, signature, marks in rows:
            if kind == _SIGNATURE:
                signatures.append(Signature(user_id, name, text, signature))
            elif kind == _DEVICE and user_id in found:
                found[user_id].devices[name] = DeviceKeys(
                    blob, text, bool(marks & 1), marks >> 1 in (1, 3), marks >> 1 in (1, 2)
                )
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
    for part in in_parts(user_ids, AT_ONCE):
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
