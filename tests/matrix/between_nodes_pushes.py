"""Rows: what a node tells another one of the same deployment by itself, in parcels or straight."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

import orjson

from homeserver.residency.moves import rehoming
from homeserver.rooms import replicas, reunion
from homeserver.storage.aftermath import Reunion
from tests.deployment import PASSWORD, User
from tests.e2ee.play import Device, message
from tests.federation.test_outgoing_edus import be_online
from tests.matrix.rows import (
    DENIED,
    HERE,
    IN,
    NODES,
    OUT,
    THERE,
    WAITS,
    Attempt,
    Mark,
    Row,
    Try,
    outcome,
    quoted,
    sealed,
)
from tests.matrix.world import World
from tests.rooms.play import CLIENT, ciphertext


def pushed(
    attempt: Callable[[World, User, str], Attempt], hook: str, of: str, site: str, *kinds: str, says: str = "withheld"
) -> list[Row]:
    """A row for each direction: the room is at home where alice is, so that both of its ways are tried."""
    refused = DENIED if says == "403" else "200"
    asks, waits = (f"homeserver.{site}",), WAITS if kinds or refused != "200" else ""

    def by(ours: bool) -> Try:
        return lambda world, word: attempt(world, world.alice if ours else world.bob, word)

    return [
        Row(
            f"{hook}{more}",
            by(ours),
            ((way, of),),
            refused,
            None,
            target,
            says,
            kinds,
            asks,
            kinds,
            "200",
            waits,
            NODES,
        )
        for ours, way, target, more in ((True, OUT, THERE, ""), (False, IN, HERE, ", towards the room's home"))
    ]


async def event(world: World, user: User, word: str) -> Attempt:
    yield sealed(word)
    yield await world.told(
        user, "PUT", f"{CLIENT}/rooms{quoted(world.room_id, 'send', 'm.room.encrypted', word)}", ciphertext(word)
    )


async def typing(world: World, user: User, word: str) -> Attempt:
    path = f"{CLIENT}/rooms{quoted(world.room_id, 'typing', user.user_id)}"
    await world.told(user, "PUT", path, {"typing": False})
    yield Mark(b"", re.compile(rb'"user_ids":\[[^]]*"' + user.user_id.encode()))
    yield await world.told(user, "PUT", path, {"typing": True})


async def receipt(world: World, user: User, word: str) -> Attempt:
    event_id = await world.here.send(user, world.room_id, word)
    yield Mark(b"", f'"{event_id}":{{"m.read"'.encode())
    yield await world.told(user, "POST", f"{CLIENT}/rooms{quoted(world.room_id, 'receipt', 'm.read', event_id)}", {})


async def presence(world: World, user: User, word: str) -> Attempt:
    yield word.encode()
    await be_online(world.here, user, status_msg=word)
    yield "200"


async def letter(world: World, user: User, word: str) -> Attempt:
    other = world.bob if user is world.alice else world.alice
    yield base64.b64encode(word.encode())
    yield await outcome(Device(user).send(word, {other.user_id: {other.device_id: message(word)}}))


async def device_list(world: World, user: User, word: str) -> Attempt:
    yield word.encode()
    login = await world.here.deployment.login(user, device_id=word)
    await Device(User(world.here.deployment, user.user_id, word, login.json["access_token"])).publish()
    yield "200"


async def erased(world: World, word: str) -> Attempt:
    """Somebody closes their account, and what they have sent is not to be shown to who comes later."""
    leaver = await world.here.user(word)
    await world.here.room_of(leaver, world.bob)
    yield orjson.dumps({"user_id": leaver.user_id})
    who = {"type": "m.id.user", "user": leaver.user_id}
    auth = {"type": "m.login.password", "identifier": who, "password": PASSWORD}
    yield await outcome(leaver.asks("POST", f"{CLIENT}/account/deactivate", {"auth": auth, "erase": True}))


async def history(world: World, word: str) -> Attempt:
    """What is older than the newest events comes later, by a job."""
    room_id = await world.here.create(world.alice, preset="public_chat")
    for text in (word, "one", "two", "three"):
        await world.here.send(world.alice, room_id, text)
    await world.here.change(world.bob, room_id, "join")
    await world.here.settle()
    yield sealed(word)
    await replicas.copy_histories(world.here.server)
    yield "200"


async def rehomed(world: World, word: str) -> Attempt:
    """Another node comes to order a room, and would need all of its history."""
    room_id = await world.here.create(world.alice, preset="public_chat")
    for text in (word, "one", "two", "three"):
        await world.here.send(world.alice, room_id, text)
    await world.here.change(world.bob, room_id, "join")
    await world.here.settle()
    yield sealed(word)
    assert await rehoming.rehome(world.here.server, room_id, world.here.node("tehran"), world.here.node(world.node))
    yield "200"


async def reunited(world: World, word: str) -> Attempt:
    """A node that came back from an archive is told what it has forgotten."""
    yield sealed(word)
    path = f"{CLIENT}/rooms{quoted(world.room_id, 'send', 'm.room.encrypted', word)}"
    answer = await world.told(world.bob, "PUT", path, ciphertext(word))
    faults: list[Exception] = []
    await reunion._meet(world.here.server, world.here.node("tehran"), Reunion(0, world.node, 0), faults)
    assert faults == []
    yield answer


SHIPPING = "rooms.replicas._ship_waiting"
PUSHES = [
    *pushed(event, "events", "events", SHIPPING, "event", says=WAITS),
    *pushed(typing, "typing", "receipts", "rooms.typing_notices.set_typing"),
    *pushed(receipt, "receipts", "receipts", "rooms.receipts._others", "receipt"),
    *pushed(presence, "presence", "presence", "rooms.presence._spread"),
    *pushed(letter, "messages to devices", "keys", "e2ee.to_device._refuse_border", says="403"),
    *pushed(device_list, "changes of device lists", "keys", SHIPPING, "keys", says=WAITS),
    Row(
        "history of a room, after a join",
        history,
        ((OUT, "events"),),
        "200",
        None,
        THERE,
        "not copied until it may",
        asks=("homeserver.rooms.replicas.copy_histories",),
        columns=NODES,
    ),
    Row(
        "history of a room that comes to be ordered elsewhere",
        rehomed,
        ((OUT, "events"),),
        "200",
        None,
        THERE,
        "not copied until it may",
        asks=("homeserver.residency.moves.rehoming._complete",),
        columns=NODES,
    ),
    Row(
        "what a node has forgotten that came back",
        reunited,
        ((IN, "events"),),
        "200",
        None,
        HERE,
        "not told until it may",
        asks=("homeserver.rooms.reunion._meet",),
        columns=NODES,
    ),
    Row(
        "who was erased",
        erased,
        ((OUT, "events"),),
        "200",
        HERE,
        None,
        WAITS,
        ("erased",),
        (f"homeserver.{SHIPPING}",),
        ("erased",),
        isolated=WAITS,
        columns=NODES,
    ),
]
