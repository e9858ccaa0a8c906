"""Public keys of devices and users, asked for by a user: from the asker's own node, which has those of its residents
and copies of those with whom they share rooms; else from the owner's node, across the border only if keys may flow.

spec: client-server-api/#tracking-the-device-list-for-a-user
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from config.residency import DataClass
from homeserver.e2ee import key_format, publication
from homeserver.e2ee.failures import Failures
from homeserver.protocol.errors import InvalidParam
from homeserver.residency import gate
from homeserver.storage import device_keys as stored
from homeserver.storage.device_keys import MASTER, SELF_SIGNING, USER_SIGNING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from homeserver.context import Caller, Server
    from homeserver.protocol.signing import VerifyKey
    from homeserver.storage.device_keys import DeviceKeys, Signature, UserKeys
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

MAX_USERS = 10_000
"""Users whose keys one request may ask for."""


async def query(server: Server, caller: Caller, wanted: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """The keys of users, as the caller is shown them. The answer of the endpoint.

    ``wanted``: device ids by user id; none of them means all. Raises NodeUnavailable when the caller's node is down.

    spec: client-server-api/#post_matrixclientv3keysquery
    """
    missing = Failures(server)
    found = await find(server, caller, list(wanted), missing)
    answer: dict[str, dict[str, Any]] = {
        "device_keys": {},
        "failures": missing.found,
        "master_keys": {},
        "self_signing_keys": {},
        "user_signing_keys": {},
    }
    for user_id, keys in found.items():
        devices = wanted[user_id] or keys.devices
        answer["device_keys"][user_id] = {
            device_id: _shown(device) for device_id in devices if (device := keys.devices.get(device_id)) is not None
        }
        if MASTER in keys.signing:
            answer["master_keys"][user_id] = _signed(keys.signing[MASTER], caller.user_id, keys.signatures)
        if SELF_SIGNING in keys.signing:
            answer["self_signing_keys"][user_id] = orjson.Fragment(keys.signing[SELF_SIGNING])
        if USER_SIGNING in keys.signing and user_id == caller.user_id:
            answer["user_signing_keys"][user_id] = orjson.Fragment(keys.signing[USER_SIGNING])
    return answer


def _shown(device: DeviceKeys) -> orjson.Fragment:
    if device.display_name is None:
        return orjson.Fragment(device.keys)
    name = orjson.dumps(device.display_name)
    return orjson.Fragment(device.keys[:-1] + b',"unsigned":{"device_display_name":' + name + b"}}")


def _signed(key: bytes, signer: str, signatures: Sequence[Signature]) -> Any:
    """A master key with the signatures that its reader made under it."""
    if not signatures:
        return orjson.Fragment(key)
    shown = orjson.loads(key)
    for signature in signatures:
        if signature.target_key_id in shown["keys"]:
            by_reader = shown.setdefault("signatures", {}).setdefault(signer, {})
            by_reader[signature.signing_key_id] = signature.signature
    return shown


async def find(server: Server, caller: Caller, user_ids: Sequence[str], missing: Failures) -> dict[str, UserKeys]:
    """The keys of those users who are known; what could not be asked for is noted in ``missing``."""
    own = caller.node
    found = await own.read(stored.of_users, user_ids, caller.user_nid)
    rest = [user_id for user_id in user_ids if user_id not in found]
    if rest:
        missing.foreign(user_id for user_id in rest if not server.nodes.is_local(user_id))
        found.update(await _elsewhere(server, caller, rest, missing))
    return found


async def _elsewhere(server: Server, caller: Caller, user_ids: Sequence[str], missing: Failures) -> dict[str, UserKeys]:
    own = caller.node
    homes = await server.nodes.of_users(user_ids)
    by_node: dict[str, list[str]] = {}
    for user_id, name in homes.items():
        if name != own.name:
            by_node.setdefault(name, []).append(user_id)
    if not by_node:
        return {}
    sharing, signatures = await own.read(_relations, caller.user_nid, list(homes))
    parts = await asyncio.gather(
        *(_read_from(server, own, name, part, sharing, missing) for name, part in by_node.items())
    )
    found = {user_id: keys for part in parts for user_id, keys in part.items()}
    for signature in signatures:
        if signature.target_user_id in found:
            found[signature.target_user_id].signatures.append(signature)
    return found


async def _relations(
    tx: Transaction, reader_nid: int, user_ids: Sequence[str]
) -> tuple[dict[str, int], list[Signature]]:
    return (
        await stored.sharing_with_residents(tx, user_ids),
        await stored.signatures_under(tx, reader_nid, user_ids),
    )


async def _read_from(
    server: Server, own: Node, name: str, user_ids: Sequence[str], sharing: Mapping[str, int], missing: Failures
) -> dict[str, UserKeys]:
    """Keys from the node of their owners; copies are kept of those with whom a resident shares a room."""
    found: dict[str, UserKeys] = {}
    with missing.noting(own=False):
        node = server.nodes[name]
        gate.check(server, DataClass.KEYS, node.jurisdiction, own.jurisdiction)
        strangers = [user_id for user_id in user_ids if user_id not in sharing]
        if strangers:
            found.update(await node.read(stored.of_users, strangers))
        known = [user_id for user_id in user_ids if user_id in sharing]
        if known:
            version, lent = await node.write(stored.lend, known, own.name)
            await own.write(publication.keep, own, name, version, {sharing[user_id]: lent[user_id] for user_id in lent})
            found.update(lent)
    return {user_id: keys.nameless() for user_id, keys in found.items()}


# whose key a signature may be by ------------------------------------------------------------


def device_verify_keys(keys: UserKeys) -> dict[str, VerifyKey]:
    """The ed25519 keys of a user's devices by key id, those that are well-formed."""
    found = {}
    for device_id, device in keys.devices.items():
        key_id = f"ed25519:{device_id}"
        text = orjson.loads(device.keys)["keys"].get(key_id)
        if text is not None:
            try:
                found[key_id] = key_format.verify_key(key_id, text)
            except InvalidParam:
                continue
    return found
