"""Another identity of somebody whose devices are still there that the one before had signed: whoever has their password
can make it, and sign a device of their own with it.

Until one of those devices vouches for the new identity, which it does by signing the master key as clients do when they
verify it, or until none of them is left, others are shown no device of that user. Who resets their identity on a device
that they had signed, or has no other that they had, is not asked for anything.

spec: client-server-api/#cross-signing
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from homeserver.e2ee import key_format
from homeserver.e2ee.device_keys import device_verify_keys
from homeserver.e2ee.unsigned import is_signed
from homeserver.protocol.errors import Refusal
from homeserver.protocol.signing import verify_json
from homeserver.storage import unsigned_devices
from homeserver.storage.device_keys import MASTER
from homeserver.transparency.changes import is_dehydrated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Caller, Server
    from homeserver.storage.device_keys import UserKeys
    from homeserver.storage.engine import Transaction


def reset(tx: Transaction, server: Server, caller: Caller, before: UserKeys) -> Sequence[str]:
    """Queue what follows from another identity, made by the caller's device; ``before``: the keys that there were.

    Returns the devices of which others are to be told that they are shown now, or not any more.
    """
    if server.settings.encryption.unsigned_device_grace is None:
        return ()
    if before.contested:
        mine = before.devices.get(caller.device_id)
        if mine is None or not mine.awaited:
            return ()
        unsigned_devices.await_none(tx, caller.user_nid)
        return list(before.devices)
    if is_signed(before, caller.device_id, caller.user_id):
        return ()
    former = [
        device_id
        for device_id in before.devices
        if is_signed(before, device_id, caller.user_id) and not is_dehydrated(before, device_id)
    ]
    unsigned_devices.await_word(tx, caller.user_nid, former)
    return list(before.devices) if former else ()


def signed(tx: Transaction, caller: Caller, now: UserKeys) -> Sequence[str]:
    """Queue what follows from a signature under the master key, which is among the keys ``now``. Returns what `reset`
    does."""
    if not any(_vouches(now, device_id, caller.user_id) for device_id in now.devices):
        return ()
    unsigned_devices.await_none(tx, caller.user_nid)
    return list(now.devices)


def _vouches(keys: UserKeys, device_id: str, user_id: str) -> bool:
    """Whether a device whose word is awaited has signed the master key."""
    key = device_verify_keys(keys).get(f"ed25519:{device_id}")
    if not keys.devices[device_id].awaited or key is None:
        return False
    master = orjson.loads(keys.signing[MASTER])
    made = key_format.signatures_in(master).get(user_id, {})
    if key.key_id not in made:
        return False
    try:
        verify_json({**master, "signatures": {user_id: {key.key_id: made[key.key_id]}}}, user_id, {key.key_id: key})
    except Refusal:
        return False
    return True
