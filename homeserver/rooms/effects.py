"""What a change of a room's state entails: counts of members, the nodes that take part, who is told.

`look_up` waits; `apply` does not, so that it can stand between reading a room's head and submitting the step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from homeserver.protocol import identifiers
from homeserver.protocol.event_view import MEMBER, StateKey
from homeserver.rooms.steps import MemberChange
from homeserver.storage import users

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from immutables import Map

    from homeserver.context import Server
    from homeserver.rooms.state import Entry, Snapshot
    from homeserver.storage.nodes import Node


class Place(NamedTuple):
    """Where a user is at home: the name of their node, and their row id if that is the node at hand; or, of a user
    of another server, that server.
    """

    home: str | None
    resident: int | None
    server: str | None = None


ELSEWHERE = Place(None, None)


class Effects(NamedTuple):
    """``after``: the room with the changes; ``members`` and ``nodes`` (joined members per node) as they became;
    ``entered`` and ``left``: the other servers that take part in it from now on, and those that do no more.
    """

    after: Snapshot
    members: list[MemberChange]
    nodes: dict[str, int]
    entered: list[str]
    left: list[str]


async def look_up(server: Server, node: Node, user_ids: Collection[str]) -> dict[str, Place]:
    """Where the users are at home."""
    found = {}
    for user_id in user_ids:
        if not server.nodes.is_local(user_id):
            found[user_id] = Place(None, None, identifiers.domain_of(user_id))
            continue
        home = await server.nodes.of_user(user_id)
        if home is not None:
            resident = await node.read(users.resident, user_id) if home is node else None
            found[user_id] = Place(home.name, resident)
    return found


def apply(before: Snapshot, changes: Mapping[StateKey, Entry | None], places: Mapping[str, Place]) -> Effects:
    """The room after ``changes`` to its current state. ``places`` knows the changed members."""
    current = before.state.mutate()
    joined, invited = before.joined, before.invited
    nodes = dict(before.nodes)
    servers = before.servers
    moved: dict[str, int] = {}
    members = []
    for key, entry in changes.items():
        old = before.state.get(key)
        if entry is None:
            current.pop(key, None)
        else:
            current[key] = entry
        if key[0] != MEMBER:
            continue
        previous = None if old is None else old.membership
        membership = "leave" if entry is None or entry.membership is None else entry.membership
        joined += (membership == "join") - (previous == "join")
        invited += (membership == "invite") - (previous == "invite")
        place = places.get(key[1], ELSEWHERE)
        members.append(MemberChange(key[1], membership, entry, place.resident, None))
        step = (membership == "join") - (previous == "join")
        if place.home is not None and step:
            moved[place.home] = nodes[place.home] = nodes.get(place.home, 0) + step
        if place.server is not None and step:
            servers = _counted(servers, place.server, step)
    after = replace(
        before,
        state=current.finish(),
        joined=joined,
        invited=invited,
        nodes={name: count for name, count in nodes.items() if count > 0},
        servers=servers,
    )
    return Effects(after, members, moved, *_moves(before.servers, servers))


def _counted(servers: Map[str, int], name: str, step: int) -> Map[str, int]:
    count = servers.get(name, 0) + step
    if count > 0:
        return servers.set(name, count)
    return servers.delete(name) if name in servers else servers


def _moves(before: Map[str, int], after: Map[str, int]) -> tuple[list[str], list[str]]:
    if before is after:
        return [], []
    return [name for name in after if name not in before], [name for name in before if name not in after]
