"""A passport: what a deployment says of itself, as a JSON object under the signature of the server's own key.

That is the key which every event and request of the server is believed by, so whoever talks with the server has it
already. What a passport says is a claim: its signature makes it one that cannot be taken back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from homeserver.protocol import checkpoints, signed_notes
from homeserver.protocol.errors import BadJson, InvalidSignature
from homeserver.protocol.signed_notes import InvalidNote, NamedKey
from homeserver.protocol.signing import SigningKey, VerifyKey, sign_json, verify_json

FORMAT: Final = 1
"""The number of the form that `signed` gives a passport."""

MOST_BYTES: Final = 4 * 2**20
"""Bytes that are read of a passport."""


def signed(said: Mapping[str, Any], server_name: str, key: SigningKey, now_ms: int) -> dict[str, Any]:
    """A passport that says so. Raises BadJson for what has no canonical form."""
    dated = {**said, "format": FORMAT, "server_name": server_name, "time": now_ms}
    return sign_json(dated, server_name, key)


def keys_of(document: Mapping[str, Any], server_name: str) -> dict[str, VerifyKey]:
    """The keys of a server, by id, in its own key document, which must be signed by one of them. Raises BadJson,
    InvalidSignature.

    spec: server-server-api/#get_matrixkeyv2server
    """
    listed = document.get("verify_keys")
    if not isinstance(listed, dict) or document.get("server_name") != server_name:
        raise BadJson(f"That is not the key document of {server_name}")
    found = {}
    for key_id, entry in listed.items():
        if isinstance(entry, dict) and isinstance(text := entry.get("key"), str) and key_id.startswith("ed25519:"):
            found[key_id] = VerifyKey.from_base64(key_id, text)
    verify_json(document, server_name, found)
    return found


def faults(passport: Mapping[str, Any], keys: Mapping[str, VerifyKey]) -> list[str]:
    """What is wrong with a passport, by the keys (by id) of the server that it is of: one sentence each."""
    return list(_faults(passport, keys))


def _faults(passport: Mapping[str, Any], keys: Mapping[str, VerifyKey]) -> Iterator[str]:
    name = passport.get("server_name")
    if passport.get("format") != FORMAT or not isinstance(name, str) or type(passport.get("time")) is not int:
        yield "that is not a passport of this format"
        return
    try:
        verify_json(passport, name, keys)
    except InvalidSignature as invalid:
        yield invalid.message
    encryption = passport.get("encryption")
    if isinstance(encryption, dict) and encryption.get("required") is encryption.get("conformance_mode"):
        yield "encryption cannot be required and lifted at once"
    nodes, witnesses = passport.get("nodes"), passport.get("witnesses")
    keys_of_witnesses = [each.get("key") for each in witnesses or [] if isinstance(each, dict)]
    for node in nodes if isinstance(nodes, list) else [nodes]:
        log = node.get("key_log") if isinstance(node, dict) else None
        if not isinstance(log, dict):
            yield "it does not say what the log of each node is"
        elif log.get("checkpoint") is not None and (fault := _checkpoint_fault(log, keys_of_witnesses)):
            yield f"the checkpoint of {log.get('origin')} cannot be believed: {fault}"


def _checkpoint_fault(log: Mapping[str, Any], witnesses: Sequence[object]) -> str:
    try:
        key = NamedKey.read(str(log.get("key")))
        note = signed_notes.read(str(log["checkpoint"]).encode())
        checkpoints.opened(note, key)
        checkpoints.witnesses(note, [NamedKey.read(str(each)) for each in witnesses])
    except InvalidNote as invalid:
        return str(invalid)
    return "" if key.name == log.get("origin") else f"its key is that of {key.name}"
