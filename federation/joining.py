"""Joining a room that nobody here is in, through a server that is: its template, our event, and its answer checked.

The policy, and the user, are asked about the servers that are known before anything leaves, and about all of them once
the state is known: if the room may not span them, or is not encrypted, the user leaves it again at once and nothing of
it is kept.

spec: server-server-api/#joining-rooms
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import structlog

from config.residency import DataClass
from federation import arrivals, gaps, leaving, parts
from federation.entering import entering
from federation.handshake import BadAnswer, ask_template, by_any, fill
from federation.remote import RemoteRefusal
from homeserver.protocol import events, identifiers
from homeserver.protocol.encryption_rules import is_encrypted
from homeserver.protocol.errors import (
    BadJson,
    CommitUnknown,
    Forbidden,
    NotFound,
    PlaintextRefused,
    Refusal,
    ServerUnreachable,
    TooLarge,
)
from homeserver.protocol.event_view import MEMBER
from homeserver.protocol.signers import required_signers
from homeserver.residency import consents, gate
from homeserver.rooms import nearby
from homeserver.rooms.adoption import Arrival, adopt
from homeserver.rooms.checks import ENCRYPTION
from homeserver.runtime.breath import unhurried
from homeserver.storage.events import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.protocol.versions import RoomRules
    from homeserver.storage.nodes import Node

MOST_BYTES: Final = 96 * 1024 * 1024
"""The largest answer to a join: that of a room with some ten thousand members, and what proves them."""

log = structlog.get_logger("federation")


async def join(
    server: Server, node: Node, room_id: str, user_id: str, content: Mapping[str, Any], via: Sequence[str]
) -> None:
    """See `context.Remote.join`."""

    async def attempt(destination: str) -> tuple[str, Arrival]:
        await check_with(server, node, destination, user_id)
        return destination, await _handshake(server, node, destination, room_id, user_id, content)

    with entering(server, room_id):
        destination, arrival = await by_any(server, via, attempt)
        try:
            await _check_room(server, node, user_id, arrival)
            if await nearby.present(server, node, room_id) is None:
                await adopt(server, node, arrival)
            else:
                await _come_in(server, destination, arrival.join)
        except CommitUnknown:
            raise  # the room may be here
        except Refusal:
            await _go_back(server, node, destination, room_id, user_id)
            raise


async def check_with(server: Server, node: Node, other: str, user_id: str) -> None:
    """Raise FlowDenied unless a room may span a node and another server; ConsentNotGiven unless the user, a resident of
    the node, has agreed to that."""
    places = {node.jurisdiction, server.policy.now.jurisdiction_of_server(other)}
    gate.check_room(server, places)
    await consents.check(server, node, user_id, places)


async def _handshake(
    server: Server, node: Node, destination: str, room_id: str, user_id: str, content: Mapping[str, Any]
) -> Arrival:
    template = await ask_template(server, node, destination, room_id, user_id, "join")
    event = fill(server, template, room_id, user_id, content)
    target = (
        f"/_matrix/federation/v2/send_join/{quote(room_id, safe='')}/{quote(event.event_id, safe='')}"
        "?omit_members=false"
    )
    try:
        async with parts.ask_for(
            server,
            node,
            DataClass.EVENTS,
            destination,
            "PUT",
            target,
            event.pdu_bytes(),
            most=MOST_BYTES,
            lists=arrivals.LISTS,
        ) as answer:
            described = await arrivals.read(server, template.rules, room_id, answer)
        signed = merged(template.rules, event, described.join)
        return await arrivals.check(server, template.rules, signed, described)
    except BadAnswer:
        await _go_back(server, node, destination, room_id, user_id)
        raise


def merged(rules: RoomRules, event: Event, returned: object) -> Event:
    """Our event with the signatures that another server's copy of it has beside ours.

    Raises BadAnswer when that is another event, or one that somebody else had to sign has not come back.
    """
    if returned is None:
        if len(required_signers(rules, event)) > 1:
            raise BadAnswer("nobody vouched for the join")
        return event
    ours = event.pdu()
    if not isinstance(returned, dict) or not isinstance(returned.get("signatures"), dict):
        raise BadAnswer("the event that came back is none")
    if {**returned, "signatures": None, "unsigned": None} != {**ours, "signatures": None, "unsigned": None}:
        raise BadAnswer("another event came back")
    try:
        return events.from_pdu(rules, {**ours, "signatures": {**returned["signatures"], **ours["signatures"]}})
    except (BadJson, TooLarge) as error:
        raise BadAnswer(f"the signatures that came back are none: {error.message}") from None


async def _check_room(server: Server, node: Node, user_id: str, arrival: Arrival) -> None:
    """Raise PlaintextRefused for a room that is not encrypted, FlowDenied for one that spans too much, ConsentNotGiven
    for one that spans more than the user has agreed to."""
    encryption = arrival.state.get(ENCRYPTION)
    encrypted = is_encrypted(None if encryption is None else encryption.content)
    if not encrypted and not server.settings.conformance_mode:
        raise PlaintextRefused("That room is not encrypted: users of this server join encrypted rooms only")
    joined = [
        member
        async for (kind, member), event in unhurried(arrival.state.items())
        if kind == MEMBER and event.content.get("membership") == "join"
    ]
    places = {node.jurisdiction}
    places |= {server.nodes[name].jurisdiction for name in (await server.nodes.of_users(joined)).values()}
    servers = {identifiers.domain_of(member) for member in joined} - {server.name}
    places |= {server.policy.now.jurisdiction_of_server(name) for name in servers}
    gate.check_room(server, places)
    await consents.check(server, node, user_id, places)


async def _come_in(server: Server, destination: str, event: Event) -> None:
    """Take the join into the room that we have: another server had to let the user in, which tells everybody but us."""
    home = await server.nodes.of_room(event.room_id)
    if home is None:
        raise NotFound("There is no such room")
    try:
        taken = await gaps.place(server, home, destination, event.room_id, event, gaps.budget(server))
    except gaps.Unplaceable:
        raise ServerUnreachable(f"{destination} does not tell what came before the join") from None
    if taken is not None:
        await asyncio.shield(taken.done)
        if taken.verdict is not Verdict.ACCEPTED:
            raise Forbidden("The rules of the room do not allow that")


async def _go_back(server: Server, node: Node, destination: str, room_id: str, user_id: str) -> None:
    """Leave a room again that was joined a moment ago, as far as the other server lets us."""
    try:
        await leaving.through(server, node, destination, room_id, user_id, {"membership": "leave"})
    except (BadAnswer, RemoteRefusal, Refusal) as fault:
        log.warning("a room that was joined and refused could not be left", server=destination, reason=str(fault))
