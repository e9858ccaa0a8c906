"""Rows: what a room's policy server is asked to sign, when that is the other server and when it is ours."""

from __future__ import annotations

from tests.deployment import User
from tests.federation.meetings import enter
from tests.matrix.rows import DENIED, HERE, OUT, ROOM, THERE, Attempt, Row, outcome, quoted, sealed
from tests.matrix.world import World
from tests.rooms.play import CLIENT, Play, ciphertext


async def our_sign(world: World, word: str) -> Attempt:
    """The policy server of our room is the other one."""
    room_id = await guarded(world, world.here, world.alice, world.there, world.bob)
    yield sealed(word)
    yield await sent(world.alice, room_id, word)


async def their_sign(world: World, word: str) -> Attempt:
    """We are the policy server of their room."""
    room_id = await guarded(world, world.there, world.bob, world.here, world.alice)
    yield sealed(word)
    yield await sent(world.bob, room_id, word)


async def guarded(world: World, play: Play, user: User, guard: Play, guest: User) -> str:
    """A room of a user that names another server as its policy server."""
    room_id = await play.create(user, preset="public_chat")
    await enter(guard, guest, room_id, play.server.name)
    await world.network.settle()
    key = guard.server.identity.policy_key
    assert key is not None
    content = {"via": guard.server.name, "public_keys": {"ed25519": key.verify_key.base64}}
    await play.ask(user, "PUT", f"/rooms{quoted(room_id)}/state/m.room.policy/", content)
    return room_id


async def sent(user: User, room_id: str, word: str) -> str:
    path = f"{CLIENT}/rooms{quoted(room_id, 'send', 'm.room.encrypted', word)}"
    return await outcome(user.asks("PUT", path, ciphertext(word)))


SIGNATURES = [
    Row(
        "our sign",
        our_sign,
        ((OUT, "events"),),
        DENIED,
        HERE,
        THERE,
        "403, not asked",
        ("sign",),
        ("federation.remote.check_flow",),
    ),
    Row(
        "their sign",
        their_sign,
        ROOM,
        DENIED,
        None,
        HERE,
        "not signed, unless somebody leaves",
        ("sign",),
        ("homeserver.rooms.recommending._check_borders",),
    ),
]
