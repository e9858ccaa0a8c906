"""Residents who come into a room with other servers: those that did not know them are told of their devices.

What is asked for here is a chore in the transaction of the join, on the resident's own node, whichever way they came:
by a join, by a merge, with a room that came here as a whole. e2ee/introductions.py does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from homeserver.storage import chores

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.context import Server
    from homeserver.rooms.steps import Step
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

MET: Final = "met servers"
"""The kind of chore: its resident has come into the room ``room_nid`` of its body."""


def of_steps(tx: Transaction, server: Server, node: Node, steps: Sequence[Step]) -> None:
    """Ask for the introduction of residents who join by the steps of a batch."""
    gone = set()
    for step in steps:
        for member in step.members:
            if member.resident is None:
                continue
            if member.membership != "join":
                gone.add((step.room.nid, member.user_id))
            elif step.after.servers and (
                member.user_id not in step.room.residents or (step.room.nid, member.user_id) in gone
            ):
                ask(tx, server, node, step.room.nid, [member.resident])


def ask(tx: Transaction, server: Server, node: Node, room_nid: int, residents: Collection[int]) -> None:
    """Ask for the introduction of residents to the servers in a room that they have come into."""
    if not residents:
        return
    body = orjson.dumps({"room_nid": room_nid})
    for user_nid in residents:
        chores.ask(tx, MET, user_nid, body)
    tx.after_commit(lambda: server.wakeups.wake(chores.key(node.name, MET)))
