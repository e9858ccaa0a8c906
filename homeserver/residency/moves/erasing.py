"""After the switch: what is left of the user on the node that they left goes, and all who count them count anew.

Each step may be done twice: a move that was cut off here is taken up where the databases say it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import structlog

from homeserver.protocol import move_receipts
from homeserver.protocol.key_log import Reason
from homeserver.protocol.move_receipts import Receipt
from homeserver.residency.moves import files, rooms_ahead, unpacking
from homeserver.residency.moves.journal import Moves, State
from homeserver.residency.moves.rehoming import erase_unneeded, heir_of, rehome
from homeserver.residency.moves.switching import leave
from homeserver.rooms import state
from homeserver.rooms.holders import Travellers, follow_home, recount
from homeserver.storage import belongings, replica_erasure, users
from homeserver.storage import moves as stored
from homeserver.storage.tables import TABLES
from homeserver.transparency import changes, statements

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.residency.moves.journal import Move
    from homeserver.storage.engine import Transaction
    from homeserver.storage.moves import Held
    from homeserver.storage.nodes import Node

log = structlog.get_logger("residency.moves")

TOUCHED = sorted(table.name for table in TABLES.values() if table.owner is not None or table.data_class is not None)
"""Tables from which rows go."""


async def finish(server: Server, move: Move) -> None:
    """Do what is left once the directory says that the user is on the target. Raises NodeUnavailable: to be tried
    again."""
    move.state = State.ERASING
    arrival = await move.target.read(stored.arrival, move.move_id)
    if arrival is None:
        return
    move.account = orjson.loads(arrival.account)
    await move.target.write(stored.note_arrival, move.move_id, State.ERASING.value, arrival.account)
    server.nodes.directory.memory(Travellers).to.pop(move.user_id, None)
    user_nid = await move.target.read(users.resident, move.user_id)
    assert user_nid is not None
    await move.target.advance(unpacking.wake, server, move, user_nid)
    await move.target.write(changes.append, server, move.target, move.user_id, Reason.ARRIVED)
    leave(server, move)
    await move.source.advance(erase_rows, server, move)
    for held in await move.target.read(stored.rooms_of, user_nid):
        if held.replica:
            await _count_anew(server, move, held)
    await _erase_rooms(server, move)
    erased = await files.erase(move.source, move.target, user_nid)
    await _keep_receipt(server, move, user_nid, erased)
    await _purge(server, move)
    await move.target.write(stored.forget_arrival, move.move_id)
    log.info("a user was moved", move=move.move_id, source=move.source.name, target=move.target.name, files=erased)


async def erase_rows(tx: Transaction, server: Server, move: Move) -> None:
    """What the switch did not come to; and the key log says where its user is not any more."""
    await changes.append_left(tx, server, move.source, move.user_id)
    user_nid = await users.resident(tx, move.user_id)
    if user_nid is not None:
        belongings.erase(tx, user_nid, replicas=True)


async def _count_anew(server: Server, move: Move, held: Held) -> None:
    """All nodes that hold a room of the user learn where its members are."""
    home = await server.nodes.of_room(held.room_id)
    room = None if home is None else await state.find(home, held.room_id)
    others = [move.source, move.target, *([] if home is None else [home])]
    for node in await rooms_ahead.holders(server, room, *others):
        if home is not None:
            await follow_home(node, held.room_id, home.name)
        await recount(server, node, held.room_id)
    here = await state.find(move.source, held.room_id)
    if here is not None and move.source.name not in here.now.nodes and home in (move.source, move.target):
        # Who has left a room has what they may still read of it there, which is not the room as it is now.
        heir = heir_of(server, here, move.source, move.target.name) if home is move.source else None
        await rehome(server, held.room_id, move.source, move.target if heir is None else server.nodes[heir])


async def _erase_rooms(server: Server, move: Move) -> None:
    """The source gives up the rooms with which nobody there has anything to do any more, and the user's name. Raises
    Postponed."""
    erased = await erase_unneeded(server, move.source, move.user_id)
    move.account["erased_rooms"] = move.account.get("erased_rooms", 0) + erased
    user_nid = await move.source.read(users.nid, move.user_id)
    if user_nid is not None and not await move.source.read(replica_erasure.is_anybody, user_nid):
        await move.source.write(replica_erasure.forget_name, user_nid)


async def _keep_receipt(server: Server, move: Move, user_nid: int, erased_files: int) -> None:
    """Have both nodes sign what was done, keep it with the user, and have the key logs of both state it.

    Who is cut off in between does it again: the receipt is then the one that is kept.
    """
    identity, now, account = server.identity, server.clock.now_ms(), move.account
    before = await move.target.read(stored.receipts_of, user_nid)
    receipt = Receipt(
        server_name=server.name,
        move_id=move.move_id,
        user_id=move.user_id,
        source=move.source.name,
        source_jurisdiction=move.source.jurisdiction,
        target=move.target.name,
        target_jurisdiction=move.target.jurisdiction,
        begun_ts=account["begun_ts"],
        switched_ts=account["switched_ts"],
        ended_ts=now,
        copied=account["copied"],
        files=account["files"],
        erased_files=erased_files,
        erased_rooms=account.get("erased_rooms", 0),
        previous=move_receipts.digest(before[-1]) if before else None,
    )
    keys = {node.name: identity.node_key(node.name) for node in (move.source, move.target)}
    signed = move_receipts.signed(receipt, keys, identity.residency_key)
    kept = await move.target.write(_put_receipt, server, move.move_id, user_nid, now, signed)
    await move.source.write(_state_receipt, server, kept)


async def _put_receipt(
    tx: Transaction, server: Server, move_id: str, user_nid: int, ended_ts: int, receipt: bytes
) -> bytes:
    """Returns the receipt that is kept: this one, or the one of an earlier attempt."""
    kept = await stored.put_receipt(tx, move_id, user_nid, ended_ts, receipt)
    await statements.append_receipt(server, tx, kept)
    return kept


async def _state_receipt(tx: Transaction, server: Server, receipt: bytes) -> None:
    await statements.append_receipt(server, tx, receipt)


async def _purge(server: Server, move: Move) -> None:
    """Have what was deleted leave the files of the source, too; of several users who leave it, with the last one."""
    moves = server.nodes.directory.memory(Moves)
    others = [
        user_id for user_id, source in moves.sources.items() if user_id != move.user_id and source == move.source.name
    ]
    moves.unpurged.add(move.source.name)
    if not others:
        await purge(server, move.source)


async def purge(server: Server, node: Node) -> None:
    """Have what was deleted leave the files of a node. Raises NodeUnavailable."""
    await node.engine.purge(TOUCHED)
    server.nodes.directory.memory(Moves).unpurged.discard(node.name)
