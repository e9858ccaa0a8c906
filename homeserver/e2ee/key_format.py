"""The forms that keys have in JSON: what an upload must be before it is stored.

Signatures are checked where the signing key is at hand, though clients must not rely on it: what a client would have
to throw away does no good here.

spec: client-server-api/#key-algorithms
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson, InvalidParam, InvalidSignature, MissingParam, TooLarge
from homeserver.protocol.signing import VerifyKey, verify_json
from homeserver.storage.one_time_keys import OneTimeKey

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_DEVICE_KEYS = 16 * 1024
"""Bytes of a device's identity keys."""
MAX_SIGNING_KEY = 64 * 1024
"""Bytes of a cross-signing key with its signatures."""
MAX_ONE_TIME_KEY = 4 * 1024
"""Bytes of a one-time or fallback key."""
MAX_KEY_ID = 255
"""Characters of ``algorithm:id``."""

_NOT_THE_KEY = frozenset(("signatures", "unsigned"))


def core(key: Mapping[str, Any]) -> dict[str, Any]:
    """What a key is, without who has signed it."""
    return {name: value for name, value in key.items() if name not in _NOT_THE_KEY}


def encoded(key: Mapping[str, Any], most: int) -> bytes:
    """A key as it is stored: canonical, without ``unsigned``. Raises BadJson, TooLarge."""
    blob = canonical.encode({name: value for name, value in key.items() if name != "unsigned"})
    if len(blob) > most:
        raise TooLarge(f"A key of this kind has at most {most} bytes")
    return blob


def signatures_in(key: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Who signed a key: user id to key id to signature. Raises BadJson when it is something else."""
    signatures = key.get("signatures", {})
    if not isinstance(signatures, dict):
        raise BadJson("'signatures' must be an object")
    for signed in signatures.values():
        if not isinstance(signed, dict):
            raise BadJson("'signatures' must be an object of objects of strings")
        for text in signed.values():
            if not isinstance(text, str):
                raise BadJson("'signatures' must be an object of objects of strings")
    return signatures


# devices ------------------------------------------------------------------------------------


def check_device_keys(keys: Mapping[str, Any], user_id: str, device_id: str, *, strict: bool) -> None:
    """Raise unless these are identity keys of this device, signed by it.

    Without ``strict`` signatures may be missing, as in test suites that make up their keys.
    Raises MissingParam, BadJson, InvalidParam, InvalidSignature.
    """
    for name in ("user_id", "device_id", "algorithms", "keys", *(("signatures",) if strict else ())):
        if keys.get(name) is None:
            raise MissingParam(f"'device_keys.{name}' is missing")
    if keys["user_id"] != user_id or keys["device_id"] != device_id:
        raise InvalidParam("'device_keys' must be those of the user and device that upload them")
    algorithms, public = keys["algorithms"], keys["keys"]
    if not isinstance(algorithms, list) or not all(isinstance(each, str) for each in algorithms):
        raise BadJson("'device_keys.algorithms' must be an array of strings")
    if not isinstance(public, dict) or not all(isinstance(each, str) for each in public.values()):
        raise BadJson("'device_keys.keys' must be an object of strings")
    signatures_in(keys)
    signing = public.get(f"ed25519:{device_id}")
    if strict and signing is not None:
        verify_json(keys, user_id, {f"ed25519:{device_id}": verify_key(f"ed25519:{device_id}", signing)})


def verify_key(key_id: str, text: str) -> VerifyKey:
    """A public ed25519 key. Raises InvalidParam."""
    try:
        return VerifyKey.from_base64(key_id, text)
    except BadJson as error:
        raise InvalidParam(error.message) from None


def one_time_keys(keys: Mapping[str, Any], *, fallback: bool = False) -> list[OneTimeKey]:
    """The keys of an upload, checked. Raises BadJson, InvalidParam, TooLarge.

    spec: client-server-api/#key-algorithms
    """
    found = []
    for (name, key), blob in zip(keys.items(), canonical.encode_all(keys.values()), strict=True):
        algorithm, colon, key_id = name.partition(":")
        if not (algorithm and colon and key_id) or len(name) > MAX_KEY_ID or "\0" in name:
            raise InvalidParam("The name of a key must be '<algorithm>:<key_id>'")
        _check_one_time_key(algorithm, key)
        if len(blob) > MAX_ONE_TIME_KEY:
            raise TooLarge(f"A one-time key has at most {MAX_ONE_TIME_KEY} bytes")
        found.append(OneTimeKey(algorithm, key_id, blob))
    if fallback and len({key.algorithm for key in found}) != len(found):
        raise InvalidParam("There can be only one fallback key of each algorithm")
    return found


def _check_one_time_key(algorithm: str, key: object) -> None:
    if isinstance(key, str):
        if algorithm.startswith("signed_"):
            raise BadJson(f"A key of {algorithm} must be an object")
        return
    if not isinstance(key, dict) or not isinstance(key.get("key"), str):
        raise BadJson("A one-time key must be a string, or an object whose 'key' is a string")
    signatures_in(key)


# cross-signing ------------------------------------------------------------------------------


class SigningKey(NamedTuple):
    """A public cross-signing key: its object, and the key in it under its id (``ed25519:<public key>``)."""

    key: dict[str, Any]
    public: VerifyKey


def signing_key(key: dict[str, Any], usage: str, user_id: str) -> SigningKey:
    """A cross-signing key of a user, checked but for its signatures. Raises MissingParam, BadJson, InvalidParam."""
    for name in ("user_id", "usage", "keys"):
        if key.get(name) is None:
            raise MissingParam(f"'{name}' of a cross-signing key is missing")
    if key["user_id"] != user_id:
        raise InvalidParam("A cross-signing key must be that of the user who uploads it")
    if not isinstance(key["usage"], list) or usage not in key["usage"]:
        raise InvalidParam(f"The usage of this key must be '{usage}'")
    signatures_in(key)
    return SigningKey(key, public_key(key))


def public_key(key: Mapping[str, Any]) -> VerifyKey:
    """The public key in a cross-signing key. Raises BadJson, InvalidParam."""
    keys = key.get("keys")
    if not isinstance(keys, dict) or len(keys) != 1:
        raise BadJson("'keys' of a cross-signing key must have exactly one property")
    ((key_id, text),) = keys.items()
    if not isinstance(text, str) or key_id != f"ed25519:{text}":
        raise InvalidParam("The ID of a cross-signing key must be 'ed25519:' and its public key")
    return verify_key(key_id, text)


def name_of(key: VerifyKey) -> str:
    """A key's id without the algorithm."""
    return key.key_id.partition(":")[2]


def check_signed(key: SigningKey, user_id: str, by: VerifyKey) -> None:
    """Raise InvalidSignature unless a cross-signing key is signed by its owner's master key."""
    try:
        verify_json(key.key, user_id, {by.key_id: by})
    except InvalidSignature:
        raise InvalidSignature("The key is not signed by the master key") from None
