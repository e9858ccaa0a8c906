"""Rows: how a room, or a membership in one, comes to span our server and another one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from federation import handshake, remote
from homeserver.protocol.versions import VERSIONS
from tests.deployment import User
from tests.federation.guests import asks
from tests.federation.meetings import enter
from tests.federation.test_knocking import KNOCK
from tests.federation.test_third_party import ON_BIND, invite_by_address, notice
from tests.matrix.rows import DENIED, HERE, IN, OUT, ROOM, TAKEN_IN, THERE, Attempt, Row, outcome, quoted
from tests.matrix.world import World
from tests.rooms.play import CLIENT


async def our_join(world: World, word: str) -> Attempt:
    user = await world.here.user(word)
    room_id = await world.there.create(world.bob, preset="public_chat")
    yield user.user_id.encode()
    yield await outcome(user.asks("POST", f"{CLIENT}/join{quoted(room_id)}", {}, via=THERE))


async def their_make_join(world: World, word: str) -> Attempt:
    room_id = await world.here.create(world.alice, preset="public_chat")
    yield room_id.encode()
    yield await outcome(
        asks(world.there, HERE, "GET", f"/make_join{quoted(room_id, world.bob.user_id)}", ver=list(VERSIONS))
    )


async def their_send_join(world: World, word: str) -> Attempt:
    room_id = await world.here.create(world.alice, preset="public_chat", name=word)
    sending = await handing_in(world, room_id, "join", "v2")
    yield word.encode()
    yield await outcome(sending())


async def our_knock(world: World, word: str) -> Attempt:
    user = await world.here.user(word)
    room_id = await world.there.create(world.bob, initial_state=KNOCK)
    yield user.user_id.encode()
    yield await outcome(user.asks("POST", f"{CLIENT}/knock{quoted(room_id)}", {}, via=THERE))


async def their_make_knock(world: World, word: str) -> Attempt:
    room_id = await world.here.create(world.alice, initial_state=KNOCK)
    yield room_id.encode()
    yield await outcome(
        asks(world.there, HERE, "GET", f"/make_knock{quoted(room_id, world.bob.user_id)}", ver=list(VERSIONS))
    )


async def their_send_knock(world: World, word: str) -> Attempt:
    room_id = await world.here.create(world.alice, initial_state=KNOCK, name=word)
    sending = await handing_in(world, room_id, "knock", "v1")
    yield word.encode()
    yield await outcome(sending())


async def handing_in(world: World, room_id: str, kind: str, version: str) -> Callable[[], Awaitable[object]]:
    """Bob's member event in the place of a template, ready to be handed in."""
    there, user_id = world.there, world.bob.user_id
    template = await handshake.ask_template(there.server, there.node("tehran"), HERE, room_id, user_id, kind)
    event = handshake.fill(there.server, template, room_id, user_id, {"membership": kind})
    target = f"/_matrix/federation/{version}/send_{kind}{quoted(room_id, event.event_id)}"
    return lambda: remote.ask(there.server, HERE, "PUT", target, event.pdu(), most=2**20)


async def our_invitation(world: World, word: str) -> Attempt:
    room_id = await world.here.create(world.alice, name=word)
    yield word.encode()
    yield await invited(world.alice, room_id, world.bob)


async def their_invitation(world: World, word: str) -> Attempt:
    room_id = await world.there.create(world.bob, name=word)
    yield word.encode()
    yield await invited(world.bob, room_id, world.alice)


async def invited(inviter: User, room_id: str, user: User) -> str:
    return await outcome(inviter.asks("POST", f"{CLIENT}/rooms{quoted(room_id)}/invite", {"user_id": user.user_id}))


async def our_exchange(world: World, word: str) -> Attempt:
    user = await world.here.user(word)
    room_id = await world.there.create(world.bob)
    await invite_by_address(world.there, world.bob, room_id)
    yield user.user_id.encode()
    yield await outcome(world.here.deployment.asked("PUT", ON_BIND, notice(room_id, world.bob, user)))


async def their_exchange(world: World, word: str) -> Attempt:
    room_id = await world.here.create(world.alice, name=word)
    await invite_by_address(world.here, world.alice, room_id)
    yield word.encode()
    yield await outcome(world.there.deployment.asked("PUT", ON_BIND, notice(room_id, world.alice, world.bob)))


