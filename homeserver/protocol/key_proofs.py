"""What another server says of its users' keys by its key log: read with bounds, and checked as any stranger can.

Nothing of it is believed because it was read; what `check` does not refuse holds as far as the key of the log is the
right one, and the log is one that everybody is shown.
"""

from __future__ import annotations

from binascii import Error as NotBase64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from homeserver.protocol import canonical, checkpoints, key_log, merkle, signed_notes, vrf
from homeserver.protocol.checkpoints import Checkpoint
from homeserver.protocol.errors import BadJson
from homeserver.protocol.key_log import Leaf, Manifest, NoLeaf
from homeserver.protocol.merkle import leaf_hash
from homeserver.protocol.signed_notes import InvalidNote, NamedKey
from homeserver.protocol.signing import decode_base64

FIELD: Final = "org.domicile.key_log"
"""The property of an answer with keys in which proofs stand."""
PATH: Final = "/_domicile/v1/key-log/"
"""What is behind the name of a server in the names of its logs."""

LARGEST: Final = 16 * 2**10
"""Bytes of a proof that is read: some two hundred devices."""
MOST_LOGS: Final = 100
_MOST_HASHES: Final = 64
_LONGEST: Final = 500


class NotProved(ValueError):
    """What was told does not prove the keys; says why."""


@dataclass(frozen=True, slots=True)
class Told:
    """What was told of one user, from the log ``origin``. ``said``: its texts as they came; ``index`` of the leaf,
    ``inclusion`` of it in the tree; ``withheld``: devices that are not shown."""

    origin: str
    said: Mapping[str, str]
    index: int
    inclusion: tuple[str, ...]
    withheld: tuple[str, ...]

    def write(self) -> bytes:
        """As it is handed on: a JSON object."""
        lists = {"inclusion": list(self.inclusion), **({"withheld": list(self.withheld)} if self.withheld else {})}
        return canonical.encode({**self.said, **lists, "index": self.index})


_TEXTS: Final = ("leaf", "keys", "opening", "checkpoint", "key")


def of_answer(answer: Mapping[str, Any], server_name: str, user_id: str) -> Told | None:
    """What an answer of a server with keys of its users says of one of them; None when that is nothing, too much, not
    in the tree yet, or out of a log that is not the server's."""
    logs = answer.get(FIELD)
    for origin, log in list(logs.items())[:MOST_LOGS] if isinstance(logs, dict) else ():
        users = log.get("users") if isinstance(log, dict) else None
        mine = users.get(user_id) if isinstance(users, dict) else None
        if isinstance(mine, dict) and origin.startswith(server_name + PATH):
            return _told(origin, {"checkpoint": log.get("checkpoint"), "key": log.get("key"), **mine})
    return None


def _told(origin: str, found: Mapping[str, Any]) -> Told | None:
    said = {name: found.get(name) for name in _TEXTS}
    index, inclusion, withheld = (found.get("index"), found.get("inclusion"), found.get("withheld", []))
    if type(index) is not int or not 0 <= index <= merkle.LARGEST:
        return None
    if not isinstance(inclusion, list) or len(inclusion) > _MOST_HASHES or not isinstance(withheld, list):
        return None
    if len(origin) > _LONGEST or not all(isinstance(value, str) for value in [*said.values(), *inclusion, *withheld]):
        return None
    made = Told(origin, cast("dict[str, str]", said), index, tuple(inclusion), tuple(withheld))
    try:
        return made if len(made.write()) <= LARGEST else None
    except BadJson:
        return None


def signed(told: Told) -> tuple[NamedKey, Checkpoint]:
    """The key that the log is said to have, and the checkpoint that it has signed with it. Raises NotProved."""
    try:
        key = NamedKey.read(told.said["key"])
        found = checkpoints.opened(signed_notes.read(told.said["checkpoint"].encode()), key)
    except InvalidNote as fault:
        raise NotProved(str(fault)) from None
    if found.origin != told.origin:
        raise NotProved(f"the checkpoint is of {found.origin}")
    return key, found


def check(told: Told, user_id: str, shown: Manifest) -> Checkpoint:
    """Check all that one can: that the leaf is in the tree, is about the user, and speaks of the keys that are shown.

    Raises NotProved.
    """
    _, checkpoint = signed(told)
    raw = told.said["leaf"].encode()
    try:
        proof = [decode_base64(each) for each in told.inclusion]
        merkle.check_inclusion(told.index, checkpoint.head.size, leaf_hash(raw), proof, checkpoint.head.root)
        leaf = Leaf.read(raw)
        names = decode_base64(checkpoint.extension("vrf") or "")
        output = vrf.output(names, user_id.encode(), decode_base64(told.said["opening"]))
        known = Manifest.read(told.said["keys"].encode())
        covered = known.covers(shown, told.withheld)
    except NoLeaf as fault:
        raise NotProved(str(fault)) from None
    except (ValueError, NotBase64, BadJson, KeyError, TypeError, AttributeError) as fault:
        raise NotProved(f"the proof does not hold: {fault}") from None
    if key_log.tag_of(output) != leaf.tag:
        raise NotProved("the leaf is about somebody else")
    if key_log.digest(told.said["keys"].encode()) != leaf.digest:
        raise NotProved("the digests are not those of the leaf")
    if not covered:
        raise NotProved("the keys are not those of the log")
    return checkpoint
