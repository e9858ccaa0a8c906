"""Rows: who else is told something, and is no Matrix server: gateways that ring phones, identity servers, web pages."""

from __future__ import annotations

import asyncio
from typing import Any

from homeserver.push import watching
from homeserver.push.lines import Followers
from homeserver.rooms.onlookers import Onlookers
from tests.deployment import User
from tests.federation.test_third_party import ON_BIND
from tests.matrix.rows import DENIED, HERE, IN, OUT, Attempt, Column, Row, outcome, quoted
from tests.matrix.servers import PAGES, PUSH, Servers
from tests.matrix.world import World
from tests.push.gateway import Gateway
from tests.rooms.identity_server import API, NAME, TOKEN
from tests.rooms.play import CLIENT

PREVIEW = "/_matrix/client/v1/media/preview_url"


async def phone_set(world: World, word: str) -> Attempt:
    user = await world.here.user(word)
    yield b""
    yield await sets(user, word)


async def phone_rung(world: World, word: str) -> Attempt:
    room_id = await with_phone(world, word)
    yield f'"pushkey":"{word}"'.encode()
    await world.here.send(world.alice, room_id, word)
    await quiet(world)
    yield "200"


async def phone_told_more(world: World, word: str) -> Attempt:
    """Who wrote, and how the room is called."""
    room_id = await with_phone(world, f"phone-{word}")
    await world.here.ask(world.alice, "PUT", f"/rooms{quoted(room_id)}/state/m.room.name", {"name": word})
    await quiet(world)
    yield f'"room_name":"{word}"'.encode()
    await world.here.send(world.alice, room_id, word)
    await quiet(world)
    yield "200"


async def with_phone(world: World, word: str) -> str:
    """A room of alice's with somebody whose phone is rung through a gateway."""
    server = world.here.server
    world.run(*(watching.push(server, node) for node in server.nodes))
    user = await world.here.user(word)
    room_id = await world.here.room_of(world.alice, user)
    assert await sets(user, word) == "200"
    await quiet(world)
    return room_id


async def sets(user: User, pushkey: str) -> str:
    return await outcome(user.asks("POST", f"{CLIENT}/pushers/set", Gateway(PUSH).pusher(pushkey)))


async def quiet(world: World) -> None:
    """Wait until everything has been looked at, and all who are to be told have been."""
    node = world.here.node("tehran")
    await node.memory(Onlookers).idle.wait()
    while tasks := [line.task for line in node.memory(Followers).lines() if line.task is not None]:
        await asyncio.wait(tasks)


async def invited_by_address(world: World, word: str) -> Attempt:
    room_id = await world.here.create(world.alice, name=word)
    yield word.encode()
    yield await by_address(world.alice, room_id, word)


async def inviter_named(world: World, word: str) -> Attempt:
    user = await world.here.user(f"user-{word}")
    await world.here.ask(user, "PUT", f"/profile{quoted(user.user_id)}/displayname", {"displayname": word})
    room_id = await world.here.create(user)
    yield f'"sender_display_name":"{word}"'.encode()
    yield await by_address(user, room_id, f"to-{word}")


async def key_valid(world: World, word: str) -> Attempt:
    """Somebody of our own proves an address: whether the key of the identity server still holds is asked there."""
    user = await world.here.user(f"user-{word}")
    room_id = await world.here.create(world.alice)
    assert await by_address(world.alice, room_id, word) == "200"
    assert isinstance(world, Servers)
    notice = world.addresses.bind(f"{word}@example.com", user.user_id)
    yield f"{API}/pubkey/isvalid".encode()
    yield await outcome(world.here.deployment.asked("PUT", ON_BIND, notice))


async def by_address(user: User, room_id: str, name: str) -> str:
    who = {"id_server": NAME, "id_access_token": TOKEN, "medium": "email", "address": f"{name}@example.com"}
    return await outcome(user.asks("POST", f"{CLIENT}/rooms{quoted(room_id)}/invite", who))


async def link_shown(world: World, word: str) -> Attempt:
    yield f"/{word}".encode()
    yield await outcome(world.alice.asks("GET", PREVIEW, url=f"https://{PAGES}/{word}"))


def row(hook: str, attempt: Any, needs: Any, refused: str, site: str, says: str, source: str | None = HERE) -> Row:
    """A row of what our server asks of, or tells, somebody."""
    return Row(hook, attempt, needs, refused, source, None, says, (), (f"homeserver.{site}",))


NOTIFICATIONS = ((OUT, "notifications"),)
EVENTS = ((OUT, "events"),)
NOT_ASKED = "403, not asked"
THIRD_PARTIES = [
    row("a pusher is set", phone_set, NOTIFICATIONS, DENIED, "push.gateways.check", "403", None),
    row("push gateway: notify", phone_rung, NOTIFICATIONS, "200", "push.gateways.notify", "withheld"),
    row("push gateway: names", phone_told_more, EVENTS, "200", "push.gateways.may_have_details", "left out"),
    row("identity server: lookup", invited_by_address, EVENTS, DENIED, "rooms.identity_servers.check", NOT_ASKED),
    Row(
        "identity server: who invites",
        inviter_named,
        ((OUT, "profile"),),
        "200",
        says="left out",
        asks=("homeserver.rooms.inviting_by_address._told",),
        columns=(Column.SAME, Column.ALLOWED, Column.DENIED, Column.UNKNOWN_ALLOWED),
    ),
    row("identity server: key_validity_url", key_valid, EVENTS, "200", "rooms.identity_servers.holds", "not asked"),
    row(
        "web server: preview of a link",
        link_shown,
        ((OUT, "media"), (IN, "media")),
        DENIED,
        "media.previews._check",
        NOT_ASKED,
    ),
]
