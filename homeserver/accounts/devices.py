"""A user's devices: listing, naming, removing. A device that goes takes its session, keys and mailbox with it, and
those who encrypt for its owner are told.

spec: client-server-api/#device-management
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from homeserver.accounts import callers, sessions
from homeserver.protocol.errors import NotFound
from homeserver.protocol.key_log import Reason
from homeserver.sealing import last_days
from homeserver.storage import browser_sessions, chores, dehydrated_devices, oauth_grants, unsigned_devices
from homeserver.storage import devices as stored_devices
from homeserver.storage.streams import Stream
from homeserver.transparency import changes as key_changes

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.context import Caller, Server
    from homeserver.storage.devices import Device
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

KEYS_CHANGED = "device_list"
"""The kind of chore that asks to tell other nodes and servers that a user's public keys changed."""


async def shown(server: Server, caller: Caller, device_id: str | None = None) -> list[dict[str, Any]]:
    """The caller's devices, or one of them, as their owner is shown them. Raises NotFound.

    Of addresses nothing is said, for nobody here can read them; of times no more than the day.

    spec: client-server-api/#get_matrixclientv3devices
    """
    return await caller.node.read(_shown, server, caller.user_nid, device_id)


async def _shown(tx: Transaction, server: Server, user_nid: int, device_id: str | None) -> list[dict[str, Any]]:
    every = await stored_devices.of_user(tx, user_nid)
    wanted = [device for device in every if device_id in (None, device.device_id)]
    if device_id is not None and not wanted:
        raise NotFound("You have no such device")
    days = await last_days.of_user(tx, server, user_nid)
    return [_as_json(device, days.get(device.device_nid)) for device in wanted]


def _as_json(device: Device, last_seen_ts: int | None) -> dict[str, Any]:
    named = {"display_name": device.display_name, "last_seen_ts": last_seen_ts}
    return {"device_id": device.device_id, **{name: value for name, value in named.items() if value is not None}}


async def of_caller(caller: Caller) -> list[Device]:
    """The caller's devices."""
    return await caller.node.read(stored_devices.of_user, caller.user_nid)


async def find(caller: Caller, device_id: str) -> Device:
    """One of the caller's devices. Raises NotFound."""
    device = await caller.node.read(stored_devices.find, caller.user_nid, device_id)
    if device is None:
        raise NotFound("You have no such device")
    return device


async def rename(server: Server, caller: Caller, device_id: str, display_name: str | None) -> None:
    """Change a device's name. Raises NotFound, InvalidParam.

    spec: client-server-api/#put_matrixclientv3devicesdeviceid
    """
    sessions.check_name(display_name)
    await caller.node.advance(_rename, server, caller, device_id, display_name)


async def ensure(server: Server, caller: Caller, device_id: str, display_name: str | None) -> bool:
    """Make a device for a user of the application service that calls, without a session, or name the one there is; True
    when it was made. Raises InvalidParam, Forbidden for an id that is that of a cross-signing key, and for too many.

    spec: application-service-api/#creating-devices
    """
    sessions.DeviceWish(device_id, display_name).check()
    made = await caller.node.write(_make, server, caller, device_id, display_name)
    if not made and display_name is not None:
        await rename(server, caller, device_id, display_name)
    return made


async def _make(tx: Transaction, server: Server, caller: Caller, device_id: str, display_name: str | None) -> bool:
    _, made = await sessions.ensure_device(tx, server, caller.user_nid, device_id, display_name)
    tx.after_commit(lambda: callers.forget(server, caller.node, caller.user_id))
    return made


async def _rename(tx: Transaction, server: Server, caller: Caller, device_id: str, display_name: str | None) -> None:
    device = await stored_devices.find(tx, caller.user_nid, device_id)
    if device is None:
        raise NotFound("You have no such device")
    if device.display_name != display_name and await stored_devices.rename(tx, device, caller.user_nid, display_name):
        await tell(tx, server, caller.node, caller.user_nid)


async def remove(server: Server, node: Node, user_id: str, user_nid: int, device_ids: Collection[str] | None) -> None:
    """Remove devices of a resident of ``node`` (all of them if None); ids that they do not have are passed over."""
    await node.advance(remove_within, server, node, user_id, user_nid, device_ids)


async def remove_within(
    tx: Transaction,
    server: Server,
    node: Node,
    user_id: str,
    user_nid: int,
    device_ids: Collection[str] | None,
    *,
    but: str | None = None,
    closing: bool = False,
) -> bool:
    """`remove` inside a transaction of `Node.advance`; the device ``but`` stays, and unless the account is ``closing``,
    or it is named, one that is dehydrated: it is there for when no other is. True when public keys went with it; of an
    account that is closing, the key log is told by whoever closes it.

    With all devices go the browsers that the user is signed in to, and what they have allowed clients.
    """
    every = await stored_devices.of_user(tx, user_nid)
    wanted = None if device_ids is None else set(device_ids)
    gone = [d for d in every if (wanted is None or d.device_id in wanted) and d.device_id != but]
    if wanted is None and not closing and (kept := await dehydrated_devices.find(tx, user_nid)) is not None:
        gone = [device for device in gone if device != kept.device]
    if device_ids is None:
        browser_sessions.drop_of(tx, user_nid)
        oauth_grants.drop_of(tx, user_nid)
    names = [device.device_id for device in gone]
    released = [] if closing else await unsigned_devices.released(tx, user_nid, names)
    had_keys = await stored_devices.delete(tx, user_nid, gone)
    if had_keys:
        if not closing:
            await key_changes.append(tx, server, node, user_id, Reason.DEVICE_REMOVED)
        await tell(tx, server, node, user_nid, [*names, *released])
    tx.after_commit(lambda: callers.forget(server, node, user_id))
    return had_keys


async def tell(tx: Transaction, server: Server, node: Node, user_nid: int, gone: Sequence[str] = ()) -> None:
    """Announce, after the commit, that a resident's public keys changed: those of the devices ``gone`` are no more, or
    are shown to others now.

    Only inside `Node.advance`.
    """
    steps = max(1, len(gone))
    first, before = await stored_devices.note_change(tx, user_nid, steps)
    pos = first + steps - 1
    watchers = await stored_devices.watchers(tx, user_nid)
    chores.ask(tx, KEYS_CHANGED, user_nid, orjson.dumps({"devices": gone, "first": first, "before": before}))

    def announce() -> None:
        node.announce(pos, [(Stream.DEVICE_LISTS, [user_nid])])
        server.wake_residents(node, watchers)
        server.wakeups.wake(chores.key(node.name, KEYS_CHANGED))

    tx.after_commit(announce)


async def log_out(server: Server, caller: Caller) -> None:
    """End the caller's session; the device goes with it. spec: client-server-api/#post_matrixclientv3logout"""
    await remove(server, caller.node, caller.user_id, caller.user_nid, [caller.device_id])


async def log_out_everywhere(server: Server, caller: Caller) -> None:
    """End all of the caller's sessions. spec: client-server-api/#post_matrixclientv3logoutall"""
    await remove(server, caller.node, caller.user_id, caller.user_nid, None)
