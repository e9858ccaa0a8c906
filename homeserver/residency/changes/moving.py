"""Users who move because the policy changes are moved as others are: begun, gone on with, and waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol.errors import Conflict
from homeserver.residency.moves import examining, journal
from homeserver.residency.moves.journal import WOKEN, Moves, Wish
from homeserver.storage import moves as stored

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.nodes import Node

PATIENCE = 60.0
"""Seconds that `settled` waits."""

LOOK_AGAIN = 1.0
"""Seconds until a move is looked at that nobody has told of."""


class WatchedMoves:
    """The `Mover` of a server in which `residency.moves.following` runs."""

    async def move(self, server: Server, user_id: str, destination: Node) -> None:
        """See `Mover.move`. A move that was stopped, or has failed, is tried once more."""
        tried = False
        while True:
            with server.wakeups.listen([WOKEN]) as listener:
                home = await server.nodes.of_user(user_id)
                if home is None:
                    return
                if home is destination:
                    if user_id not in server.nodes.directory.memory(Moves).running:
                        return  # and what was to be erased has been
                else:
                    tried = await _see_to(server, user_id, home, destination, tried)
                await listener.wait(LOOK_AGAIN)


async def settled(server: Server) -> None:
    """Wait, for a bounded time, until no move is under way in this process: what they leave is erased by then."""
    moves = server.nodes.directory.memory(Moves)
    deadline = server.clock.monotonic() + PATIENCE
    while moves.running and server.clock.monotonic() < deadline:
        with server.wakeups.listen([WOKEN]) as listener:
            if moves.running:
                await listener.wait(LOOK_AGAIN)


async def _see_to(server: Server, user_id: str, home: Node, destination: Node, tried: bool) -> bool:
    """Have the move go on; whether it has been begun, or taken up again. Raises Conflict when it does not."""
    row = await home.read(stored.departure_of, user_id)
    if row is None:
        try:
            found = await examining.examine(server, user_id, destination)
            examining.check(found, Wish())
            await journal.begin(server, user_id, destination, Wish())
        except Conflict:
            if await server.nodes.of_user(user_id) is home and await home.read(stored.departure_of, user_id) is None:
                raise  # else a move that was under way has come to its end meanwhile, or has been begun by another
        return True
    if row.target != destination.name:
        raise Conflict(f"{user_id} is being moved to {row.target}: stop that, or wait for its end")
    if row.halted is None:
        return True
    if tried:
        raise Conflict(f"The move of {user_id} has {row.halted}: {row.reason or 'somebody stopped it'}")
    await journal.resume(server, user_id)
    return True
