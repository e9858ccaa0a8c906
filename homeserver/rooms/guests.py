"""Which rooms guests may come into, and that they leave those that take none any more.

What is asked for here is a chore in the transaction that closes the room to them; rooms/chores.py does it.

spec: client-server-api/#guest-access
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.protocol.errors import GuestAccessForbidden
from homeserver.rooms import summaries
from homeserver.storage import chores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Caller, Server
    from homeserver.protocol.event_view import StateKey
    from homeserver.rooms.steps import Step
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

GUEST_ACCESS: Final[StateKey] = ("m.room.guest_access", "")
OPEN: Final = "can_join"

CLOSED: Final = "closed to guests"
"""The kind of chore: its resident, a guest, was in a room that takes no guests any more."""


async def check(server: Server, caller: Caller, room_id: str) -> None:
    """Refuse a guest a room that does not say that guests can join. Raises GuestAccessForbidden, NodeUnavailable."""
    if not caller.guest:
        return
    home = await server.nodes.of_room(room_id)
    if home is None or not await takes(home, room_id):
        raise GuestAccessForbidden("This room takes no guests")


async def takes(node: Node, room_id: str) -> bool:
    """Whether a room, as a node has it, says that guests can join."""
    room = await summaries.find(node, room_id)
    return room is not None and bool(room.shown["guest_can_join"])


def of_steps(tx: Transaction, server: Server, node: Node, steps: Sequence[Step]) -> None:
    """Ask that guests among the residents leave the rooms that the steps of a batch close to them."""
    closed = {step.room.nid for step in steps if step.room.residents and _closes(step)}
    if closed:
        chores.ask_of_guests(tx, CLOSED, sorted(closed))
        tx.after_commit(lambda: server.wakeups.wake(chores.key(node.name, CLOSED)))


def _closes(step: Step) -> bool:
    """Whether guests cannot join after a step that says something about that, as far as it is known."""
    if GUEST_ACCESS not in step.changes:
        return False
    entry = step.changes[GUEST_ACCESS]
    return entry is None or entry.event is None or entry.event.content.get("guest_access") != OPEN
