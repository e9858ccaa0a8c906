"""What a change of a room's state entails: counts of members, the nodes that take part, who is told.

`look_up` waits; `apply` does not, so that it can stand between reading a room's head and submitting the step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from homeserver.protocol.event_view import MEMBER, StateKey
from homeserver.rooms.steps import MemberChange
from homeserver.storage import users

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from homeserver.context import Server
    from homeserver.rooms.state import Entry, Snapshot
    from homeserver.storage.nodes import Node


class Place(NamedTuple):
    """Where a user is at home: the name of their node, and their row id if that is the node at hand.

    Both are None for users of other servers.
    """

    home: str | None
    resident: int | None


ELSEWHERE = Place(None, None)


class Effects(NamedTuple):
    """``after``: the room with the changes; ``members`` and ``nodes`` (joined members per node) as they became."""

    after: Snapshot
    members: list[MemberChange]
    nodes: dict[str, int]


async def look_up(server: Server, node: Node, user_ids: Collection[str]) -> dict[str, Place]:
    """Where the users are at home."""
    found = {}
    for user_id in user_ids:
        home = await server.nodes.of_user(user_id)
        if home is not None:
            resident = await node.read(users.resident, user_id) if home is node else None
            found[user_id] = Place(home.name, resident)
    return found


def apply(before: Snapshot, changes: Mapping[StateKey, Entry | None], places: Mapping[str, Place]) -> Effects:
    """The room after ``changes`` to its current state. ``places`` knows the local users among changed members."""
    current = before.state.mutate()
    joined, invited = before.joined, before.invited
    nodes = dict(before.nodes)
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
    after = replace(
        before,
        state=current.finish(),
        joined=joined,
        invited=invited,
        nodes={name: count for name, count in nodes.items() if count > 0},
    )
    return Effects(after, members, moved)
