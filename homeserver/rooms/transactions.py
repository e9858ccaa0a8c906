"""Transaction ids: a request that is repeated finds the event that it made, also after a restart.

Almost every request is new, so the question must cost nothing: a Bloom filter over the (already uniformly hashed)
keys of which the node's database knows an event, or that another node was asked for one, says "surely new" without a
trip.

spec: client-server-api/#transaction-identifiers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.storage import client_transactions, events

if TYPE_CHECKING:
    from collections.abc import Iterator

    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

BITS = 1 << 23
"""One MiB a node: less than 1 % of false alarms (each costs a read) up to 800,000 keys."""


DELAYED = "org.matrix.msc4140.delay_id="
"""What stands for a transaction id begins so when an event was sent later; the delay id follows."""


class Seen:
    """The transaction keys that may be in a node's database (``node.memory(Seen)``)."""

    def __init__(self) -> None:
        self._bits: bytearray | None = None

    @property
    def loaded(self) -> bool:
        """Whether the keys of earlier runs have been read."""
        return self._bits is not None

    def load(self, keys: list[bytes]) -> None:
        """Take over the keys of earlier runs."""
        if self._bits is None:
            self._bits = bytearray(BITS // 8)
            for key in keys:
                self.add(key)

    def add(self, key: bytes) -> None:
        """``key`` is about to be written."""
        assert self._bits is not None
        for index in self._indices(key):
            self._bits[index >> 3] |= 1 << (index & 7)

    def maybe(self, key: bytes) -> bool:
        """False: the key was never added. True: look into the database."""
        assert self._bits is not None
        return all(self._bits[index >> 3] & 1 << (index & 7) for index in self._indices(key))

    @staticmethod
    def _indices(key: bytes) -> Iterator[int]:
        for start in (0, 4, 8, 12):
            yield int.from_bytes(key[start : start + 4], "big") % BITS


def key_of(server: Server, caller: Caller, room_id: str, what: str, txn_id: str) -> bytes:
    """The keyed hash under which a transaction id of a device is remembered, wherever the event is ordered."""
    return server.identity.tag("transaction", caller.user_id, caller.device_id, room_id, what, txn_id)


async def load(node: Node) -> None:
    """Read the keys of earlier runs, once."""
    seen = node.memory(Seen)
    if not seen.loaded:
        seen.load(await node.read(_keys))


async def _keys(tx: Transaction) -> list[bytes]:
    return await events.transaction_keys(tx) + await client_transactions.asked(tx)


async def event_of(node: Node, key: bytes) -> str | None:
    """The event that came of a transaction key before, on this node. Usually no trip."""
    await load(node)
    if node.memory(Seen).maybe(key):
        return await node.read(events.transaction_event, key)
    return None


async def asked_node(own: Node, key: bytes) -> str | None:
    """The node that the sender's asked last to order the event of a transaction key. Usually no trip."""
    await load(own)
    return await own.read(client_transactions.asked_node, key) if own.memory(Seen).maybe(key) else None
