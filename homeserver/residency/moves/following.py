"""Moving users: takes up every move that the databases know of, several at once, and brings each to its end.

Nothing is remembered here that a restart would lose.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import Context
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import structlog

from homeserver.context import Caller
from homeserver.protocol.errors import Forbidden, NodeUnavailable
from homeserver.protocol.identifiers import localpart_of
from homeserver.residency.moves import copying, erasing, files, rooms_ahead, unpacking
from homeserver.residency.moves.journal import (
    WOKEN,
    Halted,
    Impossible,
    Move,
    Moves,
    State,
    Wish,
    fail,
    note,
    of_departure,
    words,
)
from homeserver.residency.moves.rehoming import erase_unneeded
from homeserver.residency.moves.switching import is_busy, switch, whose
from homeserver.rooms import leaving
from homeserver.runtime.jobs import Postponed
from homeserver.storage import moves as stored
from homeserver.storage import users

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.residency.moves.rooms_ahead import Shared
    from homeserver.storage.moves import Arrival
    from homeserver.storage.nodes import Node

log = structlog.get_logger("residency.moves")

RETRY: Final = 2.0
"""Seconds until a move that waits is tried again, and until nodes that were down are looked at."""
FIRST_PAUSE: Final = 0.05
"""Seconds between two rounds of copying at first; doubles up to `RETRY`."""
QUICK: Final = 1.0
"""Seconds that a round may take, if what is left is to be copied in the moment in which the user is held."""


async def settle(server: Server) -> None:
    """Before anybody is served: take back what moves have done halfway, and do what has to be done at once of those
    whose users are on their new nodes. What nodes that are down have to do with it, waits for them."""
    for node in server.nodes:
        with suppress(NodeUnavailable):
            for arrival in await node.read(stored.arrivals):
                move = of_arrival(server, node, arrival)
                if await whose(server, move) != node.name:
                    if arrival.state == "unpacked":
                        await node.advance(unpacking.undo, move.user_id)
                        await node.write(stored.note_arrival, move.move_id, "staging", arrival.account)
                else:
                    await move.source.advance(erasing.erase_rows, server, move)


def of_arrival(server: Server, target: Node, arrival: Arrival) -> Move:
    """A move as its target has it. Raises NodeUnavailable when the policy does not have its source any more."""
    source = server.nodes[arrival.source]
    return Move(arrival.move_id, arrival.user_id, 0, source, target, Wish(), State.ERASING, 0)


async def follow(server: Server) -> None:
    """Move users, for ever."""
    moves = server.nodes.directory.memory(Moves)
    try:
        with server.wakeups.listen([WOKEN]) as listener:
            while not server.wakeups.stopping:
                try:
                    await _take_up(server, moves)
                except Exception:
                    log.exception("moves were not looked for")
                await listener.wait(RETRY)
    finally:
        tasks = list(moves.running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _take_up(server: Server, moves: Moves) -> None:
    for node in server.nodes:
        if not node.engine.health().up:
            continue
        with suppress(NodeUnavailable):
            for arrival in await node.read(stored.arrivals):
                move = of_arrival(server, node, arrival)
                if arrival.user_id in moves.running:
                    continue
                if await whose(server, move) == node.name:
                    _start(server, moves, move)
                else:
                    await _clear_away_halted(server, node, arrival)
            for row in await node.read(stored.departures):
                if row.halted is None:
                    with suppress(NodeUnavailable):
                        _start(server, moves, of_departure(server, row, node))
            if node.name in moves.unpurged and node.name not in moves.sources.values():
                await erasing.purge(server, node)


def _start(server: Server, moves: Moves, move: Move) -> None:
    if move.user_id in moves.running or len(moves.running) >= server.settings.moves.at_once:
        return
    # An empty context: a move belongs to no request and to no transaction.
    task = asyncio.get_running_loop().create_task(_run(server, move), context=Context())
    moves.running[move.user_id] = task
    moves.sources[move.user_id] = move.source.name

    def ended(_: asyncio.Task[None]) -> None:
        moves.running.pop(move.user_id, None)
        moves.sources.pop(move.user_id, None)
        server.wakeups.wake(WOKEN)

    task.add_done_callback(ended)


async def _run(server: Server, move: Move) -> None:
    """Bring one move as far as it goes."""
    try:
        if await whose(server, move) != move.target.name:
            await _approach(server, move)
        await erasing.finish(server, move)
    except Halted:
        await _stay(server, move)
    except Impossible as reason:
        log.warning("a move failed", move=move.move_id, reason=str(reason))
        with suppress(NodeUnavailable):
            await fail(server, move, str(reason))
        await _stay(server, move)
    except NodeUnavailable as down:
        await _wait(server, move, f"waits: {down.message}")
    except Postponed as reason:
        await _wait(server, move, str(reason))
    except Exception as error:
        log.exception("a move was broken off", move=move.move_id)
        await _wait(server, move, f"is tried again after a fault of this program: {words(error)}")
    except asyncio.CancelledError:
        if not server.wakeups.stopping:  # somebody stopped it
            await asyncio.shield(asyncio.ensure_future(_stay(server, move)))
        raise


async def _stay(server: Server, move: Move) -> None:
    """The user stays for now: what has gone ahead of them rests where it may not any more, and goes. What cannot be
    done now is done when it is looked for moves again."""
    try:
        await rooms_ahead.call_back(server, move)
        await _clear_away(server, move)
    except (NodeUnavailable, Postponed) as reason:
        log.info("what went ahead was not cleared away", move=move.move_id, reason=words(reason))


async def _clear_away(server: Server, move: Move) -> None:
    """Leave nothing on the target of a user who does not come. Raises NodeUnavailable, Postponed."""
    arrival = await move.target.read(stored.arrival, move.move_id)
    if arrival is None or await whose(server, move) == move.target.name:
        return
    await move.target.advance(unpacking.undo, move.user_id)
    await move.target.write(stored.clear_staged, move.move_id)
    await files.forget(move)
    await erase_unneeded(server, move.target, move.user_id)
    await move.target.write(stored.forget_arrival, move.move_id)


async def _clear_away_halted(server: Server, target: Node, arrival: Arrival) -> None:
    """Clear away after a move that goes on no more, unless that has been done. Raises NodeUnavailable."""
    source = server.nodes[arrival.source]
    row = await source.read(stored.departure_of, arrival.user_id)
    if row is None or row.move_id != arrival.move_id or row.halted is not None:
        user_nid = await source.read(users.nid, arrival.user_id)
        move = of_arrival(server, target, arrival)
        move.user_nid = user_nid or 0
        await _stay(server, move)


async def _wait(server: Server, move: Move, reason: str) -> None:
    """Say why a move does not go on, and give it time."""
    with suppress(NodeUnavailable, Halted):
        if move.state is State.ERASING:
            account = copying.encoded({**move.account, "waits_for": reason})
            await move.target.write(stored.note_arrival, move.move_id, State.ERASING.value, account)
        else:
            state = State.CATCHING_UP if move.state is State.SWITCHING else move.state
            await note(server, move, state, reason)
    await server.clock.sleep(RETRY)


# up to the switch ---------------------------------------------------------------------------


async def _approach(server: Server, move: Move) -> None:
    """Copy, catch up, and switch. Raises Halted, Impossible, NodeUnavailable, Postponed."""
    if closed := _closed(server, move):
        raise Postponed(closed)
    await note(server, move, State.COPYING)
    await _begin(server, move)
    found = await _rooms(server, move)
    await files.copy(move)
    await copying.copy_round(server, move)
    await rooms_ahead.bring_left(server, move)
    await rooms_ahead.bring(server, move, found)
    await note(server, move, State.CATCHING_UP)
    pause = FIRST_PAUSE
    while True:
        waits_for = await _catch_up(server, move)
        if waits_for is None and await switch(server, move, await _rooms(server, move)):
            return
        await note(server, move, State.CATCHING_UP, waits_for)
        await server.clock.sleep(pause)
        pause = min(2 * pause, RETRY)


def _closed(server: Server, move: Move) -> str | None:
    """What a move has to wait for whose border is closed, in words; None while it is open."""
    source, target = move.source.jurisdiction, move.target.jurisdiction
    if not server.policy.now.holds(source, target):
        return None
    return f"waits for the end of the isolation between {source} and {target}"


async def _begin(server: Server, move: Move) -> None:
    move.account = {"begun_ts": move.begun_ts}
    account = copying.encoded(move.account)
    await move.target.write(stored.expect, move.move_id, move.user_id, move.source.name, account)
    arrival = await move.target.read(stored.arrival, move.move_id)
    if arrival is not None and arrival.state == "unpacked":
        await move.target.advance(unpacking.undo, move.user_id)
        await move.target.write(stored.note_arrival, move.move_id, "staging", account)


async def _rooms(server: Server, move: Move) -> Sequence[Shared]:
    """The rooms that come along; what cannot come is left, where that was asked for. Raises Impossible."""
    found = await rooms_ahead.shared(server, move.source, move.target, move.user_id, move.user_nid)
    blocked = [each for each in found if each.missing is not None]
    if blocked and not move.wish.leave_rooms:
        rooms = "; ".join(f"{each.room_id}: {each.missing}" for each in blocked)
        raise Impossible(
            f"rooms that may not span {move.target.name}: {rooms}. Change the policy, or let the user leave them"
        )
    for each in blocked:
        caller = Caller(move.user_id, localpart_of(move.user_id), move.source, move.user_nid, "", 0)
        with suppress(Forbidden):
            await leaving.leave(server, caller, each.room_id)
    return [each for each in found if each.missing is None]


async def _catch_up(server: Server, move: Move) -> str | None:
    """One more round; what the switch has to wait for, in words, or None. Raises Postponed."""
    if closed := _closed(server, move):
        raise Postponed(closed)
    await files.copy(move)
    began = server.clock.monotonic()
    await copying.copy_round(server, move)
    is_quick = server.clock.monotonic() - began < QUICK
    found = await _rooms(server, move)
    await rooms_ahead.bring(server, move, found)
    behind = await rooms_ahead.behind(server, move, found)
    if behind:
        return f"waits for {len(behind)} rooms to be copied"
    if not is_quick:
        return "waits for a round that has little to copy"
    if await is_busy(server, move):
        return "waits for what the user's requests have asked to be done"
    if move.wish.window is not None and not is_open(move.wish.window, server.clock.now_ms()):
        return "waits for its window"
    return None


def is_open(window: tuple[int, int], now_ms: int) -> bool:
    """Whether a moment is in a window, in minutes of the day (UTC); one that ends before it begins spans midnight."""
    moment = datetime.fromtimestamp(now_ms / 1000, UTC)
    minute = moment.hour * 60 + moment.minute
    begin, end = window
    return begin <= minute < end if begin <= end else minute >= begin or minute < end
