"""What a device uploads: identity keys, one-time keys, fallback keys; one transaction for all.

spec: client-server-api/#post_matrixclientv3keysupload
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from homeserver.e2ee import key_format, notices, one_time_keys, publication, unsigned
from homeserver.protocol.errors import InvalidParam, UnknownToken
from homeserver.protocol.key_log import Reason
from homeserver.storage import device_keys as stored_devices
from homeserver.storage import key_audiences, unsigned_devices
from homeserver.storage import one_time_keys as stored

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.one_time_keys import Held, OneTimeKey


@dataclass(frozen=True, slots=True)
class Upload:
    """What a request brings, checked."""

    device_keys: dict[str, Any] | None
    one_time_keys: Sequence[OneTimeKey]
    fallback_keys: Sequence[OneTimeKey]


async def upload(
    server: Server,
    caller: Caller,
    device_keys: dict[str, Any] | None,
    one_time: Mapping[str, Any],
    fallback: Mapping[str, Any],
) -> dict[str, int]:
    """Store the keys of the caller's device; returns how many one-time keys it has left, by algorithm.

    Raises BadJson, MissingParam, InvalidParam (not the device's own keys; a one-time key that exists with another
    content; too many of them), InvalidSignature, TooLarge.
    """
    caller.must_have_device()
    if device_keys is not None:
        strict = not server.settings.conformance_mode
        key_format.check_device_keys(device_keys, caller.user_id, caller.device_id, strict=strict)
    what = Upload(device_keys, key_format.one_time_keys(one_time), key_format.one_time_keys(fallback, fallback=True))
    if device_keys is None:
        if not what.one_time_keys and not what.fallback_keys:
            return (await one_time_keys.counts(caller.node, caller.user_nid, caller.device_nid)).one_time_keys
        return await caller.node.write(_upload, server, caller, what)
    return await caller.node.advance_together(_upload, server, caller, what)


async def _upload(tx: Transaction, server: Server, caller: Caller, what: Upload) -> dict[str, int]:
    user_nid, device_nid = caller.user_nid, caller.device_nid
    held = await stored.held(tx, user_nid, device_nid, caller.device_id, {key.key_id for key in what.one_time_keys})
    if not held.exists:
        raise UnknownToken("This device has been logged out")
    new = _new(what.one_time_keys, held)
    counts = _counts(held, new, what.fallback_keys)
    if max(counts.one_time_keys.values()) > server.settings.limits.one_time_keys:
        raise InvalidParam(f"A device has at most {server.settings.limits.one_time_keys} one-time keys at a time")
    if new:
        stored.add(tx, user_nid, device_nid, new, held)
    stored.put_fallback(tx, user_nid, device_nid, what.fallback_keys)
    keys = None if what.device_keys is None else merged(what.device_keys, held.device_keys, caller.user_id)
    if keys is not None:
        are_news = held.device_keys is None or not _is_same(held.device_keys, keys)
        stored_devices.put_device(tx, user_nid, caller.device_id, keys)
        if are_news:
            unsigned_devices.mute(tx, user_nid, caller.device_id)
        await unsigned.note(tx, server, caller.user_id, user_nid, caller.device_id, what.device_keys or {})
        audience = key_audiences.NOBODY if held.alone else None
        changed = publication.Changed([caller.device_id], reason=Reason.DEVICE_KEYS)
        await publication.publish(tx, server, caller.node, caller.user_id, user_nid, changed, audience)
        if are_news:
            await notices.tell(tx, server, caller.node, caller.user_id, Reason.DEVICE_KEYS, [caller.device_id])
    tx.after_commit(lambda: one_time_keys.remember(caller.node, device_nid, counts))
    return counts.one_time_keys


def _counts(held: Held, new: Sequence[OneTimeKey], fallback: Sequence[OneTimeKey]) -> one_time_keys.Counts:
    """What the device has once it has these keys too."""
    left = dict(held.left)
    for key in new:
        left[key.algorithm] = left.get(key.algorithm, 0) + 1
    unused = {key.algorithm for key in held.fallback} - held.used
    unused.update(key.algorithm for key in fallback if key not in held.fallback)
    return one_time_keys.shown(left, sorted(unused))


def _new(uploaded: Sequence[OneTimeKey], held: Held) -> list[OneTimeKey]:
    """The uploaded keys that were not uploaded before. Raises InvalidParam for one that is not what it was."""
    left = {(key.algorithm, key.key_id): key.key for key in held.one_time_keys}
    claimed = {(key.algorithm, key.key_id): key.key for key in held.claimed}
    new = []
    for key in uploaded:
        place = (key.algorithm, key.key_id)
        if place in left:
            if not _is_same(left[place], key.key):
                raise InvalidParam(f"One-time key {key.algorithm}:{key.key_id} already exists with another content")
        elif place not in claimed or not _is_same(claimed[place], key.key):
            new.append(key)
    return new


def _is_same(old: bytes, new: bytes) -> bool:
    return old == new or _unsigned(old) == _unsigned(new)


def _unsigned(key: bytes) -> object:
    """A one-time key without its signatures, which differ each time that some devices sign it."""
    value = orjson.loads(key)
    return key_format.core(value) if isinstance(value, dict) else value


def merged(keys: dict[str, Any], held: bytes | None, user_id: str) -> bytes | None:
    """Identity keys with the signatures that they had already; None when nothing is new. Raises BadJson, TooLarge.

    Of the signatures those of their owner are kept: nobody is to be shown who else has signed them.
    """
    signatures = own_signatures(keys, user_id)
    if held is not None:
        old = orjson.loads(held)
        if key_format.core(old) == key_format.core(keys):
            signatures = joined(own_signatures(old, user_id), signatures)
    blob = key_format.encoded({**keys, "signatures": signatures}, key_format.MAX_DEVICE_KEYS)
    return None if blob == held else blob


def own_signatures(key: Mapping[str, Any], user_id: str) -> dict[str, dict[str, str]]:
    """The signatures of a key's owner. Raises BadJson."""
    signatures = key_format.signatures_in(key)
    return {user_id: signatures[user_id]} if user_id in signatures else {}


def joined(old: Mapping[str, Mapping[str, str]], new: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Both sets of signatures; the new one where they differ."""
    return {user_id: {**old.get(user_id, {}), **new.get(user_id, {})} for user_id in [*old, *new]}
