"""Public keys as another server tells them, checked before anybody is shown them.

What is not the key of the user and device that it is said to be, or not signed by it, is left out: a client would
have to throw it away, and one that does not would encrypt for a stranger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.e2ee import key_format, uploads
from homeserver.protocol.errors import BadJson, Refusal
from homeserver.protocol.identifiers import is_device_id
from homeserver.storage.device_keys import MASTER, SELF_SIGNING, DeviceKeys, UserKeys

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_DEVICES = 1000
"""Devices of one user that are looked at."""


def of_user(user_id: str, devices: object, master: object, self_signing: object, *, strict: bool) -> UserKeys:
    """The keys of a user as far as they are what they should be.

    ``devices``: identity keys by device id. Without ``strict`` devices need not have signed their keys.
    """
    named = list(devices.items())[:MOST_DEVICES] if isinstance(devices, dict) else []
    found = {device_id: device(keys, user_id, device_id, strict=strict) for device_id, keys in named}
    return UserKeys(
        {device_id: DeviceKeys(keys, None) for device_id, keys in found.items() if keys is not None},
        signing(user_id, master, self_signing),
    )


def device(keys: object, user_id: str, device_id: object, *, strict: bool) -> bytes | None:
    """The identity keys of a device as they are stored, with no signatures but its owner's; None for what is none."""
    if not isinstance(keys, dict) or not isinstance(device_id, str) or not is_device_id(device_id):
        return None
    try:
        key_format.check_device_keys(keys, user_id, device_id, strict=strict)
        if strict and f"ed25519:{device_id}" not in keys["keys"]:
            return None  # nobody could tell whose the other keys are
        return uploads.merged(keys, None, user_id)
    except Refusal:
        return None


def signing(user_id: str, master: object, self_signing: object) -> dict[str, bytes]:
    """The cross-signing keys of a user by usage: a master key, and a self-signing key that it signed; none where one is
    malformed."""
    try:
        first = key_format.signing_key(_object(master), MASTER, user_id)
        found = {MASTER: _stored(first.key, user_id)}
    except Refusal:
        return {}
    try:
        second = key_format.signing_key(_object(self_signing), SELF_SIGNING, user_id)
        key_format.check_signed(second, user_id, first.public)
        found[SELF_SIGNING] = _stored(second.key, user_id)
    except Refusal:
        pass
    return found


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadJson("A cross-signing key must be an object")
    return value


def _stored(key: Mapping[str, Any], user_id: str) -> bytes:
    own = {**key, "signatures": uploads.own_signatures(key, user_id)}
    return key_format.encoded(own, key_format.MAX_SIGNING_KEY)