async def their_rescission(world: World, word: str) -> Attempt:
    """An invitation is taken back: the event is one of a room that we are not in."""
    room_id = await world.there.create(world.bob)
    assert await invited(world.bob, room_id, world.alice) == "200"
    yield word.encode()
    body = {"user_id": world.alice.user_id, "reason": word}
    yield await outcome(world.bob.asks("POST", f"{CLIENT}/rooms{quoted(room_id)}/kick", body))


async def our_leave(world: World, word: str) -> Attempt:
    """Nobody is kept from refusing an invitation: it is done here alone."""
    user = await world.here.user(word)
    room_id = await world.there.create(world.bob)
    assert await invited(world.bob, room_id, user) == "200"
    yield user.user_id.encode()
    yield await outcome(user.asks("POST", f"{CLIENT}/rooms{quoted(room_id)}/leave", {}))


async def their_leave(world: World, word: str) -> Attempt:
    room_id = await world.here.create(world.alice, preset="public_chat")
    await enter(world.there, world.bob, room_id, HERE)
    await world.network.settle()
    yield word.encode()
    path = f"/make_leave{quoted(room_id, world.bob.user_id)}"
    answer = await outcome(asks(world.there, HERE, "GET", path))
    sending = await handing_in(world, room_id, "leave", "v2")
    yield answer if answer != "200" else await outcome(sending())


NOTHING_SENT = "403, nothing is sent"
DOOR = ("federation.resident.check_span",)
CONTENTS = (*DOOR, "homeserver.residency.authors.check", "homeserver.residency.authors.withheld")
JOINING = ("federation.joining.check_with",)
RELATIONS = [
    Row(
        "our make_join and send_join",
        our_join,
        ROOM,
        DENIED,
        HERE,
        THERE,
        NOTHING_SENT,
        ("make_join", "send_join"),
        JOINING,
    ),
    Row("their make_join", their_make_join, ROOM, DENIED, says="403", routes=("make_join",), asks=CONTENTS),
    Row("their send_join", their_send_join, ROOM, DENIED, says="403", routes=("send_join",), asks=CONTENTS),
    Row(
        "our make_knock and send_knock",
        our_knock,
        ROOM,
        DENIED,
        HERE,
        THERE,
        NOTHING_SENT,
        ("make_knock", "send_knock"),
        JOINING,
    ),
    Row("their make_knock", their_make_knock, ROOM, DENIED, says="403", routes=("make_knock",), asks=CONTENTS),
    Row("their send_knock", their_send_knock, ROOM, DENIED, says="403", routes=("send_knock",), asks=CONTENTS),
    Row(
        "our invite",
        our_invitation,
        ROOM,
        DENIED,
        HERE,
        THERE,
        NOTHING_SENT,
        ("invite",),
        ("homeserver.rooms.doors.check_relation",),
    ),
    Row(
        "their invite",
        their_invitation,
        ROOM,
        DENIED,
        None,
        HERE,
        "403",
        ("invite",),
        ("federation.invited._check_room",),
    ),
    Row(
        "our exchange_third_party_invite",
        our_exchange,
        ROOM,
        "200",
        HERE,
        THERE,
        "nothing is sent",
        ("exchange_third_party_invite",),
        ("federation.third_party.exchange_invite",),
    ),
    Row(
        "their exchange_third_party_invite",
        their_exchange,
        ROOM,
        "200",
        HERE,
        THERE,
        "403",
        ("exchange_third_party_invite",),
        DOOR,
    ),
    Row(
        "our make_leave and send_leave",
        our_leave,
        ((OUT, "events"),),
        "200",
        HERE,
        None,
        "done here alone",
        ("make_leave", "send_leave"),
        ("federation.remote.check_flow",),
    ),
    Row(
        "their make_leave and send_leave",
        their_leave,
        ROOM,
        "200",
        None,
        None,
        "taken in: nobody is kept from leaving",
        ("make_leave", "send_leave"),
    ),
    Row(
        "their invite, taken back",
        their_rescission,
        ((IN, "events"),),
        "200",
        None,
        HERE,
        "only that it is taken back is taken in",
        ("send",),
        ("federation.inbound._outside",),
        isolated=TAKEN_IN,
    ),
]
