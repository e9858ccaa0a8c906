"""Dehydrated devices (MSC3814): a device that takes messages while its owner has none, for the one that they log in on
next. Nobody is ever logged in on it.

To everybody else it is a device like any other: it has keys, which its owner's cross-signing identity has signed, and a
mailbox, which is kept until the device is replaced or deleted, so that whoever failed to read it can begin again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from homeserver.accounts import callers, devices, sessions
from homeserver.accounts.sessions import DeviceWish
from homeserver.e2ee import key_format, mailboxes, one_time_keys, publication, unsigned
from homeserver.e2ee.uploads import own_signatures
from homeserver.protocol.errors import InvalidParam, NotFound, TooLarge
from homeserver.protocol.key_log import Reason
from homeserver.protocol.signing import verify_json
from homeserver.storage import dehydrated_devices as stored
from homeserver.storage import device_keys as stored_keys
from homeserver.storage import devices as stored_devices
from homeserver.storage import one_time_keys as stored_one_time
from homeserver.storage.device_keys import SELF_SIGNING, UserKeys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Caller, Server
    from homeserver.storage.dehydrated_devices import Dehydrated
    from homeserver.storage.engine import Transaction
    from homeserver.storage.one_time_keys import OneTimeKey

LARGEST: Final = 64 * 1024
"""Bytes of what opens such a device."""

PAGE: Final = 100
"""Messages in one answer, unless fewer are asked for."""


class Page(NamedTuple):
    """Messages for the device, oldest first, as JSON; ``end``: behind which position to go on; ``more``: whether there
    may be any."""

    events: Sequence[bytes]
    end: int
    more: bool


@dataclass(frozen=True, slots=True)
class _New:
    """A device that is about to be stored, checked as far as that goes without the database."""

    device_id: str
    display_name: str | None
    device_data: bytes
    keys: dict[str, Any]
    one_time: Sequence[OneTimeKey]
    fallback: Sequence[OneTimeKey]


async def put(
    server: Server,
    caller: Caller,
    wish: DeviceWish,
    device_data: Mapping[str, Any],
    keys: dict[str, Any],
    one_time: Mapping[str, Any],
    fallback: Mapping[str, Any],
) -> str:
    """Store a dehydrated device in the place of the caller's earlier one; returns its id.

    Raises InvalidParam for a device id that is in use, or keys that are not those of a dehydrated device;
    InvalidSignature unless the device itself and its owner's self-signing key have signed them; BadJson, MissingParam,
    TooLarge, Forbidden.
    """
    wish.check()
    if wish.device_id is None:
        raise InvalidParam("A dehydrated device needs a device ID")
    key_format.check_device_keys(keys, caller.user_id, wish.device_id, strict=_is_strict(server))
    if keys.get("dehydrated") is not True:
        raise InvalidParam("'device_keys.dehydrated' must be true")
    body = orjson.dumps(device_data)
    if len(body) > LARGEST:
        raise TooLarge(f"The 'device_data' have at most {LARGEST} bytes")
    new = _New(
        wish.device_id,
        wish.display_name,
        body,
        keys,
        key_format.one_time_keys(one_time),
        key_format.one_time_keys(fallback, fallback=True),
    )
    if len(new.one_time) > server.settings.limits.one_time_keys:
        raise InvalidParam(f"A device has at most {server.settings.limits.one_time_keys} one-time keys at a time")
    await caller.node.advance(_put, server, caller, new)
    return wish.device_id


def _is_strict(server: Server) -> bool:
    return not server.settings.conformance_mode


async def _put(tx: Transaction, server: Server, caller: Caller, new: _New) -> None:
    user_nid = caller.user_nid
    if _is_strict(server):
        await _check_cross_signed(tx, caller, new.keys)
    earlier = await stored.find(tx, user_nid)
    if earlier is not None:
        await stored_devices.delete(tx, user_nid, [earlier.device])
    device_nid, is_new = await sessions.ensure_device(tx, server, user_nid, new.device_id, new.display_name)
    if not is_new:
        raise InvalidParam("You have another device with this ID")
    stored.put(tx, user_nid, device_nid, new.device_data)
    held = await stored_one_time.held(tx, user_nid, device_nid, new.device_id, ())
    stored_one_time.add(tx, user_nid, device_nid, new.one_time, held)
    stored_one_time.put_fallback(tx, user_nid, device_nid, new.fallback)
    signatures = own_signatures(new.keys, caller.user_id)
    blob = key_format.encoded({**new.keys, "signatures": signatures}, key_format.MAX_DEVICE_KEYS)
    stored_keys.put_device(tx, user_nid, new.device_id, blob)
    await unsigned.note(tx, server, caller.user_id, user_nid, new.device_id, new.keys)
    replaced = [] if earlier is None else [earlier.device.device_id]
    changed = publication.Changed(list(dict.fromkeys([*replaced, new.device_id])), reason=Reason.DEVICE_KEYS)
    await publication.publish(tx, server, caller.node, caller.user_id, user_nid, changed)

    def forget() -> None:
        caller.node.memory(one_time_keys.Remembered).forget([device_nid])
        callers.forget(server, caller.node, caller.user_id)

    tx.after_commit(forget)


async def _check_cross_signed(tx: Transaction, caller: Caller, keys: Mapping[str, Any]) -> None:
    mine = (await stored_keys.of_users(tx, [caller.user_id])).get(caller.user_id, UserKeys())
    if SELF_SIGNING not in mine.signing:
        raise InvalidParam("A dehydrated device must be signed by your self-signing key, and you have none")
    by = key_format.public_key(orjson.loads(mine.signing[SELF_SIGNING]))
    verify_json(keys, caller.user_id, {by.key_id: by})


async def find(caller: Caller) -> Dehydrated:
    """The caller's dehydrated device. Raises NotFound."""
    found = await caller.node.read(stored.find, caller.user_nid)
    if found is None:
        raise NotFound("You have no dehydrated device")
    return found


async def delete(server: Server, caller: Caller) -> str:
    """Delete the caller's dehydrated device; returns its id. Raises NotFound."""
    device_id = (await find(caller)).device.device_id
    await devices.remove(server, caller.node, caller.user_id, caller.user_nid, [device_id])
    await publication.told(server, caller.node)
    return device_id


async def messages(caller: Caller, device_id: str, after: int, limit: int) -> Page:
    """What has come for the caller's dehydrated device behind a position. Raises NotFound when it is not that one."""
    device = (await find(caller)).device
    if device.device_id != device_id:
        raise NotFound("That is not your dehydrated device")
    await caller.node.start()
    found = await mailboxes.waiting(caller.node, device.device_nid, after, caller.node.position, limit)
    return Page([event for _, event in found], found[-1][0] if found else after, len(found) == limit)
