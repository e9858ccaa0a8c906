"""Devices that their owners have not signed: after a time of grace others are not shown them, and nobody encrypts for
them, until they are signed.

Who has no self-signing key can sign nothing: their devices are shown. Owners are always shown all of theirs. What is
withheld stays so whatever the clock says: a signature ends it, and nothing else but the setting ``never``.

spec: client-server-api/#cross-signing
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from homeserver.e2ee import key_format, publication
from homeserver.protocol.errors import NodeUnavailable, Refusal
from homeserver.protocol.signing import verify_json
from homeserver.storage import device_keys as stored
from homeserver.storage import unsigned_devices
from homeserver.storage.device_keys import SELF_SIGNING, UserKeys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.unsigned_devices import Unsigned

log = structlog.get_logger("e2ee.unsigned")

AT_ONCE: Final = 50
"""Devices that are looked at in one transaction."""


def is_signed(keys: UserKeys, device_id: str, user_id: str) -> bool:
    """Whether the self-signing key that a user has now has signed a device."""
    device, key = keys.devices.get(device_id), keys.signing.get(SELF_SIGNING)
    if device is None or key is None:
        return False
    try:
        by = key_format.public_key(orjson.loads(key))
        held: dict[str, Any] = orjson.loads(device.keys)
        made = key_format.signatures_in(held).get(user_id, {})
        if by.key_id not in made:
            return False
        verify_json({**held, "signatures": {user_id: {by.key_id: made[by.key_id]}}}, user_id, {by.key_id: by})
    except Refusal:
        return False
    return True


async def note(
    tx: Transaction, server: Server, user_id: str, user_nid: int, device_id: str, made: Mapping[str, Any]
) -> None:
    """Queue, behind the keys ``made`` for a device, whether it is signed, and since when not; before it is published.

    No trip, unless somebody else than the device has signed it.
    """
    grace = server.settings.encryption.unsigned_device_grace
    if key_format.signatures_in(made).get(user_id, {}).keys() - {f"ed25519:{device_id}"}:
        keys = (await stored.of_users(tx, [user_id])).get(user_id, UserKeys())
        if is_signed(keys, device_id, user_id):
            unsigned_devices.settle(tx, user_nid, [device_id])
            return
    at_once = grace is not None and not grace.ms
    unsigned_devices.wait(tx, user_nid, device_id, server.clock.now_ms(), withheld=at_once)


async def note_identity(tx: Transaction, server: Server, user_id: str, user_nid: int) -> None:
    """Queue, behind new cross-signing keys, that the devices which these have not signed have time until they are."""
    keys = (await stored.of_users(tx, [user_id])).get(user_id, UserKeys())
    signed = {device_id for device_id in keys.devices if is_signed(keys, device_id, user_id)}
    unsigned_devices.settle(tx, user_nid, signed)
    unsigned_devices.begin_anew(tx, user_nid, keys.devices.keys() - signed, server.clock.now_ms())


# as time passes -----------------------------------------------------------------------------


async def sweep(server: Server) -> None:
    """Withhold what has gone unsigned for too long, on all nodes that are up. A job."""
    for node in server.nodes:
        try:
            await sweep_node(server, node)
        except NodeUnavailable:
            continue


async def sweep_node(server: Server, node: Node) -> None:
    """`sweep` of one node. Raises NodeUnavailable."""
    grace, now_ms = server.settings.encryption.unsigned_device_grace, server.clock.now_ms()
    if await node.read(unsigned_devices.is_misdated, now_ms):
        await node.write(unsigned_devices.count_from, now_ms)
    if grace is None:
        while waiting := await node.read(unsigned_devices.withheld, AT_ONCE):
            await node.advance(_show_again, server, node, waiting)
        return
    while waiting := await node.read(unsigned_devices.overdue, now_ms - grace.ms, AT_ONCE):
        await node.advance(_withhold, server, node, waiting)


async def _withhold(tx: Transaction, server: Server, node: Node, waiting: Sequence[Unsigned]) -> None:
    for (user_nid, user_id), theirs in groupby(waiting, lambda each: (each.user_nid, each.user_id)):
        keys = (await stored.of_users(tx, [user_id])).get(user_id, UserKeys())
        there = [each.device_id for each in theirs if each.device_id in keys.devices]
        signed = [device_id for device_id in there if is_signed(keys, device_id, user_id)]
        late = [device_id for device_id in there if device_id not in signed]
        unsigned_devices.settle(tx, user_nid, signed)
        unsigned_devices.withhold(tx, user_nid, late)
        if late:
            await publication.publish(tx, server, node, user_id, user_nid, publication.Changed(late))
            log.info("unsigned devices are withheld", node=node.name, devices=len(late))


async def _show_again(tx: Transaction, server: Server, node: Node, waiting: Sequence[Unsigned]) -> None:
    for (user_nid, user_id), theirs in groupby(waiting, lambda each: (each.user_nid, each.user_id)):
        unsigned_devices.show(tx, user_nid, [each.device_id for each in theirs])
        keys = (await stored.of_users(tx, [user_id])).get(user_id, UserKeys())
        await publication.publish(tx, server, node, user_id, user_nid, publication.Changed(list(keys.devices)))
