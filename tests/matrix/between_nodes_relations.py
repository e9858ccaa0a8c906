"""Rows: how a room comes to span two nodes of one deployment."""

from __future__ import annotations

import re

from tests.federation.test_knocking import KNOCK
from tests.matrix.rows import DENIED, HERE, NODES, OUT, ROOM, THERE, WAITS, Attempt, Mark, Row, Try, quoted
from tests.matrix.world import World
from tests.rooms.play import CLIENT


async def created(world: World, word: str) -> Attempt:
    yield word.encode()
    wish = {"name": word, "invite": [world.bob.user_id]}
    yield await world.told(world.alice, "POST", f"{CLIENT}/createRoom", wish)


async def invited(world: World, word: str) -> Attempt:
    room_id = await world.here.create(world.alice, name=word)
    yield word.encode()
    yield await world.told(world.alice, "POST", of_room(room_id, "invite"), {"user_id": world.bob.user_id})


async def accepted(world: World, word: str) -> Attempt:
    """The invitation was there before the policy changed; the whole state would come with the room."""
    room_id = await world.here.create(world.alice, invite=[world.bob.user_id])
    await world.here.ask(world.alice, "PUT", f"/rooms{quoted(room_id)}/state/m.room.pinned_events", {"pinned": [word]})
    yield word.encode()
    yield await world.told(world.bob, "POST", of_room(room_id, "join"), {})


async def joined(world: World, word: str) -> Attempt:
    room_id = await world.here.create(world.alice, preset="public_chat", name=word)
    yield word.encode()
    yield await world.told(world.bob, "POST", f"{CLIENT}/join{quoted(room_id)}", {})


async def joined_by_alias(world: World, word: str) -> Attempt:
    await world.here.create(world.alice, preset="public_chat", name=word, room_alias_name=word)
    yield f'"name":"{word}"'.encode()
    yield await world.told(world.bob, "POST", f"{CLIENT}/join{quoted(f'#{word}:{HERE}')}", {})


async def knocked(world: World, word: str) -> Attempt:
    room_id = await world.here.create(world.alice, initial_state=KNOCK, name=word)
    yield word.encode()
    yield await world.told(world.bob, "POST", f"{CLIENT}/knock{quoted(room_id)}", {})


async def joined_by_rule(world: World, word: str) -> Attempt:
    rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": world.room_id}]}
    state = [{"type": "m.room.join_rules", "content": rule}]
    room_id = await world.here.create(world.alice, initial_state=state, name=word)
    yield word.encode()
    yield await world.told(world.bob, "POST", f"{CLIENT}/join{quoted(room_id)}", {})


async def upgraded(world: World, word: str) -> Attempt:
    room_id = await world.here.create(world.alice, name=word, invite=[world.bob.user_id])
    await world.here.settle()
    await world.here.change(world.bob, room_id, "join")
    shown_as_ended = rb'"%b":\{(?:(?!"![\w-]{43}":\{)[^\n])*"type":"m\.room\.tombstone"' % re.escape(room_id.encode())
    yield Mark(b"", re.compile(shown_as_ended))
    yield await world.told(world.alice, "POST", of_room(room_id, "upgrade"), {"new_version": "12"})


async def declined(world: World, word: str) -> Attempt:
    """Nobody is kept from refusing an invitation: where no flow leads to the room, it is done here alone."""
    room_id = await world.here.create(world.bob, invite=[world.alice.user_id])
    yield word.encode()
    yield await world.told(world.alice, "POST", of_room(room_id, "leave"), {"reason": word})


async def left(world: World, word: str) -> Attempt:
    room_id = await world.here.room_of(world.bob, world.alice)
    yield word.encode()
    yield await world.told(world.alice, "POST", of_room(room_id, "leave"), {"reason": word})


def of_room(room_id: str, verb: str) -> str:
    """The path of something that is done in a room."""
    return f"{CLIENT}/rooms{quoted(room_id, verb)}"


def relation(hook: str, attempt: Try, *kinds: str, site: str = "doors.check_relation") -> Row:
    """A row of what lets a room span both nodes. ``kinds``: the parcels that bring it."""
    asks = (f"homeserver.rooms.{site}",)
    return Row(hook, attempt, ROOM, DENIED, None, THERE, "403", kinds, asks, kinds, columns=NODES)


AT_HOME = "homeserver.rooms.ordering.can_reach"
RELATIONS = [
    relation("createRoom with an invitation", created, "member"),
    relation("invite", invited, "member"),
    relation("join, once invited", accepted, "room"),
    relation("join", joined, "room"),
    relation("join by an alias", joined_by_alias, "room"),
    relation("knock", knocked, "member"),
    relation("join a restricted room", joined_by_rule, "room"),
    relation("upgrade", upgraded, "event", site="upgrade._check"),
    Row(
        "leave, of who is invited",
        declined,
        ((OUT, "events"),),
        "200",
        None,
        THERE,
        "done on their node alone",
        (),
        (AT_HOME,),
        columns=NODES,
    ),
    Row(
        "leave",
        left,
        ((OUT, "events"),),
        "200",
        None,
        THERE,
        WAITS,
        ("event",),
        (AT_HOME,),
        isolated=WAITS,
        columns=NODES,
    ),
]
