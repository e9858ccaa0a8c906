"""What other servers are told of the public keys of local users: from each user's node, as far as keys may flow there.

What devices are called stays at home, and so do user-signing keys.

spec: server-server-api/#end-to-end-encryption
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from config.residency import DataClass
from homeserver.protocol.errors import FlowDenied, NodeUnavailable, NotFound, Refusal
from homeserver.residency import gate, traffic
from homeserver.storage import device_keys as stored
from homeserver.storage.device_keys import MASTER, SELF_SIGNING
from homeserver.transparency import proving
from homeserver.transparency.agreement import for_others

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from homeserver.context import Server
    from homeserver.storage.device_keys import UserKeys


async def query(server: Server, origin: str, wanted: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """The keys of local users for another server. The answer of the endpoint.

    ``wanted``: device ids by user id; none of them means all. Users whose node is down, or whose keys may not go
    there, are left out; raises NodeUnavailable or FlowDenied when that leaves nobody.

    spec: server-server-api/#post_matrixfederationv1userkeysquery
    """
    homes = await server.nodes.of_users(wanted)
    refusals: list[Refusal] = []

    proofs: dict[str, Any] = {}

    async def of_node(name: str) -> dict[str, UserKeys]:
        try:
            node = server.nodes[name]
            traffic.concerns(node)
            gate.check(server, DataClass.KEYS, node.jurisdiction, server.policy.now.jurisdiction_of_server(origin))
            here = [user_id for user_id in wanted if homes.get(user_id) == name]
            found = {each: for_others(keys) for each, keys in (await node.read(stored.of_users, here)).items()}
            proofs.update((await proving.of_users(server, node, list(found))).get(proving.FIELD, {}))
            return found
        except (FlowDenied, NodeUnavailable) as refusal:
            refusals.append(refusal)
            return {}

    parts = await asyncio.gather(*(of_node(name) for name in set(homes.values())))
    found = {user_id: keys for part in parts for user_id, keys in part.items()}
    if refusals and not found:
        raise refusals[0]
    return {
        "device_keys": {user_id: _devices(keys, wanted[user_id]) for user_id, keys in found.items()},
        "master_keys": _signing(found, MASTER),
        "self_signing_keys": _signing(found, SELF_SIGNING),
        **({proving.FIELD: proofs} if proofs else {}),
    }


def _devices(keys: UserKeys, wanted: Collection[str]) -> dict[str, orjson.Fragment]:
    chosen = [device_id for device_id in keys.devices if not wanted or device_id in wanted]
    return {device_id: orjson.Fragment(keys.devices[device_id].keys) for device_id in chosen}


def _signing(found: Mapping[str, UserKeys], usage: str) -> dict[str, orjson.Fragment]:
    return {user_id: orjson.Fragment(keys.signing[usage]) for user_id, keys in found.items() if usage in keys.signing}


async def device_list(server: Server, origin: str, user_id: str) -> dict[str, Any]:
    """The device list of a local user for another server, with the position at which it changed last.

    Raises NotFound, FlowDenied, NodeUnavailable. spec: server-server-api/#get_matrixfederationv1userdevicesuserid
    """
    node = await server.whose(user_id)
    if node is None:
        raise NotFound("There is no such user")
    traffic.concerns(node)
    gate.check(server, DataClass.KEYS, node.jurisdiction, server.policy.now.jurisdiction_of_server(origin))
    found = await node.read(stored.list_of, user_id)
    if found is None:
        raise NotFound("There is no such user")
    stream_id, keys = found[0], for_others(found[1])
    answer: dict[str, Any] = {
        "user_id": user_id,
        "stream_id": stream_id,
        "devices": [
            {"device_id": device_id, "keys": orjson.Fragment(device.keys)} for device_id, device in keys.devices.items()
        ],
    }
    for usage, name in ((MASTER, "master_key"), (SELF_SIGNING, "self_signing_key")):
        if usage in keys.signing:
            answer[name] = orjson.Fragment(keys.signing[usage])
    return {**answer, **await proving.of_users(server, node, [user_id])}
