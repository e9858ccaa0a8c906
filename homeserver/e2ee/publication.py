"""Telling that somebody's public keys changed: residents who share rooms with them at once, other nodes by parcels.

A node that was given a user's keys is sent all of them in the transaction that changes them, or, when it shares no
room with the user any more, the word to forget them: so a copy is never older than what is under way to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from config.residency import DataClass
from homeserver.accounts.devices import KEYS_CHANGED
from homeserver.e2ee import carried, to_servers
from homeserver.e2ee.chore_loop import keep_doing
from homeserver.e2ee.shown_keys import Remembered
from homeserver.protocol import canonical
from homeserver.protocol.errors import NodeUnavailable
from homeserver.rooms.replicas import caught_up
from homeserver.runtime.lru import Lru
from homeserver.storage import chores, key_audiences, key_copies, outbox, streams, users
from homeserver.storage import device_keys as stored
from homeserver.storage.device_keys import DeviceKeys, UserKeys
from homeserver.storage.outbox import NewParcel
from homeserver.storage.streams import Stream
from homeserver.transparency import changes as key_changes
from homeserver.transparency.agreement import for_others

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Server
    from homeserver.protocol.key_log import Reason
    from homeserver.rooms.seeding import Mark
    from homeserver.storage.engine import Transaction
    from homeserver.storage.key_audiences import Audience
    from homeserver.storage.nodes import Node
    from homeserver.storage.outbox import Parcel
    from homeserver.storage.peers import NewEdu

KEYS = "keys"
"""The kind of parcel that holds a user's public keys."""

CHORES_AT_ONCE = 50


class Changed(NamedTuple):
    """What of a user's keys changed that other servers are told: devices, and whether cross-signing keys did.

    ``reason``: what the key log says of it; None when only signatures have changed. ``shown``: devices that have the
    keys that they had, and are shown now, or not any more.
    """

    devices: Sequence[str] = ()
    signing: bool = False
    reason: Reason | None = None
    shown: Sequence[str] = ()


async def publish(
    tx: Transaction,
    server: Server,
    node: Node,
    user_id: str,
    user_nid: int,
    changed: Changed,
    audience: Audience | None = None,
) -> int:
    """Announce, after the commit, that a resident's public keys are what this transaction has made of them.

    Only inside `Node.advance`, behind the changes. ``audience``: whom it concerns, if the caller knows.
    Returns the position of the change.
    """
    if audience is None:
        audience = await key_audiences.of_user(tx, user_nid)
    if changed.reason is not None:
        await key_changes.append(tx, server, node, user_id, changed.reason, changed.devices)
    targets, lost = _nodes(node, audience)
    abroad = to_servers.allowed(server, node, DataClass.KEYS, audience.servers)
    devices = list(dict.fromkeys((*changed.devices, *changed.shown)))
    updates = max(1, len(devices))
    edus = len(abroad) * (len(devices) + changed.signing)
    first = streams.take(tx, node.position, updates + len(targets) + len(lost) + edus)
    pos = first + updates - 1
    last = pos + len(targets) + len(lost) + edus
    key_audiences.note_change(tx, user_nid, pos)
    await _send(tx, node, user_id, user_nid, pos + 1, targets, lost)
    if edus:
        keys = await _shown(tx, user_id)
        made = to_servers.device_list_updates(abroad, user_id, keys, devices, first, audience.changed_at)
        if changed.signing:
            made += to_servers.signing_key_update(abroad, user_id, keys)
        to_servers.write(tx, node, pos + 1 + len(targets) + len(lost), made)

    def announce() -> None:
        node.announce(last, [(Stream.DEVICE_LISTS, [user_nid])])
        server.wake_residents(node, {*audience.residents, user_nid})
        if targets or lost:
            server.wake_outbox(node)

    tx.after_commit(announce)
    return pos


def _nodes(node: Node, audience: Audience) -> tuple[list[str], list[str]]:
    """The nodes that get a user's keys, and those that are told to forget them."""
    targets = audience.sharing - {node.name}
    return sorted(targets), sorted(audience.holders - targets)


