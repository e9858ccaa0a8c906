"""Doors into a room: the border is asked before somebody comes in, and whether they agree to where the room leads.

A refusal falls on the relation, never on an event: once somebody is in a room, what they send is not refused for
where they live.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.application_services import queries
from homeserver.protocol import identifiers
from homeserver.protocol.errors import Forbidden, NotFound
from homeserver.residency import consents, gate
from homeserver.residency.listing import pulling
from homeserver.rooms import nearby
from homeserver.rooms.state import Room, Snapshot

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from homeserver.context import Caller, Server
    from homeserver.storage.nodes import Node


def reached(server: Server, acting: Node, spanned: Iterable[str], peers: Iterable[str]) -> set[str]:
    """The jurisdictions of a room with members on certain nodes and servers, in which somebody of ``acting`` acts."""
    places = {server.nodes[name].jurisdiction for name in {acting.name, *spanned}}
    return places | {server.policy.now.jurisdiction_of_server(name) for name in peers}


async def check_relation(
    server: Server, acting: Node, spanned: Iterable[str], user_id: str, peers: Iterable[str] = ()
) -> set[str]:
    """Refuse to bring a user into a room that spans certain nodes, where the policy does not let it span theirs.

    ``peers``: the other servers in the room. Returns the jurisdictions that it spans with them. Raises FlowDenied
    naming the missing flow; NotFound for a local user who does not exist; Forbidden for users of other servers where
    there is no federation.
    """
    if not server.nodes.is_local(user_id):
        await pulling.appears(server, identifiers.domain_of(user_id))
    jurisdictions, names = reached(server, acting, spanned, peers), set(peers)
    if server.nodes.is_local(user_id):
        home = await server.nodes.of_user(user_id)
        if home is None and server.services and await queries.user(server, user_id):
            home = await server.nodes.of_user(user_id)
        if home is None:
            raise NotFound("There is no such user")
        jurisdictions.add(home.jurisdiction)
        # What is said in the room goes to where the service runs whose user comes in.
        served = server.services.on(home.name)
        jurisdictions.update(service.jurisdiction for service in served if service.has_user(user_id))
    else:
        names.add(identifiers.domain_of(user_id))
        jurisdictions.add(server.policy.now.jurisdiction_of_server(identifiers.domain_of(user_id)))
    gate.check_room(server, jurisdictions)
    if names and not server.settings.federation.enabled:
        raise Forbidden("This server does not talk with other servers")
    return jurisdictions


async def check_door(
    server: Server, caller: Caller, spanned: Collection[str], user_id: str, peers: Collection[str] = ()
) -> None:
    """`check_relation` for what the caller is about to do, and whether they have agreed to where it leads: every door
    into a room asks here.

    Who comes in themselves is asked about all that the room spans, who brings somebody else about what they add to it.
    Raises ConsentNotGiven besides.
    """
    places = await check_relation(server, caller.node, spanned, user_id, peers)
    if user_id != caller.user_id:
        places -= reached(server, caller.node, spanned, peers)
    await consents.check(server, caller.node, caller.user_id, places)


def spanned(snapshot: Snapshot, room: Room) -> set[str]:
    """The nodes that hold, or order, a room."""
    return {*snapshot.nodes, *([] if room.home is None else [room.home])}


async def check_entry(server: Server, caller: Caller, room_id: str, user_id: str) -> None:
    """`check_door` for a room that somebody is about to be brought into, unless they are in it.

    Raises Forbidden too for a room that nobody here is in: what is said there would be heard by nobody.
    """
    _, room = await nearby.nearest(server, caller.node, room_id)
    if nearby.is_deserted(room.head):
        raise Forbidden("You are not in that room")
    if room.head.membership(user_id) != "join":
        await check_door(server, caller, spanned(room.head, room), user_id, room.head.servers)
