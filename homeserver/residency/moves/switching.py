"""The switch: the user is held for a moment, the last difference is shipped and unpacked, and one commit of the
directory says that they are on the other node.

Nothing of theirs can be written on the source between the last look at it and that commit, since nobody can write
there at all; and nothing after it, since they are no resident any more. Before it the source has the user, after it the
target: `whose` says which, whoever was killed when.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from homeserver.accounts import callers, recipients
from homeserver.accounts.contacts import route_of as threepid_route
from homeserver.accounts.oauth.identities import route_of as identity_route
from homeserver.e2ee import shown_keys
from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.identifiers import localpart_of
from homeserver.residency.moves import copying, files, rooms_ahead, unpacking
from homeserver.residency.moves.journal import State, note
from homeserver.rooms import presence
from homeserver.rooms.onlookers import Onlookers
from homeserver.rooms.state import Rooms
from homeserver.runtime.deadlines import within
from homeserver.runtime.doors import Doors
from homeserver.storage import belongings, chores, streams
from homeserver.storage import moves as stored
from homeserver.storage.belongings import BELONGINGS
from homeserver.storage.directory import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.residency.moves.copying import Rows
    from homeserver.residency.moves.journal import Move
    from homeserver.residency.moves.rooms_ahead import Shared
    from homeserver.storage.engine import Transaction, Write

log = structlog.get_logger("residency.moves")

ATTEMPTS: Final = 2
"""How often the last difference is shipped while others may go on writing to the user."""


async def whose(server: Server, move: Move) -> str | None:
    """The name of the node that has the user, as the directory's database says."""
    return await server.nodes.directory.ask(Kind.USER, localpart_of(move.user_id))


async def switch(server: Server, move: Move, found: Sequence[Shared]) -> bool:
    """Switch a user, if it can be done in the time for which they may be held; False when it is to be tried again.

    Raises Halted, Impossible, NodeUnavailable: they are then where `whose` says.
    """
    await note(server, move, State.SWITCHING)
    doors = server.nodes.directory.memory(Doors)
    with doors.closed(move.user_id):
        server.wake_residents(move.source, [move.user_nid])  # long polls
        try:
            async with within(server.clock, server.settings.moves.patience.seconds):
                await doors.empty(move.user_id)
                rows = await _last_rounds(server, move, found)
        except TimeoutError:
            rows = None
        done = (
            False if rows is None else await asyncio.shield(asyncio.ensure_future(_switch(server, move, found, rows)))
        )
    if not done:
        await note(server, move, State.CATCHING_UP, "the switch took too long; it is tried again")
    return done


async def is_busy(server: Server, move: Move) -> bool:
    """Whether something is left to be done on the source that the user has asked for there."""
    kinds = await move.source.read(chores.kinds_of, move.user_nid)
    for kind in kinds:
        server.wakeups.wake(chores.key(move.source.name, kind))
    return bool(kinds)


async def _last_rounds(server: Server, move: Move, found: Sequence[Shared]) -> Rows | None:
    """Ship what differs now; None when the rooms are not there yet, or something is left to be done here."""
    if await is_busy(server, move):
        return None
    await rooms_ahead.bring(server, move, found)
    if await rooms_ahead.behind(server, move, [each for each in found if each.missing is None]):
        return None
    await files.copy(move)
    rows = await move.source.read(copying.look, move.user_nid)
    await copying.ship_last(move, rows)
    return rows


async def _switch(server: Server, move: Move, found: Sequence[Shared], rows: Rows) -> bool:
    """From here on nothing is broken off."""
    for _ in range(ATTEMPTS):
        if await is_busy(server, move):
            return False
        await _unpack(server, move, rows)
        async with move.source.alone() as write:
            changed = await _changed(move, rows)
            if not changed:
                await _commit(server, move, found, rows, write)
                return True
        await move.target.advance(unpacking.undo, move.user_id)
        await copying.ship_last(move, changed)
        rows = {**rows, **changed}
    async with move.source.alone() as write:  # others write to the user all the time: they have to wait a little
        if await move.source.read(chores.kinds_of, move.user_nid):
            return False
        rows = await move.source.read(copying.look, move.user_nid)
        await copying.ship_last(move, rows)
        await _unpack(server, move, rows)
        await _commit(server, move, found, rows, write)
        return True


