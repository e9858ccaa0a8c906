"""Users of several servers who come together, and what they see of each other."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.deployment import Answer, User
from tests.rooms.play import CLIENT, Play


async def enter(play: Play, user: User, room_id: str, via: str) -> None:
    """Join through a server."""
    await play.ask(user, "POST", f"/join/{quote(room_id)}", {}, via=via)


async def kept_out(user: User, room_id: str, via: str, verb: str = "join") -> Answer:
    """Try to join (or ``knock``) through a server, in vain."""
    answer = await user.asks("POST", f"{CLIENT}/{verb}/{quote(room_id)}", {}, via=via)
    assert answer.status >= 400, answer
    return answer


async def members(play: Play, user: User, room_id: str) -> set[str]:
    """Who is in a room, as a member sees it."""
    return set((await play.ask(user, "GET", f"/rooms/{quote(room_id)}/joined_members"))["joined"])


async def membership(play: Play, reader: User, room_id: str, user: User) -> str:
    """The membership of a user, as a member sees it."""
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(user.user_id)}"
    return str((await play.ask(reader, "GET", path))["membership"])


async def told(play: Play, user: User, part: str, room_id: str) -> dict[str, Any] | None:
    """What `/sync` tells a user of a room in the part ``join``, ``invite``, ``knock`` or ``leave``."""
    wanted = '{"room":{"include_leave":true}}'
    found: dict[str, Any] | None = (
        (await play.ask(user, "GET", "/sync", filter=wanted)).get("rooms", {}).get(part, {}).get(room_id)
    )
    return found


async def known(play: Play, room_id: str) -> bool:
    """Whether any node of a deployment holds the room."""
    nodes = list(play.server.nodes)
    return await play.server.nodes.of_room(room_id) is not None or bool(
        [node for node in nodes if await node.read(_knows, room_id)]
    )


async def _knows(tx: Any, room_id: str) -> bool:
    return await tx.one("SELECT 1 FROM rooms WHERE room_id = ? AND state_group IS NOT NULL", room_id) is not None
