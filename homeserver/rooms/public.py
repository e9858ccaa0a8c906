"""The room directory: the published rooms of all nodes, as far as each may be shown where it is asked for.

Only what a page shows is read, and a search looks at so many rooms and no more.

spec: client-server-api/#published-room-directory
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from config.residency import UNKNOWN, DataClass
from homeserver.application_services.third_party import instance_id
from homeserver.protocol.errors import Forbidden, InvalidParam, NodeUnavailable
from homeserver.residency import gate, traffic
from homeserver.rooms import aliases, nearby, summaries
from homeserver.storage import application_services, published, rooms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config.application_services import ApplicationService
    from homeserver.context import Caller, Server
    from homeserver.storage.nodes import Node
    from homeserver.storage.published import Ranked

SEARCHED = 500
"""Rooms that one request looks at to find some."""
AT_ONCE = 100
MOST_NETWORK_ID = 255
DEEPEST = 100_000
"""The last room to which one can page."""


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for: ``term`` in name, topic or alias; ``types`` of rooms (None: untyped), or all.

    ``networks``: in the directories of these networks of application services, "" meaning the server's own; None: in
    that alone.
    """

    term: str | None = None
    types: Sequence[str | None] | None = None
    limit: int | None = None
    since: str | None = None
    networks: Sequence[str] | None = None

    @property
    def filters(self) -> bool:
        """Whether some rooms are not wanted."""
        return self.term is not None or self.types is not None


async def listing(server: Server, jurisdiction: str, search: Search) -> dict[str, Any]:
    """One page of the directory, the rooms with most members here first.

    ``jurisdiction`` is that of who asks, `unknown` if nobody knows; rooms whose events may not go there are not shown.
    A page of a search may have fewer entries than there are. Raises InvalidParam for a page that is none.
    """
    start, most = _offset(search.since), server.settings.limits.page_size
    limit = most if search.limit is None else min(search.limit, most)
    looked_at = SEARCHED if search.filters else limit
    candidates, total = await _ranked(server, jurisdiction, start, looked_at, search.networks)
    found: list[dict[str, Any]] = []
    end = start
    while candidates[end - start :] and len(found) < limit:
        part = candidates[end - start :][: min(AT_ONCE, limit) if search.filters else limit]
        for (node, _), entry in zip(part, await _shown(part), strict=True):
            if len(found) == limit:
                break
            end += 1
            if entry is not None and _matches(entry, search):
                found.append(entry)
                traffic.concerns(node, entry)
    answer: dict[str, Any] = {"chunk": found, "total_room_count_estimate": total}
    if end < total and limit:
        answer["next_batch"] = f"o{end}"
    if start > 0:
        answer["prev_batch"] = f"o{max(0, start - limit)}"
    return answer


def _offset(since: str | None) -> int:
    if since is None:
        return 0
    if not since.startswith("o") or not (since[1:].isascii() and since[1:].isdecimal()) or len(since) > 10:
        raise InvalidParam("'since' is no token of this directory")
    return min(int(since[1:]), DEEPEST)


async def _ranked(
    server: Server, target: str, start: int, count: int, networks: Sequence[str] | None
) -> tuple[list[tuple[Node, Ranked]], int]:
    """The rooms of a stretch of the directory, and how many it has in all."""
    parts: list[list[tuple[Node, Ranked]]] = []
    total = 0
    for node in server.nodes:
        if not gate.may(server, DataClass.EVENTS, node.jurisdiction, target):
            continue
        try:
            rows, there = await node.read(published.ranked, node.name, start + count, networks)
        except NodeUnavailable:
            continue
        parts.append([(node, row) for row in rows])
        total += there
    merged = heapq.merge(*parts, key=lambda entry: (-entry[1].members, entry[1].room_id))
    return [entry for number, entry in enumerate(merged) if start <= number < start + count], total


async def _shown(part: Sequence[tuple[Node, Ranked]]) -> list[dict[str, Any] | None]:
    """What the directory says of rooms; None where that cannot be read now."""
    by_node: dict[Node, list[int]] = {}
    for node, row in part:
        by_node.setdefault(node, []).append(row.room_nid)
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for node, room_nids in by_node.items():
        try:
            read = await summaries.of_rooms(node, room_nids)
        except NodeUnavailable:
            continue
        found.update({(node.name, room_nid): summary.shown for room_nid, summary in read.items()})
    return [found.get((node.name, row.room_nid)) for node, row in part]


def _matches(entry: dict[str, Any], search: Search) -> bool:
    if search.types is not None and entry.get("room_type") not in search.types:
        return False
    if search.term is None:
        return True
    term = search.term.casefold()
    return any(term in str(entry.get(name, "")).casefold() for name in ("name", "topic", "canonical_alias"))


def jurisdiction_of(asking: Node | None) -> str:
    """The jurisdiction of who asks from a node, or has not said who they are."""
    return UNKNOWN if asking is None else asking.jurisdiction


async def set_visibility(server: Server, caller: Caller, room_id: str, public: bool) -> None:
    """Publish a room, or take it out of the directory. Raises Forbidden, NotFound."""
    home, room = await nearby.at_home(server, room_id)
    if public:
        check_publisher(server, caller)
    allowed = room.now.membership(caller.user_id) == "join" and await aliases.has_power_for(
        home, room, caller.user_id, "m.room.canonical_alias"
    )
    if not allowed and not caller.admin:
        raise Forbidden("You may not change whether this room is in the directory")
    await home.write(rooms.publish, room.nid, public)


async def set_visibility_in_network(
    server: Server, service: ApplicationService, network_id: str, room_id: str, public: bool
) -> None:
    """Put a room into the directory of a network of an application service, or take it out. The service has a user in
    the room, or the room in its namespace. Raises Forbidden, InvalidParam, NotFound.

    spec: application-service-api/#published-room-directories
    """
    if len(network_id) > MOST_NETWORK_ID:
        raise InvalidParam("That is not the ID of a network")
    home, room = await nearby.at_home(server, room_id)
    if public:
        if server.settings.rooms.publish == "nobody":
            raise Forbidden("On this server you may not put rooms into the directory")
        members = (user_id for (_, user_id), entry in room.now.state.items() if entry.membership == "join")
        named = any(map(service.has_alias, await home.read(rooms.aliases, room.nid)))
        if not (named or service.has_room(room_id) or any(map(service.has_user, members))):
            raise Forbidden("This application service is not in that room")
    await home.write(application_services.publish, instance_id(service, network_id), room.nid, public)


def check_publisher(server: Server, caller: Caller) -> None:
    """Whether the settings let somebody put rooms into the directory. Raises Forbidden."""
    publishers = server.settings.rooms.publish
    if publishers == "nobody" or (publishers == "admins" and not caller.admin):
        raise Forbidden("On this server you may not put rooms into the directory")


async def is_public(server: Server, room_id: str) -> bool:
    """Whether a room is in the directory. Raises NotFound."""
    home, room = await nearby.at_home(server, room_id)
    return (await home.read(rooms.by_nid, room.nid)).published
