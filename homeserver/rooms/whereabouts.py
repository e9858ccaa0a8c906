"""Where a room is held, and what each place there gets to see of the others: for its members."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

from homeserver.protocol.encryption_rules import is_encrypted
from homeserver.protocol.errors import Forbidden
from homeserver.residency import exposure
from homeserver.rooms import state
from homeserver.rooms.checks import ENCRYPTION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from config.residency import DataClass
    from homeserver.context import Caller, Server


class Leak(NamedTuple):
    """What can be seen in ``target`` of those of ``source``, by the names of `exposure.VISIBLE`, and what is there only
    in encrypted form."""

    source: str
    target: str
    classes: Sequence[DataClass]
    visible: Sequence[str]
    sealed: Sequence[str]


class Whereabouts(NamedTuple):
    """Where a room is held: ``home`` orders it for this deployment; members by node and by other server, ``places`` by
    jurisdiction."""

    home: str | None
    nodes: Mapping[str, int]
    servers: Mapping[str, int]
    places: Mapping[str, int]
    encrypted: bool
    leaks: Sequence[Leak]


async def of_room(server: Server, caller: Caller, room_id: str) -> Whereabouts:
    """Where a room is held that the caller is in, as their own node knows it. Raises Forbidden, also when there is no
    such room."""
    room = await state.find(caller.node, room_id)
    if room is None or room.now.membership(caller.user_id) != "join":
        raise Forbidden("You are not in that room")
    await state.require(caller.node, room, [ENCRYPTION])
    now, policy = room.now, server.policy.now
    places: dict[str, int] = {}
    for name, members in now.nodes.items():
        places[server.nodes[name].jurisdiction] = places.get(server.nodes[name].jurisdiction, 0) + members
    for name, members in now.servers.items():
        there = policy.jurisdiction_of_server(name)
        places[there] = places.get(there, 0) + members
    if room.home is not None:
        places.setdefault(server.nodes[room.home].jurisdiction, 0)
    encryption = now.event(ENCRYPTION)
    encrypted = is_encrypted(None if encryption is None else encryption.content)
    has = {kind for kind in exposure.TOLD_BY if (kind, "") in now.state}
    leaks = [_leak(server, *pair, has, encrypted) for pair in permutations(sorted(places), 2)]
    return Whereabouts(room.home, now.nodes, dict(now.servers), places, encrypted, leaks)


def _leak(server: Server, source: str, target: str, has: set[str], encrypted: bool) -> Leak:
    flowing = exposure.classes(server, source, target)
    visible = exposure.visible(server, flowing, has, encrypted=encrypted)
    return Leak(source, target, flowing, visible, exposure.sealed(flowing) if encrypted else [])
