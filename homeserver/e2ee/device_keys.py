"""Public keys of devices and users, asked for by a user: from the asker's own node, which has those of its residents
and copies of those with whom they share rooms; else from the owner's node or server, across the border only if keys may
flow.

spec: client-server-api/#tracking-the-device-list-for-a-user
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from config.residency import DataClass
from homeserver.e2ee import carried, key_format, publication, remote_lists, shown_keys
from homeserver.e2ee.failures import Failures
from homeserver.protocol.errors import InvalidParam
from homeserver.protocol.identifiers import domain_of
from homeserver.residency import gate
from homeserver.storage import device_keys as stored
from homeserver.storage import key_audiences, key_copies
from homeserver.storage.device_keys import MASTER, SELF_SIGNING, USER_SIGNING
from homeserver.transparency import peers, proving
from homeserver.transparency.agreement import for_others

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from homeserver.context import Caller, Server
    from homeserver.e2ee.shown_keys import Shown
    from homeserver.protocol.signing import VerifyKey
    from homeserver.storage.device_keys import Signature, UserKeys
    from homeserver.storage.nodes import Node

MAX_USERS = 10_000
"""Users whose keys one request may ask for."""


PATIENCE = 10.0
"""Seconds that other servers get to tell keys, unless the client says otherwise."""


async def query(
    server: Server, caller: Caller, wanted: Mapping[str, Collection[str]], seconds: float = PATIENCE
) -> dict[str, Any]:
    """The keys of users, as the caller is shown them. The answer of the endpoint.

    ``wanted``: device ids by user id; none of them means all. ``seconds``: how long other servers are waited for.
    Raises NodeUnavailable when the caller's node is down.

    spec: client-server-api/#post_matrixclientv3keysquery
    """
    missing = Failures(server)
    proofs: dict[str, Any] = {}
    found, signatures = await shown_keys.of_users(server, caller.node, wanted, caller.user_nid)
    if len(found) < len(wanted):
        rest = [user_id for user_id in wanted if user_id not in found]
        elsewhere = await _elsewhere(server, caller.node, rest, seconds, missing, proofs)
        found.update({user_id: shown_keys.show(keys) for user_id, keys in elsewhere.items()})
    by_device: dict[str, Any] = {}
    masters: dict[str, Any] = {}
    self_signing: dict[str, Any] = {}
    if caller.user_id in found:
        found[caller.user_id] = found[caller.user_id].for_owner()
    for user_id, keys in found.items():
        devices, signing = wanted[user_id], keys.signing
        by_device[user_id] = _chosen(keys.devices, devices) if devices else keys.devices
        if MASTER in signing:
            masters[user_id] = _signed(signing[MASTER], caller.user_id, signatures.get(user_id, ()))
        if SELF_SIGNING in signing:
            self_signing[user_id] = orjson.Fragment(signing[SELF_SIGNING])
    own = found.get(caller.user_id)
    return {
        "device_keys": by_device,
        "failures": missing.found,
        "master_keys": masters,
        "self_signing_keys": self_signing,
        "user_signing_keys": {}
        if own is None or USER_SIGNING not in own.signing
        else {caller.user_id: orjson.Fragment(own.signing[USER_SIGNING])},
        **await _proved(server, caller.node, found, proofs),
    }


async def _proved(
    server: Server, node: Node, found: Mapping[str, Shown], elsewhere: Mapping[str, Any]
) -> dict[str, Any]:
    """What is told of the asker's own node, of those that were asked anyway, and what came with copies: no other node
    is asked for this alone."""
    proofs = {**elsewhere, **(await proving.of_users(server, node, list(found))).get(proving.FIELD, {})}
    for user_id in carried.tell(server, node, found, proofs):
        if peers.has_log(server, domain_of(user_id)):
            remote_lists.prove_again(server, node, user_id)
    return {proving.FIELD: proofs} if proofs else {}


def _chosen(devices: Mapping[str, orjson.Fragment], wanted: Collection[str]) -> dict[str, orjson.Fragment]:
    return {device_id: devices[device_id] for device_id in wanted if device_id in devices}


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
    await shown_keys.catch_up(server, caller.node)
    found = await caller.node.read(stored.of_users, user_ids)
    rest = [user_id for user_id in user_ids if user_id not in found]
    if rest:
        found.update(await _elsewhere(server, caller.node, rest, PATIENCE, missing, {}))
    return found


async def _elsewhere(
    server: Server, own: Node, user_ids: Sequence[str], seconds: float, missing: Failures, proofs: dict[str, Any]
) -> dict[str, UserKeys]:
    """The keys of users of whom the asker's node knows nothing; and what proves them."""
    foreign = [user_id for user_id in user_ids if not server.nodes.is_local(user_id)]
    if not foreign:
        return await _from_nodes(server, own, user_ids, missing, proofs)
    ours, theirs = await asyncio.gather(
        _from_nodes(server, own, user_ids, missing, proofs),
        remote_lists.of_users(server, own, foreign, seconds, missing),
    )
    return {**ours, **theirs}


async def _from_nodes(
    server: Server, own: Node, user_ids: Sequence[str], missing: Failures, proofs: dict[str, Any]
) -> dict[str, UserKeys]:
    """The keys of those users who are pinned to other nodes."""
    homes = await server.nodes.of_users(user_ids)
    by_node: dict[str, list[str]] = {}
    for user_id, name in homes.items():
        if name != own.name:
            by_node.setdefault(name, []).append(user_id)
    if not by_node:
        return {}
    sharing = await own.read(key_copies.sharing_with_residents, list(homes))
    parts = await asyncio.gather(
        *(_read_from(server, own, name, part, sharing, missing, proofs) for name, part in by_node.items())
    )
    return {user_id: keys for part in parts for user_id, keys in part.items()}


async def _read_from(
    server: Server,
    own: Node,
    name: str,
    user_ids: Sequence[str],
    sharing: Mapping[str, int],
    missing: Failures,
    proofs: dict[str, Any],
) -> dict[str, UserKeys]:
    """Keys from the node of their owners; copies are kept of those with whom a resident shares a room."""
    found: dict[str, UserKeys] = {}
    with missing.noting(own=False):
        node = server.nodes[name]
        gate.check(server, DataClass.KEYS, node.jurisdiction, own.jurisdiction)
        strangers = [user_id for user_id in user_ids if user_id not in sharing]
        if strangers:
            told = await node.read(stored.of_users, strangers)
            found.update({user_id: for_others(keys) for user_id, keys in told.items()})
        known = [user_id for user_id in user_ids if user_id in sharing]
        if known:
            version, told = await node.write(key_audiences.lend, known, own.name)
            lent = {user_id: for_others(keys) for user_id, keys in told.items()}
            await own.write(publication.keep, own, name, version, {sharing[user_id]: lent[user_id] for user_id in lent})
            found.update(lent)
            carried.want(server, own, known)
        proofs.update((await proving.of_users(server, node, user_ids)).get(proving.FIELD, {}))
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
