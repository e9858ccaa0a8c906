"""Public keys as users are shown them, from memory: those of a node's residents, and its copies of others.

What is remembered of a user is as of a position, and worth nothing once their keys have changed after it. Copies come
and go without anybody being told: whoever stores or drops some forgets all of them.

spec: client-server-api/#post_matrixclientv3keysquery
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import orjson

from homeserver.protocol.errors import NodeUnavailable
from homeserver.runtime.lru import Lru
from homeserver.storage import device_keys as stored
from homeserver.storage import missed_lists, remote_device_lists
from homeserver.storage.nodes import Mirror
from homeserver.storage.streams import Stream
from homeserver.transparency.agreement import for_others

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.storage.device_keys import DeviceKeys, Proof, Signature, UserKeys
    from homeserver.storage.nodes import Node

KEPT = 8 * 2**20
"""Bytes of residents' keys that a node remembers, and again as many of copies; about a kilobyte a user."""
READERS = 50_000
"""Signatures that a node remembers, a signer counting as one more."""
SIGNATURES = 200
"""Who has made more is asked for again each time."""

NO_READER = 0
"""Who asks for nobody in particular, and so has signed nothing."""

_OVERHEAD = 300
"""Bytes of memory that an object takes beside what it says."""

Signatures = dict[str, list["Signature"]]
"""Signatures by the user under whose key they are."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The keys of a user as of a position. ``devices``: JSON by device id; ``signing``: JSON by usage. ``remote``:
    they are good only while nobody moves, since a room has to be shared with their owner. ``own``: devices and signing
    keys as they are stored, where others are not shown all of that; the owner is, and can sign a device, or remove it.
    ``copied``: this is a copy, and ``proof`` what came with it.
    """

    user_nid: int
    position: int
    devices: Mapping[str, orjson.Fragment]
    signing: Mapping[str, bytes]
    weight: int
    remote: bool = False
    own: tuple[Mapping[str, orjson.Fragment], Mapping[str, bytes]] | None = None
    copied: bool = False
    proof: Proof | None = None

    def for_owner(self) -> Shown:
        """The same as its owner is shown it."""
        return self if self.own is None else replace(self, devices=self.own[0], signing=self.own[1])

    def hides(self, device_id: str) -> bool:
        """Whether there is such a device, which others are not shown."""
        return self.own is not None and device_id in self.own[0] and device_id not in self.devices


class Remembered(Mirror):
    """What users of a node are shown (``node.memory(Remembered)``), by user id; and what they have signed, by row id.

    ``generation`` counts what was forgotten, so that nothing read before that is remembered after it. ``missed`` counts
    what other servers said and the node could not take; ``caught_up``: as of which of that no copy is behind.
    ``noted``: that something was missed is written down.
    """

    def __init__(self) -> None:
        self.residents: Lru[str, Shown] = Lru(KEPT, weigh=lambda shown: shown.weight)
        self.copies: Lru[str, Shown] = Lru(KEPT, weigh=lambda shown: shown.weight)
        self.signed: Lru[int, tuple[int, Signatures]] = Lru(READERS, weigh=lambda known: 1 + len(known[1]))
        self.generation = 0
        self.missed = 0
        self.caught_up = -1
        self.noted = False
        self.catching_up = asyncio.Lock()

    def forget_copies(self) -> None:
        """Some have changed; to be called after the commit."""
        self.generation += 1
        self.copies.clear()

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.forget_copies()
        self.residents.clear()
        self.signed.clear()


async def miss(server: Server, node: Node) -> None:
    """A node could not take what another server said of its users' keys: its copies are not believed until they have
    been asked for anew, should this process end before that too. Raises NodeUnavailable when it could not be noted.
    """
    memory = node.memory(Remembered)
    memory.missed += 1
    if not memory.noted:
        await server.nodes.directory.engine.write(missed_lists.note, node.name, server.clock.now_ms())
        memory.noted = True