async def _send(
    tx: Transaction,
    node: Node,
    user_id: str,
    user_nid: int,
    first: int,
    targets: Sequence[str],
    lost: Sequence[str],
) -> None:
    """Queue the parcels, at the positions from ``first`` on."""
    if not targets and not lost:
        return
    keys = await _shown(tx, user_id) if targets else None
    whole = None if keys is None else _body(user_id, first, keys)
    parcels = [NewParcel(target, KEYS, body=whole) for target in targets]
    parcels += [NewParcel(target, KEYS, body=_body(user_id, first, None)) for target in lost]
    outbox.put(tx, first, parcels)
    key_audiences.set_holders(tx, user_nid, targets, lost)


async def _shown(tx: Transaction, user_id: str) -> UserKeys:
    """The keys of a resident as others are shown them."""
    return for_others((await stored.of_users(tx, [user_id])).get(user_id, UserKeys()))


def _body(user_id: str, version: int, keys: UserKeys | None) -> bytes:
    """A parcel: all public keys of a user as of a position, or the word to forget them."""
    shown: dict[str, Any] | None = None
    if keys is not None:
        shown = {
            "devices": {device_id: orjson.Fragment(device.keys) for device_id, device in keys.devices.items()},
            "signing": {
                usage: orjson.Fragment(key) for usage, key in keys.signing.items() if usage != stored.USER_SIGNING
            },
        }
    return orjson.dumps({"user_id": user_id, "version": version, "keys": shown})


def _read(keys: dict[str, Any]) -> UserKeys:
    return UserKeys(
        {
            device_id: DeviceKeys(canonical.encode(device), None)  # names of devices stay at home
            for device_id, device in keys["devices"].items()
        },
        {usage: canonical.encode(key) for usage, key in keys["signing"].items()},
    )


# arriving -----------------------------------------------------------------------------------


class Forgotten:
    """Whose keys this node was told to forget, and as of which position of theirs (``node.memory(Forgotten)``).

    For a copy that was asked for before that and arrives after it.
    """

    def __init__(self) -> None:
        self.held: Lru[int, int] = Lru(10_000)


async def keep(tx: Transaction, node: Node, source: str, version: int, lent: Mapping[int, UserKeys]) -> None:
    """Store copies of the keys of users of another node, where nothing newer has come meanwhile."""
    held = await key_copies.versions(tx, lent)
    for user_nid, keys in lent.items():
        forgotten = node.memory(Forgotten).held.get(user_nid)
        newer = user_nid in held and held[user_nid][0] == source and held[user_nid][1] >= version
        if not newer and (forgotten is None or forgotten <= version):
            key_copies.replace_copy(tx, user_nid, source, version, keys)
    tx.after_commit(node.memory(Remembered).forget_copies)


async def apply_keys(server: Server, source: Node, destination: Node, parcel: Parcel, mark: Mark) -> None:
    """Replace the copy of a user's keys on ``destination``, or forget it; and tell those who share rooms with them.

    Only the node where the user is at home is believed: what was on its way when they moved is older.
    """
    assert parcel.body is not None
    body = orjson.loads(parcel.body)
    if await server.nodes.of_user(body["user_id"]) is not source:
        await destination.write(_mark_only, mark)
    else:
        await destination.advance(_apply, server, source, destination, body, mark)


async def _mark_only(tx: Transaction, mark: Mark) -> None:
    mark(tx)


