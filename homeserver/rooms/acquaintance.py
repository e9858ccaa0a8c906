"""Who has come to share a room with a user of late: they are shown each other's presence, though it did not change.

Where a user's presence was not known on a node so far, since nobody there shared a room with them, it is copied from
their own node's memory, if the policy lets presence flow.

spec: client-server-api/#presence
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from config.residency import DataClass
from homeserver.protocol.event_view import MEMBER
from homeserver.residency import gate
from homeserver.rooms import state
from homeserver.rooms.state import membership_in
from homeserver.storage import rooms
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from homeserver.context import Caller, Server
    from homeserver.rooms.presence import Presences, Shown
    from homeserver.rooms.state import Room, Timed
    from homeserver.storage.nodes import Node
    from homeserver.storage.rooms import StoredMembership

JOINED = b'"membership":"join"'


class Mutual(NamedTuple):
    """Rooms that two users share, in the order of their ids; ``more``: these are not the last of all ``total``."""

    room_ids: list[str]
    total: int
    more: bool


async def mutual_rooms(caller: Caller, other: str, after: str, limit: int) -> Mutual:
    """Up to ``limit`` rooms that the caller and another user have joined, behind the room id ``after``.

    spec: client-server-api/#get_matrixclientv1mutual_rooms
    """
    found, total = await caller.node.read(rooms.shared, caller.user_nid, other, after, limit + 1)
    return Mutual(found[:limit], total, more=len(found) > limit)


async def since(caller: Caller, mine: Sequence[StoredMembership], position: int) -> set[str]:
    """The users who came into a room of the caller behind a position, and all others in a room that the caller came
    into. No trip unless there are any, and seldom then.
    """
    node = caller.node
    found: set[str] = set()
    for held in mine:
        if held.membership != "join" or not node.changes.changed(Stream.MEMBERS, held.room_nid, position):
            continue
        room = await state.find(node, held.room_id)
        if room is None:
            continue
        entered = set(_entered(room, position))
        if caller.user_id in entered:
            entered = {key for (kind, key), entry in room.now.state.items() if kind == MEMBER and _is_in(entry)}
        found |= entered
    return found - {caller.user_id}


def _is_in(entry: state.Entry) -> bool:
    return entry.membership == "join"


def _entered(room: Room, position: int) -> Iterable[str]:
    for event in reversed(room.recent):
        if event.pos <= position:
            return
        if event.type == MEMBER and event.state_key is not None and _is_entry(event):
            yield event.state_key


def _is_entry(event: Timed) -> bool:
    """Whether somebody came in, and did not merely change their name."""
    return membership_in(event.client) == "join" and JOINED not in (event.unsigned or b"")


async def shown(server: Server, node: Node, user_ids: Collection[str], memory: type[Presences]) -> list[Shown]:
    """The presence of those users who have any, as the node shows it from now on."""
    here = node.memory(memory)
    unknown = [user_id for user_id in user_ids if user_id not in here.shown]
    for user_id, name in (await server.nodes.of_users(unknown)).items() if unknown else ():
        home = server.nodes[name]
        theirs = home.memory(memory).shown.get(user_id)
        if home is node or theirs is None:
            continue
        if gate.may(server, DataClass.PRESENCE, home.jurisdiction, node.jurisdiction):
            here.show(node, replace(theirs))
    return [here.shown[user_id] for user_id in user_ids if user_id in here.shown]