async def _unpack(server: Server, move: Move, rows: Rows) -> None:
    """Make the user a resident of the target, of whom the directory says that they are on the source."""
    move.account.update(
        copied=copying.counted(rows),
        files=sum(1 for row in rows["media"] if files.has_file(row)),
        switched_ts=server.clock.now_ms(),
    )
    arriving = unpacking.Arriving(
        await move.source.read(streams.current),
        await move.source.read(stored.keys_changed_at, move.user_nid),
        await move.source.read(unpacking.places_of, move.user_nid),
        copying.digests(rows),
    )
    await move.target.advance(unpacking.unpack, server, move, arriving)


async def _changed(move: Move, rows: Rows) -> Rows:
    """What is otherwise on the source than when it was unpacked; empty when nothing is. Nobody may write there now."""
    skipped = copying.skippable(rows)
    now = await move.source.read(copying.look, move.user_nid, skipped)
    work: list[str] = await move.source.read(chores.kinds_of, move.user_nid)
    if not work and copying.same(rows, now, skipped):
        return {}
    return {table: each for table, each in now.items() if table not in skipped}


async def _commit(server: Server, move: Move, found: Sequence[Shared], rows: Rows, write: Write) -> None:
    """Say in the directory that the user is on the target, and erase what they own on the source, before anybody else
    can write there. Raises NodeUnavailable: `whose` says then where they are."""
    try:
        await server.nodes.directory.reroute_all(_routes(server, move, found, rows), move.target.name)
    except NodeUnavailable:
        if await whose(server, move) != move.target.name:
            raise
    move.state = State.ERASING
    leave(server, move)
    await erase_rows(server, move, write)


def _routes(server: Server, move: Move, found: Sequence[Shared], rows: Rows) -> list[tuple[Kind, str]]:
    """All that leads to the user, and to the rooms that are theirs alone."""
    routes = [(Kind.USER, localpart_of(move.user_id))]
    media = (belongings.values_of(BELONGINGS["media"], row)["media_id"] for row in rows["media"])
    routes += [(Kind.MEDIA, str(media_id)) for media_id in media]
    for row in rows["threepids"]:
        values = belongings.values_of(BELONGINGS["threepids"], row)
        routes.append((Kind.THREEPID, threepid_route(str(values["medium"]), str(values["address"]))))
    for row in rows["upstream_identities"]:
        values = belongings.values_of(BELONGINGS["upstream_identities"], row)
        routes.append((Kind.UPSTREAM, identity_route(str(values["provider"]), str(values["subject"]))))
    return routes + [(Kind.ROOM, each.room_id) for each in found if each.alone and each.missing is None]


def leave(server: Server, move: Move) -> None:
    """Forget on the source that the user was there."""
    source, user_id, user_nid = move.source, move.user_id, move.user_nid
    recipients.depart(source, user_id)
    callers.forget(server, source, user_id)
    keys = source.memory(shown_keys.Remembered)
    keys.residents.pop(user_id)
    keys.signed.pop(user_nid)
    keys.forget_copies()
    move.target.memory(shown_keys.Remembered).forget_copies()
    recipients.arrive(move.target, user_id)
    source.memory(presence.Presences).lose(user_nid, user_id)
    source.memory(Onlookers).change(user_nid)
    rooms = source.memory(Rooms)
    for room in [*rooms.held.values(), *(room for room, _ in rooms.busy.values())]:
        room.residents.pop(user_id, None)


async def erase_rows(server: Server, move: Move, write: Write) -> None:
    """Delete what the user owns on the source; from then on the database takes nothing of theirs. Raises
    NodeUnavailable: it is done when the node is back."""
    try:
        await write(_erase_rows, move)
    except NodeUnavailable:
        log.warning("the source of a move went down before it was erased", node=move.source.name)


async def _erase_rows(tx: Transaction, move: Move) -> None:
    belongings.erase(tx, move.user_nid, replicas=True)
