"""Asks other servers for the rooms of a space; what they say is checked, and remembered for a while.

spec: server-server-api/#spaces
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from config.residency import DataClass
from federation.public_rooms import entry_of
from federation.remote import RemoteRefusal, ask_for, check_flow
from homeserver.context import FoundSpace
from homeserver.protocol.errors import NotFound, ServerUnreachable
from homeserver.protocol.identifiers import is_room_id, is_server_name, is_user_id
from homeserver.runtime.lru import Lru

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.nodes import Node

MOST_BYTES: Final = 2 * 2**20
MOST_CHILDREN: Final = 500
MOST_SERVERS: Final = 20
KEPT: Final = 300.0
"""Seconds that an answer is remembered."""
REMEMBERED: Final = 8 * 2**20
"""Bytes of answers that a node remembers."""


class Spaces:
    """What other servers have said of spaces (``node.memory(Spaces)``), and until when it is believed. By server: none
    speaks for another."""

    def __init__(self) -> None:
        self.known: Lru[tuple[str, str, bool], tuple[float, FoundSpace, int]] = Lru(REMEMBERED, lambda known: known[2])


async def hierarchy(server: Server, node: Node, destination: str, room_id: str, suggested_only: bool) -> FoundSpace:
    """See `context.Remote.hierarchy`. spec: server-server-api/#get_matrixfederationv1hierarchyroomid"""
    check_flow(server, node, DataClass.EVENTS, destination, inward=True)
    memory, now, key = node.memory(Spaces).known, server.clock.monotonic(), (destination, room_id, suggested_only)
    known = memory.get(key)
    if known is not None and known[0] > now:
        return known[1]
    target = f"/_matrix/federation/v1/hierarchy/{quote(room_id, safe='')}?suggested_only={str(suggested_only).lower()}"
    try:
        answer = await ask_for(
            server, node, DataClass.EVENTS, destination, "GET", target, most=MOST_BYTES, inward=True, if_reachable=True
        )
    except RemoteRefusal as refusal:
        if refusal.status in (403, 404):
            raise NotFound(f"{destination} shows no such room") from None
        raise ServerUnreachable(f"{destination} does not show that room") from None
    room = _entry(answer.get("room"))
    if room is None or room["room_id"] != room_id:
        raise ServerUnreachable(f"{destination} did not say what that room is")
    children = [_entry(each) for each in _list(answer.get("children"))]
    closed = [each for each in _list(answer.get("inaccessible_children")) if is_room_id(each)]
    found = FoundSpace(room, {child["room_id"]: child for child in children if child is not None}, frozenset(closed))
    memory[key] = (now + KEPT, found, 1000 + len(str(found)))
    return found


def _list(value: object) -> list[Any]:
    return value[:MOST_CHILDREN] if isinstance(value, list) else []


def _entry(value: object) -> dict[str, Any] | None:
    """What an answer says of one room; None for what is none."""
    entry = entry_of(value)
    if entry is None or not isinstance(value, dict):
        return None
    allowed = [each for each in _list(value.get("allowed_room_ids")) if is_room_id(each)]
    if allowed:
        entry["allowed_room_ids"] = allowed
    children = [_child(each) for each in _list(value.get("children_state"))]
    entry["children_state"] = [child for child in children if child is not None]
    return entry


def _child(event: object) -> dict[str, Any] | None:
    """A stripped m.space.child with its time."""
    if not isinstance(event, dict) or event.get("type") != "m.space.child":
        return None
    room_id, content, moment = event.get("state_key"), event.get("content"), event.get("origin_server_ts")
    if not is_room_id(room_id) or not isinstance(content, dict) or not is_user_id(event.get("sender")):
        return None
    if not isinstance(moment, int) or isinstance(moment, bool):
        return None
    via = [name for name in _list(content.get("via")) if isinstance(name, str) and is_server_name(name)][:MOST_SERVERS]
    return {
        "type": "m.space.child",
        "state_key": room_id,
        "content": {**content, "via": via},
        "sender": event["sender"],
        "origin_server_ts": moment,
    }
