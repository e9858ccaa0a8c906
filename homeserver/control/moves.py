"""Moving users, and the order of rooms, between nodes: what it would come to, begin, look, stop, go on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from homeserver.control.arguments import given, needed, user_id_of
from homeserver.protocol import move_receipts
from homeserver.protocol.errors import InvalidParam, NotFound
from homeserver.residency.moves import examining, homes, journal
from homeserver.residency.moves.journal import Wish

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments
    from homeserver.storage.nodes import Node

_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def _target(server: Server, arguments: Arguments) -> Node:
    name = needed(arguments, "to")
    found = next((node for node in server.nodes if node.name == name), None)
    if found is None:
        raise NotFound(f"There is no node {name}: there are {', '.join(node.name for node in server.nodes)}")
    return found


def _window(arguments: Arguments) -> tuple[int, int] | None:
    text = given(arguments, "window")
    if text is None:
        return None
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise InvalidParam("A window is written like 01:00-05:00, in UTC")
    begin, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
    if begin == end:
        raise InvalidParam("A window must have a length")
    return begin, end


async def residency_move(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Begin to move ``user`` ``to`` a node; as wished in a ``window``, and ``leave_rooms`` that cannot come along.

    With ``dry_run`` nothing is done but said what it would come to.
    """
    user_id, target = user_id_of(server, needed(arguments, "user")), _target(server, arguments)
    wish = Wish(leave_rooms=bool(arguments.get("leave_rooms")), window=_window(arguments))
    found = await examining.examine(server, user_id, target)
    if arguments.get("dry_run"):
        return found.shown()
    examining.check(found, wish)
    move_id = await journal.begin(server, user_id, target, wish)
    return {"move_id": move_id, "user_id": user_id, "from": found.source.name, "to": target.name}


async def residency_move_room(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Have the node ``to`` order ``room``. With ``dry_run`` nothing is done but said what keeps it from that."""
    room_id, target = needed(arguments, "room"), _target(server, arguments)
    if arguments.get("dry_run"):
        home, obstacles = await homes.examine(server, room_id, target)
        return {"room_id": room_id, "from": home.name, "to": target.name, "obstacles": obstacles}
    home = await homes.move(server, room_id, target)
    return {"room_id": room_id, "from": home.name, "to": target.name}


async def residency_move_status(server: Server, arguments: Arguments) -> dict[str, Any]:
    """How far moves are: of ``user``, or all that go on, and the nodes that could not be asked."""
    found, down = await journal.listed(server)
    name = given(arguments, "user")
    if name is not None:
        user_id = user_id_of(server, name)
        found = [each for each in found if each["user_id"] == user_id]
        if not found and (last := await journal.last_of(server, user_id)) is not None:
            found = [last]
    return {"moves": found, "nodes_down": down}


async def residency_receipts(server: Server, arguments: Arguments) -> dict[str, Any]:
    """The receipts of the moves of ``user``, the oldest first, and the key that they can be checked with."""
    receipts = await journal.receipts(server, user_id_of(server, needed(arguments, "user")))
    key = server.identity.residency_key.verify_key
    return {
        "server_name": server.name,
        "key_id": key.key_id,
        "key": key.base64,
        "receipts": [receipt.decode() for receipt in receipts],
        "contents": [move_receipts.verify(receipt, server.name, key) for receipt in receipts],
    }


async def residency_move_stop(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Stop the move of ``user``, who stays where they are; with ``forget`` there is nothing to go on with then."""
    user_id = user_id_of(server, needed(arguments, "user"))
    await journal.stop(server, user_id)
    if arguments.get("forget"):
        await journal.forget(server, user_id)
    return {"user_id": user_id}


async def residency_move_resume(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Go on with the move of ``user`` that was stopped or has failed."""
    user_id = user_id_of(server, needed(arguments, "user"))
    await journal.resume(server, user_id)
    return {"user_id": user_id}
