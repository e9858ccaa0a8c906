"""Receipts of moves: what both nodes sign when a user has gone from one to the other, and what proves it.

A receipt is canonical JSON, signed by the keys of both nodes; these keys are certified by the residency key of the
deployment, and the certificates go with it: so that key alone is needed to check a receipt. It names the hash of the
user's receipt before, so that a chain of them has no gap but at its ends.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson, InvalidSignature, NotJson
from homeserver.protocol.signing import VerifyKey, decode_base64, sign_json, verify_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.protocol.signing import SigningKey

CERTIFICATE: Final = "org.domicile.node_key"
"""What the residency key's signature under a node's key is for, so that none given for something else passes for it."""
KIND: Final = "org.domicile.move_receipt"
"""What a receipt's signatures are for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a receipt says. Times in milliseconds since 1970. ``copied``: by table, the number of rows and the SHA-256
    over them; ``files``, ``erased_files``, ``erased_rooms``: how many; ``previous``: the SHA-256 of the user's receipt
    before, or None."""

    server_name: str
    move_id: str
    user_id: str
    source: str
    source_jurisdiction: str
    target: str
    target_jurisdiction: str
    begun_ts: int
    switched_ts: int
    ended_ts: int
    copied: Mapping[str, Mapping[str, Any]]
    files: int
    erased_files: int
    erased_rooms: int
    previous: str | None


def digest(receipt: bytes) -> str:
    """What the next receipt names as ``previous``."""
    return hashlib.sha256(receipt).hexdigest()


def certificate(server_name: str, node: str, key: VerifyKey, residency_key: SigningKey) -> dict[str, Any]:
    """The deployment's word that a key is a node's."""
    said = {"type": CERTIFICATE, "server_name": server_name, "node": node, "key": key.base64}
    return sign_json(said, server_name, residency_key)


def signed(receipt: Receipt, keys: Mapping[str, SigningKey], residency_key: SigningKey) -> bytes:
    """A receipt as it is kept. ``keys``: of the two nodes, by name."""
    said: dict[str, Any] = {
        "type": KIND,
        "server_name": receipt.server_name,
        "move_id": receipt.move_id,
        "user_id": receipt.user_id,
        "from": {"node": receipt.source, "jurisdiction": receipt.source_jurisdiction},
        "to": {"node": receipt.target, "jurisdiction": receipt.target_jurisdiction},
        "begun_ts": receipt.begun_ts,
        "switched_ts": receipt.switched_ts,
        "ended_ts": receipt.ended_ts,
        "copied": {table: dict(what) for table, what in receipt.copied.items()},
        "files": receipt.files,
        "erased": {"files": receipt.erased_files, "rooms": receipt.erased_rooms},
        "previous": receipt.previous,
        "keys": [
            certificate(receipt.server_name, name, key.verify_key, residency_key) for name, key in sorted(keys.items())
        ],
    }
    for name, key in sorted(keys.items()):
        said = sign_json(said, name, key)
    return canonical.encode(said)


def verify(receipt: bytes, server_name: str, residency_key: VerifyKey) -> dict[str, Any]:
    """What a receipt says, once it is proved that both nodes of this deployment have signed it.

    ``residency_key``: the deployment's public key of the name ``ed25519:residency``. Raises InvalidSignature.
    """
    try:
        said = canonical.parse(receipt)
        if canonical.encode(said) != receipt or said["type"] != KIND or said["server_name"] != server_name:
            raise InvalidSignature("This is no receipt of a move within this deployment")
        nodes = {said["from"]["node"], said["to"]["node"]}
        known = {name: key for each in said["keys"] for name, key in _certified(each, server_name, residency_key)}
        if len(nodes) != 2 or known.keys() != nodes:
            raise InvalidSignature("The receipt does not name the keys of its two nodes")
        for name, (key_id, key) in known.items():
            verify_json(said, name, {key_id: key})
    except (BadJson, NotJson, KeyError, TypeError, AttributeError, ValueError):
        raise InvalidSignature("This is no receipt of a move") from None
    return dict(said)


def _certified(
    said: dict[str, Any], server_name: str, residency_key: VerifyKey
) -> list[tuple[str, tuple[str, VerifyKey]]]:
    verify_json(said, server_name, {residency_key.key_id: residency_key})
    if said["type"] != CERTIFICATE or said["server_name"] != server_name:
        raise InvalidSignature("A key in the receipt was certified for something else")
    name = said["node"]
    return [(name, (key_id_of(name), VerifyKey(key_id_of(name), decode_base64(said["key"]))))]


def key_id_of(node: str) -> str:
    """The id of a node's key, with its algorithm."""
    return f"ed25519:{key_name_of(node)}"


def key_name_of(node: str) -> str:
    """The id of a node's key, without its algorithm."""
    return f"node_{hashlib.sha256(node.encode()).hexdigest()[:16]}"
