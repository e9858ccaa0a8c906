"""Another identity of somebody whose devices are still there that the one before had signed: whoever has their password
can make it, and sign a device of their own with it.

Until one of those devices vouches for the new identity, which it does by signing the master key as clients do that make
an identity or verify it, or until none is left but the one that made it, others are shown no device of that user.
That somebody is logged in as such a device is not enough: with the password one can log in as any.

spec: client-server-api/#cross-signing
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    from collections.abc import Mapping, Sequence

    from homeserver.context import Caller, Server
    from homeserver.storage.device_keys import UserKeys
    from homeserver.storage.engine import Transaction


def reset(
    tx: Transaction, server: Server, caller: Caller, before: UserKeys, master: Mapping[str, Any]
) -> Sequence[str]:
    """Queue what follows from another identity, whose key is ``master``, made by the caller's device; ``before``: the
    keys that there were.

    Returns the devices of which others are to be told that they are shown now, or not any more.
    """
    if server.settings.encryption.unsigned_device_grace is None:
        return ()
    heard = _heard(before, caller.user_id)
    others = [device_id for device_id in heard if device_id != caller.device_id]
    unsigned_devices.await_none(tx, caller.user_nid)
    if not others or (caller.device_id in heard and _has_signed(before, caller.device_id, caller.user_id, master)):
        return list(before.devices) if before.contested else ()
    unsigned_devices.await_word(tx, caller.user_nid, others, [each for each in heard if each not in others])
    return () if before.contested else list(before.devices)


def _heard(keys: UserKeys, user_id: str) -> list[str]:
    """The devices whose word counts: those that the identity has signed, or the one before that is still contested."""
    if keys.contested:
        return [device_id for device_id, device in keys.devices.items() if device.heard]
    return [each for each in keys.devices if is_signed(keys, each, user_id) and not is_dehydrated(keys, each)]


def signed(tx: Transaction, caller: Caller, now: UserKeys) -> Sequence[str]:
    """Queue what follows from a signature under the master key, which is among the keys ``now``. Returns what `reset`
    does."""
    if not now.contested:
        return ()
    master = orjson.loads(now.signing[MASTER])
    heard = _heard(now, caller.user_id)
    if not any(_has_signed(now, device_id, caller.user_id, master) for device_id in heard):
        return ()
    unsigned_devices.await_none(tx, caller.user_nid)
    return list(now.devices)


def _has_signed(keys: UserKeys, device_id: str, user_id: str, master: Mapping[str, Any]) -> bool:
    """Whether a device has signed a master key."""
    key = device_verify_keys(keys).get(f"ed25519:{device_id}")
    made = key_format.signatures_in(master).get(user_id, {})
    if key is None or key.key_id not in made:
        return False
    try:
        verify_json({**master, "signatures": {user_id: {key.key_id: made[key.key_id]}}}, user_id, {key.key_id: key})
    except Refusal:
        return False
    return True