async def catch_up(server: Server, node: Node) -> None:
    """Before copies are read: while the node was out of reach, what other servers said was taken without it."""
    memory = node.memory(Remembered)
    if memory.caught_up == memory.missed:
        return
    async with memory.catching_up:
        missed, memory.noted = memory.missed, False
        mark = await _mark_of(server, node)
        if missed or mark is not None:
            await node.write(remote_device_lists.mark_all_stale)
            if mark:
                await server.nodes.directory.engine.write(missed_lists.forget, node.name, mark)
        memory.forget_copies()
        memory.caught_up = missed


async def _mark_of(server: Server, node: Node) -> int | None:
    """What is noted of the node; 0 while that cannot be read."""
    try:
        return await server.nodes.directory.engine.read(missed_lists.mark_of, node.name)
    except NodeUnavailable:
        return 0


async def of_users(
    server: Server, node: Node, user_ids: Collection[str], reader_nid: int
) -> tuple[dict[str, Shown], Mapping[str, Sequence[Signature]]]:
    """The keys of those users who reside here or of whom there is a copy; and the signatures that a resident made under
    the keys of users, wherever they are at home. Often no trip.

    ``signing`` has everybody's user-signing key that rests here, and who is shown it is up to the caller.
    """
    await node.start()
    await catch_up(server, node)
    memory = node.memory(Remembered)
    found = _known(node, memory, user_ids)
    missing = [user_id for user_id in user_ids if user_id not in found]
    signed = memory.signed.get(reader_nid)
    if signed is not None and node.changes.changed(Stream.DEVICE_LISTS, reader_nid, signed[0]):
        signed = None
    if signed is not None and not missing:
        return found, signed[1]
    position, generation = node.position, memory.generation
    most = 0 if signed is not None else SIGNATURES + 1
    keys, made = await node.read(stored.of_users_for, missing, reader_nid, most)
    for user_id, each in keys.items():
        shown = found[user_id] = show(each, position)
        if generation == memory.generation:
            (memory.copies if each.copied else memory.residents)[user_id] = shown
    if signed is not None:
        return found, signed[1]
    if len(made) > SIGNATURES:
        return found, _by_target(await node.read(stored.signatures_under, reader_nid, list(user_ids)))
    by_target = _by_target(made)
    if generation == memory.generation:
        memory.signed[reader_nid] = (position, by_target)
    return found, by_target


def _known(node: Node, memory: Remembered, user_ids: Collection[str]) -> dict[str, Shown]:
    held = memory.residents.find(user_ids)
    if len(held) < len(user_ids):
        held.update(memory.copies.find(user_ids))
    changed, any_changed = node.changes.changed, node.changes.any
    return {
        user_id: shown
        for user_id, shown in held.items()
        if not changed(Stream.DEVICE_LISTS, shown.user_nid, shown.position)
        and not (shown.remote and any_changed(Stream.MEMBERS, shown.position))
    }


def _by_target(made: Sequence[Signature]) -> Signatures:
    found: Signatures = {}
    for signature in made:
        found.setdefault(signature.target_user_id, []).append(signature)
    return found


def show(keys: UserKeys, position: int = 0) -> Shown:
    """Keys as they are shown."""
    devices = {device_id: _with_name(device) for device_id, device in keys.devices.items()}
    blobs = [*devices.values(), *keys.signing.values()]
    weight = _OVERHEAD + sum(_OVERHEAD + len(blob) for blob in blobs)
    weight += 0 if keys.proof is None else len(keys.proof.said)
    every = {device_id: orjson.Fragment(blob) for device_id, blob in devices.items()}
    known = for_others(keys)
    shown = every if known is keys else {device_id: every[device_id] for device_id in known.devices}
    return Shown(
        keys.user_nid,
        position,
        shown,
        known.signing,
        weight,
        keys.remote,
        own=None if known is keys else (every, keys.signing),
        copied=keys.copied,
        proof=keys.proof,
    )


def _with_name(device: DeviceKeys) -> bytes:
    if device.display_name is None:
        return device.keys
    name = orjson.dumps(device.display_name)
    return device.keys[:-1] + b',"unsigned":{"device_display_name":' + name + b"}}"
