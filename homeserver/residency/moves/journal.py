"""The moves that are under way: what was asked, how far each has come, and whether it goes on.

The truth is in the databases: a row on the node that a user leaves, and one on the node that they go to. Who has the
user is said by the directory alone.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import orjson

from homeserver.protocol.errors import Conflict, NodeUnavailable, NotFound, Refusal
from homeserver.storage import moves as stored
from homeserver.storage import users

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.moves import Arrival, Departure
    from homeserver.storage.nodes import Node


class State(StrEnum):
    """How far a move has come."""

    VALIDATED = "validated"
    COPYING = "copying"
    CATCHING_UP = "catching-up"
    SWITCHING = "switching"
    ERASING = "erasing"
    DONE = "done"


STOPPED, FAILED = "stopped", "failed"


class Halted(Exception):
    """The move goes on no more: somebody stopped it."""


class Impossible(Exception):
    """The move cannot be made, whoever tries again; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked. ``leave_rooms``: the user may leave the rooms that cannot come along; ``window``: minutes of the
    day (UTC) between which they may be switched, None: at any time."""

    leave_rooms: bool = False
    window: tuple[int, int] | None = None

    def encoded(self) -> bytes:
        """As it is stored."""
        return orjson.dumps({"leave_rooms": self.leave_rooms, "window": self.window})


def read_wish(body: bytes) -> Wish:
    """What `Wish.encoded` wrote."""
    found = orjson.loads(body)
    window = found["window"]
    return Wish(found["leave_rooms"], None if window is None else (window[0], window[1]))


@dataclass(eq=False, slots=True)
class Move:
    """A move under way. ``user_nid`` is the row id on the source. ``staged``: by table and key, a digest of the row
    that has been staged; None before that has been looked up. ``account``: what the receipt is made of."""

    move_id: str
    user_id: str
    user_nid: int
    source: Node
    target: Node
    wish: Wish
    state: State
    begun_ts: int
    staged: dict[str, dict[str, bytes]] | None = None
    account: dict[str, Any] = field(default_factory=dict)


class Moves:
    """The tasks that move users (``directory.memory(Moves)``), by user id; ``asked`` is set when there may be more."""

    def __init__(self) -> None:
        self.running: dict[str, asyncio.Task[None]] = {}
        self.sources: dict[str, str] = {}
        """The nodes that those leave who are being moved, by user id."""
        self.unpurged: set[str] = set()
        """Nodes whose files still have what was deleted."""


WOKEN = ("moves",)
"""What `following.follow` waits for in ``server.wakeups``."""


async def begin(server: Server, user_id: str, target: Node, wish: Wish) -> str:
    """Note that a user is to be moved; returns the id of the move. Raises NotFound, Conflict, NodeUnavailable."""
    source = await server.nodes.of_user(user_id)
    if source is None:
        raise NotFound(f"There is no user {user_id}")
    if source is target:
        raise Conflict(f"{user_id} rests on {target.name} already")
    move_id = secrets.token_hex(12)
    begun = await source.write(_begin, user_id, move_id, target.name, wish.encoded(), server.clock.now_ms())
    if not begun:
        raise Conflict(f"{user_id} is being moved already: look with `domicile residency status {user_id}`")
    server.wakeups.wake(WOKEN)
    return move_id


async def _begin(tx: Transaction, user_id: str, move_id: str, target: str, wish: bytes, now: int) -> bool:
    user_nid = await users.resident(tx, user_id)
    return user_nid is not None and await stored.begin(tx, user_nid, move_id, target, State.VALIDATED, wish, now)


async def note(server: Server, move: Move, state: State, reason: str | None = None) -> None:
    """A move has come so far. Raises Halted when somebody has stopped it, NodeUnavailable."""
    if not await move.source.write(stored.note_state, move.move_id, state, reason, server.clock.now_ms()):
        raise Halted
    move.state = state


def of_departure(server: Server, row: Departure, source: Node) -> Move:
    """A move as its source has it. Raises NodeUnavailable when the policy does not have its target any more."""
    target = server.nodes[row.target]
    return Move(
        row.move_id,
        row.user_id,
        row.user_nid,
        source,
        target,
        read_wish(row.wish),
        State(row.state),
        row.begun_ts,
    )


async def listed(server: Server) -> tuple[list[dict[str, Any]], list[str]]:
    """All moves that are known of, as they are shown; and the nodes that could not be asked."""
    found: dict[str, dict[str, Any]] = {}
    down = set[str]()
    # A departure ends when its arrival is told of already: asked in this order no move is missed between the two.
    for node in server.nodes:
        try:
            for row in await node.read(stored.departures):
                found[row.move_id] = _shown(row, node.name, row.target, row.state, row.halted, row.reason)
        except NodeUnavailable:
            down.add(node.name)
    for node in server.nodes:
        try:
            for arrival in await node.read(stored.arrivals):
                if arrival.state != "staging" and arrival.move_id not in found:  # a departure says more
                    waits_for = orjson.loads(arrival.account).get("waits_for")
                    state = State.ERASING.value
                    found[arrival.move_id] = _shown(arrival, arrival.source, node.name, state, None, waits_for)
        except NodeUnavailable:
            down.add(node.name)
    return sorted(found.values(), key=lambda each: (each["user_id"], each["move_id"])), sorted(down)


def _shown(
    row: Departure | Arrival, source: str, target: str, state: str, halted: str | None, reason: str | None
) -> dict[str, Any]:
    return {
        "move_id": row.move_id,
        "user_id": row.user_id,
        "from": source,
        "to": target,
        "state": state,
        "halted": halted,
        "reason": reason,
    }


async def find(server: Server, user_id: str) -> tuple[Node, Departure]:
    """The move of a user who has not been switched yet. Raises NotFound, NodeUnavailable."""
    source = await server.nodes.of_user(user_id)
    row = None if source is None else await source.read(stored.departure_of, user_id)
    if source is None or row is None:
        raise NotFound(f"{user_id} is not being moved")
    return source, row


async def stop(server: Server, user_id: str) -> None:
    """Have a move go on no more until it is resumed: the user stays where they are. Raises NotFound, Conflict for one
    that cannot be stopped any more, NodeUnavailable."""
    source, row = await find(server, user_id)
    if not await source.write(stored.halt, row.move_id, STOPPED, None, server.clock.now_ms()):
        raise Conflict(f"{user_id} is being switched at this moment; ask again in a few seconds")
    task = server.nodes.directory.memory(Moves).running.get(user_id)
    if task is not None:
        task.cancel()
        await asyncio.wait([task])  # it clears away what has gone ahead


async def forget(server: Server, user_id: str) -> None:
    """Have a move that goes on no more be none. Raises NotFound, Conflict for one that goes on, NodeUnavailable."""
    source, row = await find(server, user_id)
    if row.halted is None:
        raise Conflict(f"The move of {user_id} is going on: stop it first")
    await source.write(stored.give_up, row.move_id)


async def resume(server: Server, user_id: str) -> None:
    """Have a move go on that was stopped, or failed. Raises NotFound, Conflict, NodeUnavailable."""
    source, row = await find(server, user_id)
    if row.halted is None:
        raise Conflict(f"The move of {user_id} is going on")
    await source.write(stored.halt, row.move_id, None, None, server.clock.now_ms())
    server.wakeups.wake(WOKEN)


async def receipts(server: Server, user_id: str) -> list[bytes]:
    """The receipts of the moves of a user, the oldest first. Raises NotFound, NodeUnavailable."""
    node = await server.nodes.of_user(user_id)
    user_nid = None if node is None else await node.read(users.resident, user_id)
    if node is None or user_nid is None:
        raise NotFound(f"There is no user {user_id}")
    return await node.read(stored.receipts_of, user_nid)


async def last_of(server: Server, user_id: str) -> dict[str, Any] | None:
    """The last move of a user, which has come to its end, as it is shown; None when they were never moved. Raises
    NotFound, NodeUnavailable."""
    found = await receipts(server, user_id)
    if not found:
        return None
    said = orjson.loads(found[-1])
    return {
        "move_id": said["move_id"],
        "user_id": user_id,
        "from": said["from"]["node"],
        "to": said["to"]["node"],
        "state": State.DONE.value,
        "halted": None,
        "reason": None,
    }


async def fail(server: Server, move: Move, reason: str) -> None:
    """A move cannot go on by itself."""
    await move.source.write(stored.note_state, move.move_id, State.CATCHING_UP, None, server.clock.now_ms())
    await move.source.write(stored.halt, move.move_id, FAILED, reason, server.clock.now_ms())


def words(error: Exception) -> str:
    """What an operator is told of an error."""
    return error.message if isinstance(error, Refusal) else str(error)