async def _apply(
    tx: Transaction, server: Server, source: Node, destination: Node, parcel: dict[str, Any], mark: Mark
) -> None:
    mark(tx)
    user_id, version = parcel["user_id"], parcel["version"]
    user_nid = await users.nid(tx, user_id)
    if user_nid is None or await users.resident(tx, user_id) is not None:
        return
    held = (await key_copies.versions(tx, [user_nid])).get(user_nid)
    if held is not None and held[0] == source.name and held[1] >= version:
        return
    audience = await key_audiences.of_user(tx, user_nid)
    if parcel["keys"] is None or not audience.residents:
        key_copies.drop_copy(tx, user_nid)
        tx.after_commit(lambda: destination.memory(Forgotten).held.__setitem__(user_nid, version))
    else:
        key_copies.replace_copy(tx, user_nid, source.name, version, _read(parcel["keys"]))
        tx.after_commit(lambda: carried.want(server, destination, [user_id]))
    tx.after_commit(destination.memory(Remembered).forget_copies)
    if audience.residents:
        pos = await streams.allocate(tx)
        key_audiences.note_change(tx, user_nid, pos)

        def announce() -> None:
            destination.announce(pos, [(Stream.DEVICE_LISTS, [user_nid])])
            server.wake_residents(destination, audience.residents)

        tx.after_commit(announce)


# what accounts asks for ---------------------------------------------------------------------


async def follow(server: Server, node: Node) -> None:
    """Tell other nodes of the changes that a device's going or renaming made to keys of this node's residents; for
    ever.
    """
    await keep_doing(server, node, KEYS_CHANGED, publish_waiting)


async def told(server: Server, node: Node) -> None:
    """Tell other nodes of changed keys now, and wait until those that are up know, for a bounded time.

    So that nobody is shown a device any more whose owner has been answered that it is gone.
    """
    while await publish_waiting(server, node):
        pass
    for other in server.nodes:
        await caught_up(server, node, other)


async def publish_waiting(server: Server, node: Node) -> bool:
    """Tell other nodes of the oldest changes that they have not been told of; False when none are left."""
    waiting = await node.read(chores.waiting, KEYS_CHANGED, CHORES_AT_ONCE)
    if waiting:
        await node.advance(_publish_waiting, server, node, waiting)
    return len(waiting) == CHORES_AT_ONCE


async def _publish_waiting(tx: Transaction, server: Server, node: Node, waiting: Sequence[chores.Chore]) -> None:
    sent = False
    for user_nid, user_id in {chore.user_nid: chore.user_id for chore in waiting}.items():
        audience = await key_audiences.of_user(tx, user_nid)
        targets, lost = _nodes(node, audience)
        edus = await _gone(tx, server, node, audience, [chore for chore in waiting if chore.user_nid == user_nid])
        if targets or lost or edus:
            sent = sent or bool(targets or lost)
            first = await streams.allocate(tx, len(targets) + len(lost) + len(edus))
            await _send(tx, node, user_id, user_nid, first, targets, lost)
            last = first + len(targets) + len(lost) + len(edus) - 1
            tx.after_commit(lambda last=last: node.announce(last, []))  # type: ignore[misc]
            to_servers.write(tx, node, first + len(targets) + len(lost), edus)
    await chores.done(tx, [chore.chore_nid for chore in waiting])
    if sent:
        tx.after_commit(lambda: server.wake_outbox(node))


async def _gone(
    tx: Transaction, server: Server, node: Node, audience: Audience, waiting: Sequence[chores.Chore]
) -> list[NewEdu]:
    """What other servers are told of the devices that chores of one user name."""
    abroad = to_servers.allowed(server, node, DataClass.KEYS, audience.servers)
    if not abroad:
        return []
    edus: list[NewEdu] = []
    for chore in waiting:
        told = orjson.loads(chore.body)
        if told.get("devices"):
            keys = await _shown(tx, chore.user_id)
            edus += to_servers.device_list_updates(
                abroad, chore.user_id, keys, told["devices"], told["first"], told["before"]
            )
    return edus


# tidying up ---------------------------------------------------------------------------------


async def drop_idle_copies(server: Server) -> None:
    """Delete copies of the keys of users with whom no resident shares a room any more, on all nodes that are up."""
    for node in server.nodes:
        try:
            await node.write(_drop_idle_copies, node)
        except NodeUnavailable:
            continue


async def _drop_idle_copies(tx: Transaction, node: Node) -> None:
    if await key_copies.drop_idle_copies(tx):
        tx.after_commit(node.memory(Remembered).forget_copies)
