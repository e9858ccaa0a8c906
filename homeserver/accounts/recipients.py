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
    """The devices of a node's residents (``node.memory(Remembered)``), by user id."""

    def __init__(self) -> None:
        self.held: Lru[str, Devices] = Lru(REMEMBERED, weigh=lambda devices: 1 + len(devices))

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.held.clear()


def forget(node: Node, user_id: str) -> None:
    """Ask the database next time; to be called after the commit that made or removed a device of the user."""
    node.memory(Remembered).held.pop(user_id)


def remembered(node: Node, by_user: Mapping[str, T]) -> dict[str, T]:
    """What is for users who are known to reside on this node: nobody else's devices are asked for here."""
    held = node.memory(Remembered).held
    return {user_id: each for user_id, each in by_user.items() if user_id in held}


async def of_users(tx: Transaction, node: Node, user_ids: Collection[str]) -> Mapping[str, Devices]:
    """The devices of these users, who are pinned to this node, by user id. Only inside a writing transaction.

    Usually no trip; else one for each 500 users.
    """
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
