"""Appending to the key log of a node, in the transaction that changes a resident's public keys.

Nothing is decided here: what the keys are now goes into the log, unless the log says so already. So whoever changes
keys calls `append` behind the change, and calling it once too often does nothing. But it goes in only as far as it was
changed so: what somebody has put into the database by hand is not told as true because something else changes later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import structlog

from homeserver.protocol.key_log import NO_KEYS, Leaf, Manifest, NoLeaf, Reason, digest, read
from homeserver.protocol.threepids import EMAIL
from homeserver.storage import accounts, chores, device_keys, key_log
from homeserver.storage.device_keys import UserKeys
from homeserver.transparency import names
from homeserver.transparency.agreement import agreed, manifest_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.key_log import Placed
    from homeserver.storage.nodes import Node

log = structlog.get_logger("transparency")

LETTER = "key_letter"
"""The kind of chore that asks to write to somebody of a change of their keys."""

_OF_SIGNING = frozenset((Reason.CROSS_SIGNING, Reason.IDENTITY_RESET))


def waiting_key(node: Node) -> tuple[str, str]:
    """What is woken in ``server.wakeups`` when a leaf was appended."""
    return ("key log", node.name)


async def append(
    tx: Transaction, server: Server, node: Node, user_id: str, reason: Reason, devices: Collection[str] = ()
) -> bool:
    """Have the log say what a resident's public keys are now; False when it says so already. Three trips.

    ``devices``: those that the transaction gave these keys.
    """
    keys = (await device_keys.of_users(tx, [user_id])).get(user_id, UserKeys())
    made = _made(node, keys, reason, devices)
    tag = names.tag(server, user_id)
    before, last = await key_log.ends(tx, tag)
    new = await _append(tx, server, node, tag, before, last, made, reason)
    if keys.user_nid and not keys.copied and made != keys.manifest and (new or _says(before, made)):
        device_keys.put_manifest(tx, keys.user_nid, tag, made)
    if new and before is not None and server.settings.email is not None:
        await _ask_for_letters(tx, server, keys, reason, devices)
    return new


async def _ask_for_letters(
    tx: Transaction, server: Server, keys: UserKeys, reason: Reason, devices: Collection[str]
) -> None:
    """Have the user written to of devices that are new or have other keys, and of another identity. To which addresses
    is said here: whoever is new must not be quicker than the letter."""
    known = {} if keys.manifest is None else Manifest.read(keys.manifest).devices
    changed = {name for name, digest in manifest_of(keys).devices.items() if known.get(name) != digest}
    fresh = [name for name in devices if name in changed and not is_dehydrated(keys, name)]
    if reason is not Reason.IDENTITY_RESET and (reason is not Reason.DEVICE_KEYS or not fresh):
        return
    addresses = [each.address for each in await accounts.threepids(tx, keys.user_nid) if each.medium == EMAIL]
    if addresses:
        told = {"reason": reason.value, "devices": fresh, "time": server.clock.now_ms() // 1000, "addresses": addresses}
        chores.ask(tx, LETTER, keys.user_nid, orjson.dumps(told))


def is_dehydrated(keys: UserKeys, device_id: str) -> bool:
    """Whether a device is a dehydrated one, which others of the user have made and signed."""
    return orjson.loads(keys.devices[device_id].keys).get("dehydrated") is True


def _says(before: Placed | None, made: bytes) -> bool:
    return before is not None and Leaf.read(before.leaf).digest == digest(made)


async def append_left(tx: Transaction, server: Server, node: Node, user_id: str) -> bool:
    """Have the log say that somebody rests elsewhere from now on; False when it says so, or never spoke of them."""
    tag = names.tag(server, user_id)
    before, last = await key_log.ends(tx, tag)
    return await _append(tx, server, node, tag, before, last, NO_KEYS, Reason.LEFT)


def _made(node: Node, keys: UserKeys, reason: Reason, devices: Collection[str]) -> bytes:
    """What the keys are now, of which the log may speak: those of which it spoke, and those that changed as they
    should."""
    found, known = manifest_of(keys), agreed(keys)
    if known is None:
        return found.write()
    signing = found.signing if reason in _OF_SIGNING else _unchanged(found.signing, known.signing, ())
    made = Manifest(_unchanged(found.devices, known.devices, devices), signing)
    if made != found:
        log.error("keys are not those of the key log", node=node.name)
    return made.write()


def _unchanged(found: Mapping[str, str], known: Mapping[str, str], changed: Collection[str]) -> dict[str, str]:
    return {
        name: now if name in changed else known[name] for name, now in found.items() if name in changed or name in known
    }


async def _append(
    tx: Transaction,
    server: Server,
    node: Node,
    tag: bytes,
    before: Placed | None,
    last: Placed | None,
    made: bytes,
    reason: Reason,
) -> bool:
    hashed = digest(made)
    if not _is_new(before, made, hashed, reason):
        return False
    leaf = Leaf(tag, hashed, None if before is None else before.place, reason, time_behind(last, server.clock.now_ms()))
    key_log.put(tx, await key_log.take(tx), tag, leaf.write())
    tx.after_commit(lambda: server.wakeups.wake(waiting_key(node)))
    return True


def time_behind(last: Placed | None, now_ms: int) -> int:
    """The second that a leaf says which comes behind another: never one before that, should the clock be set back."""
    try:
        before = 0 if last is None else read(last.leaf).time
    except NoLeaf:  # somebody has been at the database, which keeps nobody from changing keys, and shows
        before = 0
    return max(before, now_ms // 1000)


def _is_new(before: Placed | None, made: bytes, hashed: bytes, reason: Reason) -> bool:
    if before is None:
        return made != NO_KEYS
    last = Leaf.read(before.leaf)
    if reason is Reason.FOUND and last.reason is not Reason.LEFT:
        return False  # what changed since it was logged was not changed as it should
    return last.digest != hashed or (Reason.LEFT in (last.reason, reason) and last.reason is not reason)
