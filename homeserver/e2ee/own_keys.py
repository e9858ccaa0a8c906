"""A user's keys as they themselves are shown them: which devices there are, who has signed them, what the logs say."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import orjson

from homeserver.e2ee.unsigned import is_signed
from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.key_log import Leaf, NoLeaf, Reason
from homeserver.storage import device_keys as stored
from homeserver.storage import key_log
from homeserver.storage.device_keys import SELF_SIGNING
from homeserver.transparency import names
from homeserver.transparency.agreement import logged

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.nodes import Node


class OwnDevice(NamedTuple):
    """A device with keys. ``signed``: by its owner, None for who has nothing to sign with; ``withheld``: others are not
    shown it for want of that, or while the identity is ``contested``; ``logged``: the key log speaks of it."""

    device_id: str
    name: str
    signed: bool | None
    withheld: bool
    logged: bool
    contested: bool


class Change(NamedTuple):
    """A leaf about the user: when (milliseconds since 1970), why, and in the log of which node."""

    ts: int
    reason: Reason
    node: str


class OwnKeys(NamedTuple):
    """What `of_user` finds. ``changes``: the oldest first; ``down``: nodes that cannot be asked at the moment."""

    devices: list[OwnDevice]
    changes: list[Change]
    down: list[str]


async def of_user(server: Server, node: Node, user_id: str) -> OwnKeys:
    """The keys of a resident. Raises NodeUnavailable when ``node`` is down."""
    keys = (await node.read(stored.of_users, [user_id])).get(user_id, stored.UserKeys())
    known = logged(keys).devices
    can_sign = SELF_SIGNING in keys.signing
    devices = [
        OwnDevice(
            device_id,
            device.display_name or "",
            is_signed(keys, device_id, user_id) if can_sign else None,
            device.withheld or keys.contested,
            device_id in known,
            keys.contested,
        )
        for device_id, device in sorted(keys.devices.items())
        if not orjson.loads(device.keys).get("dehydrated")
    ]
    changes, down = [], []
    tag = names.tag(server, user_id)
    for each in server.nodes:
        try:
            placed = await each.read(key_log.about, tag)
        except NodeUnavailable:
            down.append(each.name)
            continue
        for leaf in placed:
            try:
                read = Leaf.read(leaf.leaf)
            except NoLeaf:  # written by hand: whoever reads the log notices
                continue
            changes.append(Change(read.time * 1000, read.reason, each.name))
    return OwnKeys(devices, sorted(changes, key=attrgetter("ts")), down)
