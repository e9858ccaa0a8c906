"""The room directory: the published rooms of all nodes, as far as each may be shown where it is asked for.

spec: client-server-api/#published-room-directory
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from config.residency import DataClass
from homeserver.protocol.errors import Forbidden, InvalidParam, NodeUnavailable, NotFound
from homeserver.protocol.event_view import CREATE, HISTORY_VISIBILITY, JOIN_RULES, StateKey
from homeserver.residency import gate
from homeserver.rooms import aliases, state
from homeserver.storage import rooms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Caller, Server
    from homeserver.rooms.state import Room
    from homeserver.storage.nodes import Node

_TEXTS: dict[StateKey, str] = {
    ("m.room.name", ""): "name",
    ("m.room.topic", ""): "topic",
    ("m.room.canonical_alias", ""): "canonical_alias",
    ("m.room.avatar", ""): "avatar_url",
}
_SOURCES = {"name": "name", "topic": "topic", "canonical_alias": "alias", "avatar_url": "url"}
_GUESTS: StateKey = ("m.room.guest_access", "")
_ENCRYPTION: StateKey = ("m.room.encryption", "")
_READ = (*_TEXTS, CREATE, JOIN_RULES, HISTORY_VISIBILITY, _GUESTS, _ENCRYPTION)


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for: ``term`` in name, topic or alias; ``types`` of rooms (None: untyped), or all."""

    term: str | None = None
    types: Sequence[str | None] | None = None
    limit: int | None = None
    since: str | None = None


async def listing(server: Server, asking: Node | None, search: Search) -> dict[str, Any]:
    """One page of the directory, the rooms with most members first.

    ``asking`` is the node of who asks; rooms whose events may not go there are not shown, and to somebody unknown
    those of no other jurisdiction than `unknown` may see. Raises InvalidParam for a page that is none.
    """
    found = [entry for entry in await _all(server, asking) if _matches(entry, search)]
    found.sort(key=lambda entry: (-entry["num_joined_members"], entry["room_id"]))
    start, most = _offset(search.since), server.settings.limits.page_size
    limit = most if search.limit is None else min(search.limit, most)
    end = start + limit
    answer: dict[str, Any] = {"chunk": found[start:end], "total_room_count_estimate": len(found)}
    if end < len(found):
        answer["next_batch"] = f"o{end}"
    if start > 0:
        answer["prev_batch"] = f"o{max(0, start - limit)}"
    return answer


def _offset(since: str | None) -> int:
    if since is None:
        return 0
    if not since.startswith("o") or not since[1:].isdecimal():
        raise InvalidParam("'since' is no token of this directory")
    return int(since[1:])


async def _all(server: Server, asking: Node | None) -> list[dict[str, Any]]:
    target = "unknown" if asking is None else asking.jurisdiction
    found = []
    for node in server.nodes:
        if not gate.may(server, DataClass.EVENTS, node.jurisdiction, target):
            continue
        try:
            for row in await node.read(rooms.published, node.name):
                found.append(await summary(node, await state.get(node, row.room_id)))
        except (NodeUnavailable, NotFound):
            continue
    return found


async def summary(node: Node, room: Room) -> dict[str, Any]:
    """What the directory says of a room. spec: client-server-api/#get_matrixclientv3publicrooms"""
    while missing := state.lacking(room.now, _READ):
        await state.load_entries(node, room, missing)
    entry: dict[str, Any] = {
        "room_id": room.room_id,
        "num_joined_members": room.now.joined,
        "world_readable": _value(room, HISTORY_VISIBILITY, "history_visibility") == "world_readable",
        "guest_can_join": _value(room, _GUESTS, "guest_access") == "can_join",
        "join_rule": _value(room, JOIN_RULES, "join_rule") or "invite",
        "room_version": room.rules.version,
    }
    for key, name in _TEXTS.items():
        text = _value(room, key, _SOURCES[name])
        if text:
            entry[name] = text
    kind = _value(room, CREATE, "type")
    if kind is not None:
        entry["room_type"] = kind
    algorithm = _value(room, _ENCRYPTION, "algorithm")
    if algorithm is not None:
        entry["encryption"] = algorithm
    return entry


def _value(room: Room, key: StateKey, name: str) -> str | None:
    event = room.now.event(key)
    value = None if event is None else event.content.get(name)
    return value if isinstance(value, str) else None


def _matches(entry: dict[str, Any], search: Search) -> bool:
    if search.types is not None and entry.get("room_type") not in search.types:
        return False
    if search.term is None:
        return True
    term = search.term.casefold()
    return any(term in str(entry.get(name, "")).casefold() for name in ("name", "topic", "canonical_alias"))


async def set_visibility(server: Server, caller: Caller, room_id: str, public: bool) -> None:
    """Publish a room, or take it out of the directory. Raises Forbidden, NotFound."""
    home, room = await _held(server, room_id)
    if public:
        check_publisher(server, caller)
    allowed = room.now.membership(caller.user_id) == "join" and await aliases.has_power_for(
        home, room, caller.user_id, "m.room.canonical_alias"
    )
    if not allowed and not caller.admin:
        raise Forbidden("You may not change whether this room is in the directory")
    await home.write(rooms.publish, room.nid, public)


def check_publisher(server: Server, caller: Caller) -> None:
    """Whether the settings let somebody put rooms into the directory. Raises Forbidden."""
    publishers = server.settings.rooms.publish
    if publishers == "nobody" or (publishers == "admins" and not caller.admin):
        raise Forbidden("On this server you may not put rooms into the directory")


async def is_public(server: Server, room_id: str) -> bool:
    """Whether a room is in the directory. Raises NotFound."""
    home, room = await _held(server, room_id)
    return (await home.read(rooms.by_nid, room.nid)).published


async def _held(server: Server, room_id: str) -> tuple[Node, Room]:
    home = await server.nodes.of_room(room_id)
    if home is None:
        raise NotFound("There is no such room")
    return home, await state.get(home, room_id)
