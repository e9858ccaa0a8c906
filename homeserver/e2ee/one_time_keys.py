"""One-time keys: how many a device has left, from memory; and claiming them, wherever their owner resides.

A claim is served by one transaction of each node that it concerns, so that no key is given out twice and no device
that has one is passed over.

spec: client-server-api/#one-time-and-fallback-keys
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from config.residency import DataClass
from homeserver.accounts import recipients
from homeserver.e2ee import failures, mailboxes, shown_keys
from homeserver.e2ee.asking import Asking
from homeserver.e2ee.shown_keys import NO_READER
from homeserver.protocol.identifiers import domain_of
from homeserver.residency import gate, traffic
from homeserver.runtime.lru import Lru
from homeserver.storage import one_time_keys as stored
from homeserver.storage.one_time_keys import Wanted as Wanted
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.one_time_keys import Claimed

SIGNED_CURVE25519 = "signed_curve25519"
"""The algorithm of which every client uses keys: it is counted even when there are none."""

MAX_CLAIMS = 10_000
"""Devices of which one request may claim keys."""

MOST_SPENT = 10_000
"""Users whose keys were given out that are remembered."""

PATIENCE = 10.0
"""Seconds that other servers get to give keys, unless the client says otherwise."""


class Counts(NamedTuple):
    """What a device has: one-time keys by algorithm, and the algorithms of fallback keys that were never used."""

    one_time_keys: dict[str, int]
    unused_fallback: list[str]


class Remembered:
    """The counts of a node's devices (``node.memory(Remembered)``), each with the position at which it was true.

    ``generation`` counts what was forgotten, so that nothing read before that is remembered after it.
    """

    def __init__(self) -> None:
        self.held: Lru[int, tuple[int, Counts]] = Lru(50_000)
        self.generation = 0

    def forget(self, device_nids: Iterable[int]) -> None:
        """Drop the counts of devices; to be called after the commit that changed them."""
        self.generation += 1
        for device_nid in device_nids:
            self.held.pop(device_nid)


async def counts(node: Node, user_nid: int, device_nid: int) -> Counts:
    """What a device of a resident has left. Usually no trip; one tells whether the mailbox is empty, too.

    spec: client-server-api/#e2e-extensions-to-sync
    """
    memory = node.memory(Remembered)
    known = memory.held.get(device_nid)
    # A device that went took its keys along, and another may have its row id now.
    if known is not None and not node.changes.changed(Stream.DEVICE_LISTS, user_nid, known[0]):
        return known[1]
    position, generation = node.position, memory.generation
    left, unused, waiting = await node.read(stored.counts, device_nid)
    if not waiting:
        mailboxes.note_empty(node, device_nid, position)
    found = shown(left, unused)
    if generation == memory.generation:
        memory.held[device_nid] = (position, found)
    return found


class Spent:
    """Whose keys were given out lately, for application services that want to be told (``node.memory(Spent)``)."""

    def __init__(self) -> None:
        self._users: dict[str, None] = {}

    def note(self, user_ids: Iterable[str]) -> None:
        """Keys of these users were given out."""
        self._users.update(dict.fromkeys(user_ids))
        while len(self._users) > MOST_SPENT:
            del self._users[next(iter(self._users))]

    def take(self, wanted: Callable[[str], bool]) -> set[str]:
        """Those of the users whom somebody wants to know about; they are told of once."""
        found = {user_id for user_id in self._users if wanted(user_id)}
        for user_id in found:
            del self._users[user_id]
        return found


def remember(node: Node, device_nid: int, known: Counts) -> None:
    """Keep the counts that a transaction left behind; to be called after its commit."""
    memory = node.memory(Remembered)
    memory.forget([device_nid])
    memory.held[device_nid] = (node.position, known)


def shown(left: dict[str, int], unused_fallback: list[str]) -> Counts:
    """Counts as clients are told them."""
    left.setdefault(SIGNED_CURVE25519, 0)
    return Counts(left, unused_fallback)


# claiming -----------------------------------------------------------------------------------


async def claim(server: Server, caller: Caller, wanted: Sequence[Wanted], seconds: float = PATIENCE) -> dict[str, Any]:
    """A key of each device that has one. The answer of the endpoint.

    What servers that do not answer within so many ``seconds``, or unreachable nodes, hold is named in ``failures``; so
    is what the policy does not let flow.

    spec: client-server-api/#post_matrixclientv3keysclaim
    """
    missing = failures.Failures(server)
    ours = [each for each in wanted if server.nodes.is_local(each.user_id)]
    by_server: dict[str, list[Wanted]] = {}
    for each in wanted:
        if not server.nodes.is_local(each.user_id):
            by_server.setdefault(domain_of(each.user_id), []).append(each)
    claimed, *remote = await asyncio.gather(
        _claim_here(server, caller.node, ours, missing, caller.user_id),
        *(_claim_there(server, caller.node, name, part, seconds, missing) for name, part in by_server.items()),
    )
    found = _by_user(claimed)
    for part in remote:
        found.update(part)
    return {"one_time_keys": found, "failures": missing.found}


async def _claim_here(
    server: Server, own: Node, wanted: Sequence[Wanted], missing: failures.Failures, reader: str
) -> list[Claimed]:
    """Claim keys of local users, each from their node."""
    claimed: list[Claimed] = []
    left = list(wanted)
    while left:
        found, left = await _claim_once(server, own, left, missing, reader)
        claimed += found
    return claimed


async def _claim_once(
    server: Server, own: Node, wanted: Sequence[Wanted], missing: failures.Failures, reader: str
) -> tuple[list[Claimed], list[Wanted]]:
    """`_claim_here`; and what was not tried, since somebody is on another node by now."""
    homes = await server.nodes.of_users({each.user_id for each in wanted})
    by_node: dict[str, list[Wanted]] = {}
    for each in wanted:
        home = homes.get(each.user_id)
        if home is not None:
            by_node.setdefault(home, []).append(each)
    left: list[Wanted] = []

    async def of_node(name: str, part: Sequence[Wanted]) -> Collection[Claimed]:
        try:
            return await _claim_from(server, own, name, part, missing, reader)
        except recipients.Departed:
            left.extend(part)
            return ()

    parts = await asyncio.gather(*(of_node(name, part) for name, part in by_node.items()))
    return [key for part in parts for key in part], left


async def _claim_there(
    server: Server, own: Node, name: str, wanted: Sequence[Wanted], seconds: float, missing: failures.Failures
) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """Claim keys of users of another server."""
    with missing.of(name):
        async with asyncio.timeout(seconds), own.memory(Asking).servers:
            return await server.remote.claim_keys(server, own, name, wanted, seconds)
    return {}


async def claim_for(
    server: Server, origin: str, wanted: Sequence[Wanted]
) -> Mapping[str, Mapping[str, Mapping[str, orjson.Fragment]]]:
    """Claim keys of local users for another server: by user, device, and the key's name.

    Users whose node is down, or whose keys may not go there, are left out.

    spec: server-server-api/#post_matrixfederationv1userkeysclaim
    """
    claimed: list[Claimed] = []
    left = list(wanted)
    while left:
        found, left = await _claim_once_for(server, origin, left)
        claimed += found
    return _by_user(claimed)


async def _claim_once_for(server: Server, origin: str, wanted: Sequence[Wanted]) -> tuple[list[Claimed], list[Wanted]]:
    """`claim_for`; and what was not tried, since somebody is on another node by now."""
    target = server.policy.now.jurisdiction_of_server(origin)
    homes = await server.nodes.of_users({each.user_id for each in wanted})
    left: list[Wanted] = []

    async def of_node(name: str) -> Collection[Claimed]:
        with failures.Failures(server).noting(own=False):
            node = server.nodes[name]
            traffic.concerns(node)
            gate.check(server, DataClass.KEYS, node.jurisdiction, target)
            part = [each for each in wanted if homes.get(each.user_id) == name]
            try:
                return await node.advance_together(_claim, node, await _given_out(server, node, part))
            except recipients.Departed:
                left.extend(part)
        return ()

    parts = await asyncio.gather(*(of_node(name) for name in set(homes.values())))
    return [key for part in parts for key in part], left


async def _claim_from(
    server: Server, own: Node, name: str, wanted: Sequence[Wanted], missing: failures.Failures, reader: str
) -> Collection[Claimed]:
    with missing.noting(own.name == name):
        node = server.nodes[name]
        gate.check(server, DataClass.KEYS, node.jurisdiction, own.jurisdiction)
        return await node.advance_together(_claim, node, await _given_out(server, node, wanted, reader))
    return ()


async def _given_out(server: Server, node: Node, wanted: Sequence[Wanted], reader: str = "") -> list[Wanted]:
    """Without the devices that ``reader`` is not shown: nobody encrypts for them."""
    shown, _ = await shown_keys.of_users(server, node, {each.user_id for each in wanted}, NO_READER)
    return [
        each
        for each in wanted
        if each.user_id == reader or each.user_id not in shown or not shown[each.user_id].hides(each.device_id)
    ]


async def _claim(tx: Transaction, node: Node, wanted: Sequence[Wanted]) -> list[Claimed]:
    recipients.check_present(node, {each.user_id for each in wanted})
    claimed = await stored.claim(tx, wanted)
    tx.after_commit(lambda: _spent(node, claimed))
    return claimed


def _spent(node: Node, claimed: Collection[Claimed]) -> None:
    """Keys have been given out."""
    node.memory(Remembered).forget({key.device_nid for key in claimed})
    if node.followers:
        node.memory(Spent).note({key.user_id for key in claimed})
        node.stir()


def _by_user(claimed: Iterable[Claimed]) -> dict[str, Mapping[str, Mapping[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for key in claimed:
        device = found.setdefault(key.user_id, {}).setdefault(key.device_id, {})
        device[f"{key.algorithm}:{key.key_id}"] = orjson.Fragment(key.key)
    return dict(found)
