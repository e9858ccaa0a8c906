"""To which devices a message for a resident can go, from memory.

The memory of a user is dropped whenever a transaction that makes or removes one of their devices has committed. Whoever
asks inside a writing transaction is told what the database would say: no other write is under way then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from homeserver.runtime.lru import Lru
from homeserver.storage import to_device as stored
from homeserver.storage.nodes import Mirror

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.to_device import Recipient

REMEMBERED = 50_000
"""Devices of a node, a user counting as one more."""

T = TypeVar("T")
Devices = dict[str, "Recipient"]
"""The devices of one user by id."""


class Remembered(Mirror):
    """The devices of a node's residents (``node.memory(Remembered)``), by user id.

    ``departed``: who was a resident when this process began and is at home elsewhere now. Whoever has asked the
    directory before that, and writes after it, finds it here.
    """

    def __init__(self) -> None:
        self.held: Lru[str, Devices] = Lru(REMEMBERED, weigh=lambda devices: 1 + len(devices))
        self.departed: set[str] = set()

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.held.clear()


class Departed(Exception):
    """Somebody is at home on another node by now: the directory knows on which. ``user_ids``: who."""

    def __init__(self, user_ids: set[str]) -> None:
        super().__init__("somebody has moved to another node")
        self.user_ids = user_ids


def depart(node: Node, user_id: str) -> None:
    """A user is no resident any more; to be called before anybody else writes on the node."""
    memory = node.memory(Remembered)
    memory.departed.add(user_id)
    memory.held.pop(user_id)


def arrive(node: Node, user_id: str) -> None:
    """A user has become a resident."""
    memory = node.memory(Remembered)
    memory.departed.discard(user_id)
    memory.held.pop(user_id)


def check_present(node: Node, user_ids: Iterable[str]) -> None:
    """Raise Departed if one of these users has left the node. Only inside a writing transaction."""
    departed = node.memory(Remembered).departed
    if departed and (gone := departed.intersection(user_ids)):
        raise Departed(gone)


def forget(node: Node, user_id: str) -> None:
    """Ask the database next time; to be called after the commit that made or removed a device of the user."""
    node.memory(Remembered).held.pop(user_id)


def remembered(node: Node, by_user: Mapping[str, T]) -> dict[str, T]:
    """What is for users who are known to reside on this node: nobody else's devices are asked for here."""
    held = node.memory(Remembered).held
    return {user_id: each for user_id, each in by_user.items() if user_id in held}


async def of_users(tx: Transaction, node: Node, user_ids: Collection[str]) -> Mapping[str, Devices]:
    """The devices of these users, who are pinned to this node, by user id. Only inside a writing transaction.

    Usually no trip; else one for each 500 users. Raises Departed.
    """
    check_present(node, user_ids)
    held = node.memory(Remembered).held
    found = held.find(user_ids)
    if len(found) < len(user_ids):
        missing = [user_id for user_id in user_ids if user_id not in found]
        found.update(_by_user(missing, await stored.recipients(tx, missing)))
        for user_id in missing:
            held[user_id] = found[user_id]
    return found


def _by_user(user_ids: Sequence[str], recipients: Iterable[Recipient]) -> Mapping[str, Devices]:
    found: dict[str, Devices] = {user_id: {} for user_id in user_ids}
    for recipient in recipients:
        found[recipient.user_id][recipient.device_id] = recipient
    return found
