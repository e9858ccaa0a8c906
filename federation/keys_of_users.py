"""Asks other servers for the public keys of their users, and claims one-time keys of theirs.

What comes back is checked as far as a server can: nobody is shown a key under a name that did not sign it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from config.residency import DataClass
from federation.remote import RemoteRefusal, ask_for
from homeserver.e2ee import key_format, remote_keys
from homeserver.protocol import key_proofs
from homeserver.protocol.errors import Refusal, ServerUnreachable
from homeserver.protocol.identifiers import domain_of
from homeserver.runtime.parts import in_parts
from homeserver.storage.device_keys import Proof
from homeserver.transparency import peers
from homeserver.transparency.peers import Heard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Server
    from homeserver.storage.device_keys import UserKeys
    from homeserver.storage.nodes import Node
    from homeserver.storage.one_time_keys import Wanted

USERS_AT_ONCE: Final = 250
"""Users of one question."""
CLAIMS_AT_ONCE: Final = 1000
MOST_BYTES: Final = 16 * 2**20
MOST_LIST_BYTES: Final = 4 * 2**20


async def query_keys(
    server: Server, node: Node, destination: str, user_ids: Sequence[str], seconds: float
) -> dict[str, UserKeys]:
    """See `context.Remote.query_keys`. spec: server-server-api/#post_matrixfederationv1userkeysquery"""
    found: dict[str, UserKeys] = {}
    for part in in_parts(user_ids, USERS_AT_ONCE):
        question: dict[str, Any] = {"device_keys": {user_id: [] for user_id in part}}
        answer = await _ask(server, node, destination, "query", question, seconds)
        devices, masters, self_signing = (
            _object(answer.get(name)) for name in ("device_keys", "master_keys", "self_signing_keys")
        )
        strict = not server.settings.conformance_mode
        for user_id in part:
            if isinstance(devices.get(user_id), dict):
                found[user_id] = remote_keys.of_user(
                    user_id, devices[user_id], masters.get(user_id), self_signing.get(user_id), strict=strict
                )
                _take_proof(server, answer, destination, user_id, found[user_id])
    return found


async def device_list(server: Server, node: Node, user_id: str) -> tuple[int, UserKeys]:
    """See `context.Remote.device_list`. spec: server-server-api/#get_matrixfederationv1userdevicesuserid"""
    destination = domain_of(user_id)
    target = f"/_matrix/federation/v1/user/devices/{quote(user_id, safe='')}"
    try:
        answer = await ask_for(
            server,
            node,
            DataClass.KEYS,
            destination,
            "GET",
            target,
            most=MOST_LIST_BYTES,
            inward=True,
            if_reachable=True,
        )
    except RemoteRefusal:
        raise ServerUnreachable(f"{destination} does not tell the devices of its user") from None
    stream_id, listed = answer.get("stream_id"), answer.get("devices")
    if not isinstance(stream_id, int) or isinstance(stream_id, bool) or not isinstance(listed, list):
        raise ServerUnreachable(f"{destination} gave no list of devices")
    devices = {
        each["device_id"]: each.get("keys")
        for each in listed
        if isinstance(each, dict) and isinstance(each.get("device_id"), str)
    }
    strict = not server.settings.conformance_mode
    keys = remote_keys.of_user(
        user_id, devices, answer.get("master_key"), answer.get("self_signing_key"), strict=strict
    )
    _take_proof(server, answer, destination, user_id, keys)
    return stream_id, keys


def _take_proof(server: Server, answer: Mapping[str, Any], destination: str, user_id: str, keys: UserKeys) -> None:
    """What a server tells of its key log goes with the keys, as it is; whoever is shown it checks it. We look, too."""
    told = key_proofs.of_answer(answer, destination, user_id)
    if told is not None:
        keys.proof = Proof(told.origin, told.write())
        peers.hear(server, Heard(destination, user_id, keys, told))


async def claim_keys(
    server: Server, node: Node, destination: str, wanted: Sequence[Wanted], seconds: float
) -> dict[str, dict[str, dict[str, Any]]]:
    """See `context.Remote.claim_keys`. spec: server-server-api/#post_matrixfederationv1userkeysclaim"""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for part in in_parts(wanted, CLAIMS_AT_ONCE):
        asked: dict[str, dict[str, str]] = {}
        for each in part:
            asked.setdefault(each.user_id, {})[each.device_id] = each.algorithm
        answer = await _ask(server, node, destination, "claim", {"one_time_keys": asked}, seconds)
        given = _object(answer.get("one_time_keys"))
        for each in part:
            key = _claimed(_object(_object(given.get(each.user_id)).get(each.device_id)), each.algorithm)
            if key is not None:
                found.setdefault(each.user_id, {})[each.device_id] = key
    return found


def _claimed(keys: Mapping[str, Any], algorithm: str) -> dict[str, Any] | None:
    """The one key that was asked for; None when there is none, or what there is is none."""
    for name, key in keys.items():
        try:
            if key_format.one_time_keys({name: key})[0].algorithm == algorithm:
                return {name: key}
        except Refusal:
            continue
    return None


async def _ask(
    server: Server, node: Node, destination: str, what: str, question: dict[str, Any], seconds: float
) -> dict[str, Any]:
    target = f"/_matrix/federation/v1/user/keys/{what}"
    try:
        return await ask_for(
            server,
            node,
            DataClass.KEYS,
            destination,
            "POST",
            target,
            question,
            most=MOST_BYTES,
            seconds=seconds,
            inward=True,
            if_reachable=True,
        )
    except RemoteRefusal:
        raise ServerUnreachable(f"{destination} does not tell the keys of its users") from None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
