"""Rows: what one server asks another otherwise."""

from __future__ import annotations

from typing import Any

from federation import port, remote
from homeserver.runtime.exchange import Unreachable
from tests.deployment import User
from tests.e2ee.play import Device
from tests.federation.guests import FEDERATION, asks
from tests.federation.test_media import download, upload
from tests.federation.test_spaces import put, space
from tests.federation.test_user_keys import device_of
from tests.matrix.rows import BUT_ISOLATED, DENIED, FAR, HERE, IN, OUT, THERE, Attempt, Row, Try, outcome, quoted
from tests.matrix.world import World
from tests.media.transfers import picture
from tests.rooms.play import CLIENT, Play


async def their_media(world: World, word: str) -> Attempt:
    media_id = await upload(world.alice, word.encode(), "text/plain")
    yield word.encode()
    yield await downloaded(world.bob, media_id, HERE)


async def our_media(world: World, word: str) -> Attempt:
    media_id = await upload(world.bob, word.encode(), "text/plain")
    yield word.encode()
    yield await downloaded(world.alice, media_id, THERE)


async def downloaded(user: User, media_id: str, server_name: str) -> str:
    got = await download(user, media_id, server_name)
    return f"{got.status} {got.errcode or ''}".strip()


async def their_thumbnail(world: World, word: str) -> Attempt:
    media_id = await upload(world.alice, picture(40, 40))
    yield b"thumbnail."
    target = f"{FEDERATION}/media/thumbnail{quoted(media_id)}?width=8&height=8"
    try:
        yield await outcome(remote.ask(world.there.server, HERE, "GET", target, most=2**20))
    except Unreachable:
        yield "200"  # it is no JSON


async def their_profile(world: World, word: str) -> Attempt:
    user = await world.here.user(word)
    await named(world.here, user, word)
    yield word.encode()
    yield await outcome(asks(world.there, HERE, "GET", "/query/profile", user_id=user.user_id))


async def our_profile(world: World, word: str) -> Attempt:
    user = await world.there.user(word)
    await named(world.there, user, word)
    yield word.encode()
    yield await outcome(world.alice.asks("GET", f"{CLIENT}/profile{quoted(user.user_id)}"))


async def named(play: Play, user: User, name: str) -> None:
    await play.ask(user, "PUT", f"/profile{quoted(user.user_id)}/displayname", {"displayname": name})


async def their_devices(world: World, word: str) -> Attempt:
    device = await device_of(world.here, word)
    yield device.curve.encode()
    yield await outcome(asks(world.there, HERE, "GET", f"/user/devices{quoted(device.user_id)}"))


async def our_devices(world: World, word: str) -> Attempt:
    device = await device_of(world.there, word)
    yield device.curve.encode()
    yield await outcome(port.device_list(world.here.server, world.here.node("tehran"), device.user_id))


async def their_key_query(world: World, word: str) -> Attempt:
    device = await device_of(world.here, word)
    yield device.curve.encode()
    wanted: dict[str, Any] = {"device_keys": {device.user_id: []}}
    yield await outcome(asks(world.there, HERE, "POST", "/user/keys/query", wanted))


async def our_key_query(world: World, word: str) -> Attempt:
    device = await device_of(world.there, word)
    yield device.curve.encode()
    yield failed(await Device(world.alice).query(device))


async def their_claim(world: World, word: str) -> Attempt:
    device = await claimable(world.here, word)
    yield word.encode()
    wanted = {"one_time_keys": {device.user_id: {device.device_id: "signed_curve25519"}}}
    yield await outcome(asks(world.there, HERE, "POST", "/user/keys/claim", wanted))


async def our_claim(world: World, word: str) -> Attempt:
    device = await claimable(world.there, word)
    yield f"signed_curve25519:{word}".encode()
    yield failed(await Device(world.alice).claim(device))


async def claimable(play: Play, word: str) -> Device:
    """Somebody whose one-time key has a word for its name."""
    device = Device(await play.user(f"owner-{word[-3:]}"))
    await device.publish(one_time_keys=device.one_time_keys(word))
    return device


def failed(answer: dict[str, Any]) -> str:
    """What a client is told of keys that were not to be had."""
    found = answer["failures"].get(THERE)
    return "200" if found is None else f"200, {found['org.domicile.reason']}"


async def their_alias(world: World, word: str) -> Attempt:
    room_id = await world.here.create(world.alice, room_alias_name=word)
    yield room_id.encode()
    yield await outcome(asks(world.there, HERE, "GET", "/query/directory", room_alias=f"#{word}:{HERE}"))


async def our_alias(world: World, word: str) -> Attempt:
    room_id = await world.there.create(world.bob, room_alias_name=word)
    yield room_id.encode()
    yield await outcome(world.alice.asks("GET", f"{CLIENT}/directory/room{quoted(f'#{word}:{THERE}')}"))


