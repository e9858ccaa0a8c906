"""Rows: what one server tells another unasked, in transactions."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

from tests.deployment import User
from tests.e2ee.play import Device, Identity, message
from tests.federation.meetings import enter
from tests.federation.test_outgoing_edus import be_online, read
from tests.matrix.rows import (
    BUT_ISOLATED,
    DENIED,
    FAR,
    HERE,
    IN,
    OUT,
    TAKEN_IN,
    THERE,
    WAITS,
    Attempt,
    Mark,
    Row,
    outcome,
    quoted,
    sealed,
)
from tests.matrix.world import World
from tests.rooms.play import Play

SEND = ("send",)


def pushed(
    attempt: Callable[[World, Play, User, str], Attempt],
    hook: str,
    of: str,
    ours: str,
    theirs: str,
    *,
    says: str = "withheld",
    refused: str = "200",
    isolated: tuple[str, str] = (WAITS, TAKEN_IN),
) -> list[Row]:
    """A row for what our user does, and one for what theirs does. Only our own user can be refused anything.

    ``ours`` and ``theirs``: where the policy is asked about either.
    """

    def of_ours(world: World, word: str) -> Attempt:
        return attempt(world, world.here, world.alice, word)

    def of_theirs(world: World, word: str) -> Attempt:
        return attempt(world, world.there, world.bob, word)

    meanwhile, spite = isolated
    kinds = (hook,) if hook.startswith("m.") else ()
    dropped = "dropped" if kinds else "refused in the answer"
    return [
        Row(
            f"our {hook}",
            of_ours,
            ((OUT, of),),
            refused,
            HERE,
            THERE,
            says,
            ("send",),
            (ours,),
            kinds,
            "200",
            meanwhile,
        ),
        Row(
            f"their {hook}",
            of_theirs,
            ((IN, of),),
            "200",
            None,
            HERE,
            dropped,
            ("send",),
            (theirs,),
            kinds,
            "200",
            spite,
        ),
    ]


async def event(world: World, play: Play, user: User, word: str) -> Attempt:
    yield sealed(word)
    await play.send(user, world.room_id, word)
    yield "200"


async def event_from_afar(world: World, word: str) -> Attempt:
    """A room has its home in one place and members in others: Dora, who writes, is at home on another node."""
    dora = await world.here.user(f"dora-{word}", "paris")
    room_id = await world.here.create(world.alice, preset="public_chat")
    await world.here.change(dora, room_id, "join")
    await enter(world.there, world.bob, room_id, HERE)
    await world.network.settle()
    yield sealed(word)
    await world.here.send(dora, room_id, word)
    yield "200"


async def typing(world: World, play: Play, user: User, word: str) -> Attempt:
    path = f"/rooms{quoted(world.room_id)}/typing{quoted(user.user_id)}"
    await play.ask(user, "PUT", path, {"typing": False})
    typists = re.compile(rb'"user_ids":\[[^]]*"' + user.user_id.encode())
    yield Mark(b'"typing":true,"user_id":"' + user.user_id.encode(), typists)
    await play.ask(user, "PUT", path, {"typing": True})
    yield "200"


async def receipt(world: World, play: Play, user: User, word: str) -> Attempt:
    event_id = await play.send(user, world.room_id, word)
    yield Mark(f'"event_ids":["{event_id}"]'.encode(), f'"{event_id}":{{"m.read"'.encode())
    await read(play, user, world.room_id, event_id)
    yield "200"


async def shows(world: World, play: Play, user: User, word: str) -> Attempt:
    yield word.encode()
    await be_online(play, user, status_msg=word)
    yield "200"


async def to_device(world: World, play: Play, user: User, word: str) -> Attempt:
    other = world.bob if user is world.alice else world.alice
    yield base64.b64encode(word.encode())
    yield await outcome(Device(user).send(word, {other.user_id: {other.device_id: message(word)}}))


async def device_list(world: World, play: Play, user: User, word: str) -> Attempt:
    await known(world, user)
    yield word.encode()
    login = await play.deployment.login(user, device_id=word)
    await Device(User(play.deployment, user.user_id, word, login.json["access_token"])).publish()
    yield "200"


async def signing_keys(world: World, play: Play, user: User, word: str) -> Attempt:
    other = await play.user(word)
    await enter(play, other, world.room_id, HERE)
    await world.network.settle()
    await known(world, other)
    identity = Identity(other.user_id)
    yield identity.master.verify_key.base64.encode()
    yield await outcome(Device(other).asks("POST", "/keys/device_signing/upload", identity.upload()))


async def known(world: World, user: User) -> None:
    """Let the other side have a copy of a user's keys, which it is told the changes of."""
    reader = world.bob if user.deployment is world.here.deployment else world.alice
    await Device(reader).query(user)


TAKEN_PRESENCE = "homeserver.rooms.from_servers.take_presence"
NOT_KEPT, LATER = ("", TAKEN_IN), (WAITS, "noted, asked for later")
"""What isolation makes of ours and of theirs."""
SENDER = "federation.sender._Sender.allowed"
READERS = "homeserver.rooms.from_servers.readers"
NOT_QUEUED = "not even queued"
QUEUED = "homeserver.e2ee.to_servers.allowed"
LISTS = "federation.edus._on_nodes"
PUSHES = [
    *pushed(event, "PDUs", "events", SENDER, "federation.inbound._barred"),
    Row(
        "our PDUs, of an author on another node",
        event_from_afar,
        ((FAR, "events"),),
        "200",
        HERE,
        THERE,
        "withheld",
        ("send",),
        ("homeserver.residency.authors.withheld",),
        columns=BUT_ISOLATED,
    ),
    *pushed(typing, "m.typing", "receipts", SENDER, READERS, isolated=NOT_KEPT),
    *pushed(receipt, "m.receipt", "receipts", SENDER, READERS),
    *pushed(shows, "m.presence", "presence", SENDER, TAKEN_PRESENCE, isolated=NOT_KEPT),
    *pushed(
        to_device,
        "m.direct_to_device",
        "keys",
        "homeserver.e2ee.to_device._refuse_border",
        "homeserver.e2ee.to_device._take_once",
        says="403",
        refused=DENIED,
    ),
    *pushed(device_list, "m.device_list_update", "keys", QUEUED, LISTS, says="not even queued", isolated=LATER),
    *pushed(signing_keys, "m.signing_key_update", "keys", QUEUED, LISTS, says=NOT_QUEUED),
]
