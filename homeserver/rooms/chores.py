"""What is asked of rooms by chores: a changed profile is shown in the rooms of its owner, a closed account leaves its
rooms, guests leave those that take none any more, and what belongs to replacing a room is brought to its end.

All look at what a room says before they say anything, so that a run that was cut off is taken up where it stopped and
nothing is said twice. A chore is deleted once all of its rooms are done; until then it is tried again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
import structlog

from homeserver.accounts import deactivation
from homeserver.accounts.deactivation import DEACTIVATED
from homeserver.accounts.profile import CHANGED
from homeserver.context import Caller
from homeserver.protocol import identifiers
from homeserver.protocol.errors import Forbidden, NodeUnavailable, NotFound
from homeserver.protocol.event_view import MEMBER
from homeserver.rooms import guests, leaving, membership, nearby, state, upgrade
from homeserver.rooms.guests import CLOSED
from homeserver.rooms.ordering import in_order
from homeserver.rooms.send import Draft
from homeserver.rooms.upgrade import UPGRADED
from homeserver.storage import accounts, chores, rooms

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from homeserver.context import Server
    from homeserver.storage.chores import Chore
    from homeserver.storage.nodes import Node

log = structlog.get_logger("rooms.chores")

AT_ONCE: Final = 100
"""Chores that are read together."""

SHOWN: Final = ("displayname", "avatar_url")


async def spread_profiles(server: Server) -> None:
    """Bring changed display names and avatars into the member events of their owners' joined rooms. A job.

    Raises NodeUnavailable, or what else kept a chore from being done, when all others have been tried.
    """
    await _do(server, CHANGED, _spread)


async def leave_rooms(server: Server) -> None:
    """Have closed accounts leave their rooms, refuse their invitations and take back their knocks. A job.

    Raises what `spread_profiles` raises.
    """
    await _do(server, DEACTIVATED, _leave)


async def put_guests_out(server: Server) -> None:
    """Have guests leave the rooms that take no guests any more. A job. Raises what `spread_profiles` raises."""
    await _do(server, CLOSED, _put_out)


async def finish_upgrades(server: Server) -> None:
    """Do what is left of replacing rooms. A job. Raises what `spread_profiles` raises."""
    await _do(server, UPGRADED, _finish)


JOBS: Final = {
    CHANGED: ("spread profiles", spread_profiles),
    DEACTIVATED: ("leave rooms", leave_rooms),
    CLOSED: ("put guests out", put_guests_out),
    UPGRADED: ("finish upgrades", finish_upgrades),
}
"""The name and the function of the job for each kind of chore."""


async def poke(server: Server) -> None:
    """Poke each job now, and again whenever somebody asks for its kind, for ever. The jobs have been added."""
    kinds = {chores.key(node.name, kind): name for node in server.nodes for kind, (name, _) in JOBS.items()}
    with server.wakeups.listen(kinds) as listener:
        for name in kinds.values():
            server.jobs.poke(name)
        while not server.wakeups.stopping:
            for woken in await listener.wait():
                server.jobs.poke(kinds[woken])  # type: ignore[index]  # one of those that it listens to


async def _do(server: Server, kind: str, work: Callable[[Server, Node, Chore], Awaitable[None]]) -> None:
    fault: Exception | None = None
    for node in server.nodes:
        try:
            await _do_on(server, node, kind, work)
        except Exception as error:
            fault = error
    if fault is not None:
        raise fault


async def _do_on(server: Server, node: Node, kind: str, work: Callable[[Server, Node, Chore], Awaitable[None]]) -> None:
    """Do what waits on one node; what fails keeps nothing else from being done."""
    fault: Exception | None = None
    after = 0
    while waiting := await node.read(chores.waiting, kind, AT_ONCE, after):
        after = waiting[-1].chore_nid
        newest = {(chore.user_nid, chore.body): chore for chore in waiting}
        done = set()
        for asked, chore in newest.items():
            try:
                await work(server, node, chore)
                done.add(asked)
            except NodeUnavailable as error:
                fault = error
            except Exception as error:
                log.exception("chore failed", node=node.name, kind=kind)
                fault = error
        await node.write(chores.done, [chore.chore_nid for chore in waiting if (chore.user_nid, chore.body) in done])
    if fault is not None:
        raise fault


async def _spread(server: Server, node: Node, chore: Chore) -> None:
    for held in await node.read(rooms.memberships_of, chore.user_nid):
        if held.membership != "join":
            continue
        content = await membership.own_content(node, chore.user_nid, "join")
        found = await nearby.present(server, node, held.room_id)
        if found is None:
            continue
        ordered, room = found
        await state.require(ordered, room, [(MEMBER, chore.user_id)])
        event = room.head.event((MEMBER, chore.user_id))
        if event is None or event.content.get("membership") != "join":
            continue
        if all(event.content.get(name) == content.get(name) for name in SHOWN):
            continue
        await _say(server, node, held.room_id, Draft(MEMBER, chore.user_id, content, chore.user_id))


async def _leave(server: Server, node: Node, chore: Chore) -> None:
    await deactivation.finish(server, node, chore.user_id, orjson.loads(chore.body))
    for held in await node.read(rooms.memberships_of, chore.user_nid):
        if held.membership not in ("join", "invite", "knock"):
            continue
        found = await nearby.present(server, node, held.room_id)
        if found is None:  # an invitation to a room of others, or a knock there
            await leaving.leave(server, _owner(node, chore), held.room_id)
            continue
        room = found[1]
        if room.head.membership(chore.user_id) in ("join", "invite", "knock"):
            draft = Draft(MEMBER, chore.user_id, {"membership": "leave"}, chore.user_id)
            await _say(server, node, held.room_id, draft)


async def _put_out(server: Server, node: Node, chore: Chore) -> None:
    account = await node.read(accounts.find, chore.user_id)
    if account is None or not account.guest:  # they are a user by now
        return
    for held in await node.read(rooms.memberships_of, chore.user_nid):
        if held.membership != "join" or await guests.takes(node, held.room_id):
            continue
        draft = Draft(MEMBER, chore.user_id, {"membership": "leave"}, chore.user_id)
        await _say(server, node, held.room_id, draft)


async def _finish(server: Server, node: Node, chore: Chore) -> None:
    await upgrade.finish(server, _owner(node, chore), chore.body)


def _owner(node: Node, chore: Chore) -> Caller:
    return Caller(chore.user_id, identifiers.localpart_of(chore.user_id), node, chore.user_nid, "", 0)


async def _say(server: Server, node: Node, room_id: str, draft: Draft) -> None:
    try:
        await in_order(server, node, room_id, draft)
    except (Forbidden, NotFound) as refusal:  # banned meanwhile, for example: there is nothing more to be done
        log.info("a room refused", node=node.name, reason=refusal.message)