async def their_public_rooms(world: World, word: str) -> Attempt:
    await world.here.create(world.alice, visibility="public", name=word)
    yield word.encode()
    yield await outcome(asks(world.there, HERE, "GET", "/publicRooms"))


async def our_public_rooms(world: World, word: str) -> Attempt:
    await world.there.create(world.bob, visibility="public", name=word)
    yield word.encode()
    yield await outcome(world.alice.asks("POST", f"{CLIENT}/publicRooms?server={THERE}", {}))


async def their_hierarchy(world: World, word: str) -> Attempt:
    room_id = await space(world.here, world.alice, word)
    yield word.encode()
    yield await outcome(asks(world.there, HERE, "GET", f"/hierarchy{quoted(room_id)}"))


async def their_hierarchy_below(world: World, word: str) -> Attempt:
    """What is below a room that may be told, and is at home on another node, from which nothing may."""
    dora = await world.here.user(f"dora-{word}", "paris")
    root, child = await space(world.here, world.alice, "root"), await space(world.here, dora, word)
    await put(world.here, world.alice, root, child)
    yield f'"name":"{word}"'.encode()
    yield await outcome(asks(world.there, HERE, "GET", f"/hierarchy{quoted(root)}"))


async def our_hierarchy(world: World, word: str) -> Attempt:
    root = await space(world.there, world.bob, word)
    mine = await space(world.here, world.alice, "mine")
    await put(world.here, world.alice, mine, root, THERE)
    yield word.encode()
    yield await outcome(world.alice.asks("GET", f"/_matrix/client/v1/rooms{quoted(mine)}/hierarchy"))


async def our_summary(world: World, word: str) -> Attempt:
    room_id = await world.there.create(world.bob, preset="public_chat", name=word)
    yield word.encode()
    yield await outcome(world.alice.asks("GET", f"/_matrix/client/v1/room_summary{quoted(room_id)}", via=THERE))


def theirs(hook: str, of: str, attempt: Try, site: str, refused: str = DENIED, *, says: str = "403") -> Row:
    """What they ask, which is refused by us."""
    target = THERE if hook == "media/download" else None
    flows = ((OUT, of),)
    return Row(f"their {hook}", attempt, flows, refused, HERE, target, says, (hook,), (f"homeserver.{site}",))


def ours(
    hook: str, of: str, attempt: Try, refused: str = DENIED, *, says: str = "403, not asked", more: str = ""
) -> Row:
    """What our users ask, which is not asked at all."""
    site = "federation.remote.check_flow" if of != "media" else "homeserver.media.remote_media.find"
    target = HERE if hook == "media/download" else None
    return Row(f"our {hook}{more}", attempt, ((IN, of),), refused, THERE, target, says, (hook,), (site,))


LOCAL_MEDIA = "media.download.local"
FAILED = "200, flow_denied"
AMONG_FAILURES = "not asked, named among the failures"
QUESTIONS = [
    theirs("media/download", "media", their_media, LOCAL_MEDIA),
    ours("media/download", "media", our_media),
    theirs("media/thumbnail", "media", their_thumbnail, LOCAL_MEDIA),
    theirs("query/profile", "profile", their_profile, "accounts.profile.of_local"),
    ours("query/profile", "profile", our_profile),
    theirs("user/devices", "keys", their_devices, "e2ee.for_servers.device_list"),
    ours("user/devices", "keys", our_devices),
    theirs("user/keys/query", "keys", their_key_query, "e2ee.for_servers.query"),
    ours("user/keys/query", "keys", our_key_query, FAILED, says=AMONG_FAILURES),
    theirs("user/keys/claim", "keys", their_claim, "e2ee.one_time_keys._claim_once_for", "200", says="left out"),
    ours("user/keys/claim", "keys", our_claim, FAILED, says=AMONG_FAILURES),
    theirs("query/directory", "events", their_alias, "rooms.aliases.resolve"),
    ours("query/directory", "events", our_alias),
    theirs("publicRooms", "events", their_public_rooms, "rooms.public._ranked", "200", says="left out"),
    ours("publicRooms", "events", our_public_rooms),
    theirs("hierarchy", "events", their_hierarchy, "rooms.spaces.for_server"),
    Row(
        "their hierarchy, of a room on another node",
        their_hierarchy_below,
        ((FAR, "events"),),
        "200",
        says="left out",
        routes=("hierarchy",),
        asks=("homeserver.rooms.spaces._child_for_server",),
        columns=BUT_ISOLATED,
    ),
    ours("hierarchy", "events", our_hierarchy, "200", says="not asked, left out"),
    ours("hierarchy", "events", our_summary, "404 M_NOT_FOUND", says="404, not asked", more=", for a room summary"),
]
