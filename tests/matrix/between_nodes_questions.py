"""Rows: what a user of one node asks of what rests on another one of the same deployment."""

from __future__ import annotations

from tests.deployment import User
from tests.e2ee.play import Device
from tests.federation.test_media import download, upload
from tests.federation.test_outgoing_edus import be_online
from tests.federation.test_spaces import put, space
from tests.matrix.rows import BUT_ISOLATED, DENIED, HERE, IN, NODES, OUT, THERE, Attempt, Mark, Row, Try, quoted
from tests.matrix.world import World
from tests.rooms.play import CLIENT


async def profile(world: World, word: str) -> Attempt:
    user = await owner(world, word)
    await world.here.ask(user, "PUT", f"/profile{quoted(user.user_id)}/displayname", {"displayname": f"{word}!"})
    yield f"{word}!".encode()
    yield await world.told(world.alice, "GET", f"{CLIENT}/profile{quoted(user.user_id)}")


async def profile_in_invitation(world: World, word: str) -> Attempt:
    """Whose profile may not come is invited without their name."""
    user = await owner(world, word)
    await world.here.ask(user, "PUT", f"/profile{quoted(user.user_id)}/displayname", {"displayname": f"{word}!"})
    room_id = await world.here.create(world.alice)
    yield Mark(b"", f"{word}!".encode())
    yield await world.told(world.alice, "POST", f"{CLIENT}/rooms{quoted(room_id)}/invite", {"user_id": user.user_id})


async def owner(world: World, word: str) -> User:
    """Somebody on the other node."""
    return await world.here.user(word, world.node)


async def media(world: World, word: str) -> Attempt:
    media_id = await upload(world.bob, word.encode(), "text/plain")
    yield word.encode()
    got = await download(world.alice, media_id, HERE)
    world.answers.setdefault(HERE, []).append(got.body)
    yield f"{got.status} {got.errcode or ''}".strip()


async def presence(world: World, word: str) -> Attempt:
    yield word.encode()
    await be_online(world.here, world.bob, status_msg=word)
    yield await world.told(world.alice, "GET", f"{CLIENT}/presence{quoted(world.bob.user_id)}/status")


async def keys(world: World, word: str) -> Attempt:
    device = Device(await owner(world, word))
    await device.publish()
    yield device.curve.encode()
    yield await asked(world, "query", {"device_keys": {device.user_id: []}})


async def one_time_key(world: World, word: str) -> Attempt:
    device = Device(await owner(world, f"owner-{word[-3:]}"))
    await device.publish(one_time_keys=device.one_time_keys(word))
    yield f"signed_curve25519:{word}".encode()
    yield await asked(world, "claim", {"one_time_keys": {device.user_id: {device.device_id: "signed_curve25519"}}})


async def asked(world: World, what: str, body: object) -> str:
    return await world.told(world.alice, "POST", f"{CLIENT}/keys/{what}", body)


async def alias(world: World, word: str) -> Attempt:
    room_id = await world.here.create(world.bob, room_alias_name=word)
    yield room_id.encode()
    yield await world.told(world.alice, "GET", f"{CLIENT}/directory/room{quoted(f'#{word}:{HERE}')}")


async def aliases(world: World, word: str) -> Attempt:
    state = [{"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}]
    room_id = await world.here.create(world.bob, room_alias_name=word, initial_state=state)
    yield word.encode()
    yield await world.told(world.alice, "GET", f"{CLIENT}/rooms{quoted(room_id)}/aliases")


async def aliases_of_member(world: World, word: str) -> Attempt:
    room_id = await world.here.room_of(world.bob, world.alice)
    await world.here.ask(world.bob, "PUT", f"/directory/room{quoted(f'#{word}:{HERE}')}", {"room_id": room_id})
    yield word.encode()
    yield await world.told(world.alice, "GET", f"{CLIENT}/rooms{quoted(room_id)}/aliases")


async def public_rooms(world: World, word: str) -> Attempt:
    await world.here.create(world.bob, visibility="public", name=word)
    yield word.encode()
    yield await world.told(world.alice, "POST", f"{CLIENT}/publicRooms", {})


async def hierarchy(world: World, word: str) -> Attempt:
    root, mine = await space(world.here, world.bob, word), await space(world.here, world.alice, "mine")
    await put(world.here, world.alice, mine, root)
    yield word.encode()
    yield await world.told(world.alice, "GET", f"/_matrix/client/v1/rooms{quoted(mine)}/hierarchy")


async def summary(world: World, word: str) -> Attempt:
    room_id = await world.here.create(world.bob, preset="public_chat", name=word)
    yield word.encode()
    yield await world.told(world.alice, "GET", f"/_matrix/client/v1/room_summary{quoted(room_id)}")


async def name_for_room(world: World, word: str) -> Attempt:
    """Not a question: an alias rests where the room is at home."""
    room_id = await world.here.room_of(world.bob, world.alice)
    yield word.encode()
    yield await world.told(
        world.alice, "PUT", f"{CLIENT}/directory/room{quoted(f'#{word}:{HERE}')}", {"room_id": room_id}
    )


def question(hook: str, of: str, attempt: Try, refused: str, site: str, *, says: str = "403") -> Row:
    """A row of what alice asks of what rests on the other node."""
    return Row(hook, attempt, ((IN, of),), refused, THERE, HERE, says, (), (f"homeserver.{site}",), columns=NODES)


FAILURES = "named among the failures"
QUESTIONS = [
    question("profile", "profile", profile, DENIED, "accounts.profile.of_local"),
    Row(
        "the name of who is invited",
        profile_in_invitation,
        ((IN, "profile"),),
        "200",
        None,
        HERE,
        "left out",
        (),
        ("homeserver.rooms.membership._profile_of",),
        columns=BUT_ISOLATED,
    ),
    question("media", "media", media, DENIED, "media.download.local"),
    question("presence", "presence", presence, DENIED, "rooms.presence.status"),
    question("keys/query", "keys", keys, "200", "e2ee.device_keys._read_from", says=FAILURES),
    question("keys/claim", "keys", one_time_key, "200", "e2ee.one_time_keys._claim_from", says=FAILURES),
    question("directory/room", "events", alias, DENIED, "rooms.aliases.resolve"),
    question("aliases", "events", aliases, DENIED, "rooms.aliases.of_room"),
    question("aliases, of a room that both are in", "events", aliases_of_member, DENIED, "rooms.aliases.of_room"),
    question("publicRooms", "events", public_rooms, "200", "rooms.public._ranked", says="left out"),
    question("hierarchy", "events", hierarchy, "200", "rooms.spaces._here", says="left out"),
    question("room_summary", "events", summary, "404 M_NOT_FOUND", "rooms.spaces._here", says="404"),
    Row(
        "an alias for a room on the other node",
        name_for_room,
        ((OUT, "events"),),
        DENIED,
        None,
        THERE,
        "403",
        (),
        ("homeserver.rooms.aliases.create",),
        columns=NODES,
    ),
]
