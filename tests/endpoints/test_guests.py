"""Guests: accounts without a name, what they may do, and how they become users."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.rooms import chores, guests
from homeserver.storage import chores as stored
from homeserver.web.routes import Auth, Table
from tests.conformance import endpoint_modules
from tests.deployment import PASSWORD, POLICY, SETTINGS, Answer, Deploy, Deployment, User
from tests.rooms.play import ciphertext
from tests.support import aio

CLIENT = "/_matrix/client/v3"
GUESTS = SETTINGS.replace('mode = "open"', 'mode = "open"\nguests = true')
DUMMY = {"type": "m.login.dummy"}

# spec: client-server-api/#guest-access, and what a session needs besides
ALLOWED = """
    GET /rooms/{}/state
    GET /rooms/{}/context/{}
    GET /rooms/{}/event/{}
    GET /rooms/{}/state/{}/{}
    GET /rooms/{}/messages
    GET /rooms/{}/members
    GET /sync
    POST /rooms/{}/join
    POST /rooms/{}/leave
    PUT /rooms/{}/send/{}/{}
    PUT /rooms/{}/state/{}/{}
    PUT /sendToDevice/{}/{}
    PUT /profile/{}/{}
    DELETE /profile/{}/{}
    GET /devices
    GET /devices/{}
    PUT /devices/{}
    GET /account/whoami
    POST /keys/upload
    POST /keys/query
    POST /keys/claim
"""


async def guest_of(deployment: Deployment, **body: Any) -> User:
    answer = await deployment.asked("POST", CLIENT + "/register", body or None, kind="guest")
    assert answer.status == 200
    return User(deployment, answer.json["user_id"], answer.json["device_id"], answer.json["access_token"])


async def upgrade(deployment: Deployment, guest: User, **body: Any) -> Answer:
    asked = {"username": guest.user_id[1:].partition(":")[0], "password": PASSWORD, "guest_access_token": guest.token}
    return await deployment.asked("POST", CLIENT + "/register", {**asked, "auth": DUMMY, **body})


@aio
async def test_a_guest(deploy: Deploy) -> None:
    deployment = await deploy(settings=GUESTS)
    guest = await guest_of(
        deployment,
        initial_device_display_name="Kiosk",
        device_id="MINE",
        username="alice",
        password="x",
        refresh_token=1,
    )
    assert (await guest.asks("GET", CLIENT + "/account/whoami")).json == {
        "user_id": guest.user_id,
        "device_id": guest.device_id,
        "is_guest": True,
    }
    assert guest.device_id != "MINE"
    assert guest.user_id != "@alice:example.org"
    (device,) = (await guest.asks("GET", CLIENT + "/devices")).json["devices"]
    assert device["display_name"] == "Kiosk"
    assert (await guest.caller()).node.name == "tehran"
    login = {"type": "m.login.password", "user": guest.user_id, "password": "x"}
    assert (await deployment.asked("POST", CLIENT + "/login", login)).errcode == "M_FORBIDDEN"


@pytest.mark.parametrize(
    ("settings", "policy"),
    [(SETTINGS, POLICY), (GUESTS, POLICY.rpartition("[default]")[0] + "[default]\nrefuse = 'no'\n")],
)
@aio
async def test_where_there_are_no_guests(deploy: Deploy, settings: str, policy: str) -> None:
    deployment = await deploy(settings=settings, policy=policy)
    answer = await deployment.asked("POST", CLIENT + "/register", kind="guest")
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


@aio
async def test_what_guests_may_not(deploy: Deploy) -> None:
    deployment = await deploy(settings=GUESTS)
    guest = await guest_of(deployment)
    for method, path, body in (
        ("POST", "/createRoom", {}),
        ("GET", "/account/3pid", None),
        ("PUT", f"/profile/{guest.user_id}/avatar_url", {"avatar_url": ""}),
    ):
        answer = await guest.asks(method, CLIENT + path, body)
        assert (answer.status, answer.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    named = await guest.asks("PUT", f"{CLIENT}/profile/{guest.user_id}/displayname", {"displayname": "Me"})
    assert named.status == 200


def test_what_guests_may_is_open_to_them() -> None:
    table: Table[Any] = Table.of(*endpoint_modules())
    for line in ALLOWED.split("\n"):
        if line.strip():
            method, path = line.split()
            route, _ = table.match(method, CLIENT + path.replace("{}", "x"))
            assert route.auth in (Auth.GUEST, Auth.OPTIONAL), line


@aio
async def test_guests_come_only_into_rooms_that_take_them(deploy: Deploy) -> None:
    deployment = await deploy(settings=GUESTS)
    alice, guest = await deployment.user("alice"), await guest_of(deployment)
    made = await alice.asks("POST", CLIENT + "/createRoom", {"preset": "public_chat"})
    room = f"{CLIENT}/rooms/{made.json['room_id']}"
    member = f"{room}/state/m.room.member/{guest.user_id}"
    for answer in (
        await guest.asks("POST", room + "/join", {}),
        await guest.asks("POST", f"{CLIENT}/join/{made.json['room_id']}", {}),
        await guest.asks("PUT", member, {"membership": "join"}),
        await guest.asks("POST", f"{CLIENT}/join/!nowhere:example.org", {}),
    ):
        assert (answer.status, answer.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    opened = await alice.asks("PUT", room + "/state/m.room.guest_access", {"guest_access": "can_join"})
    assert opened.status == 200
    assert (await guest.asks("POST", room + "/join", {})).status == 200
    sent = await guest.asks("PUT", room + "/send/m.room.encrypted/1", ciphertext("hello"))
    assert sent.status == 200
    assert (await guest.asks("POST", room + "/leave", {})).status == 200


@aio
async def test_a_guest_becomes_a_user_where_they_are(deploy: Deploy) -> None:
    deployment = await deploy(settings=GUESTS)
    guest = await guest_of(deployment)
    challenge = await upgrade(deployment, guest, auth=None)
    assert (challenge.status, challenge.json["flows"]) == (401, [{"stages": ["m.login.dummy"]}])
    answer = await upgrade(deployment, guest)
    assert (answer.status, answer.json["user_id"]) == (200, guest.user_id)
    whoami = await deployment.asked("GET", CLIENT + "/account/whoami", token=answer.json["access_token"])
    assert whoami.json["is_guest"] is False
    assert (await guest.asks("GET", CLIENT + "/account/whoami")).json["is_guest"] is False
    assert (await deployment.login(guest)).status == 200
    assert (await guest.asks("POST", CLIENT + "/createRoom", {})).status == 200
    assert (await upgrade(deployment, guest)).errcode == "M_FORBIDDEN"


@aio
async def test_a_guest_becomes_a_user_without_logging_in(deploy: Deploy) -> None:
    deployment = await deploy(settings=GUESTS)
    guest = await guest_of(deployment)
    assert (await guest.asks("GET", CLIENT + "/account/whoami")).json["is_guest"] is True
    assert (await upgrade(deployment, guest, inhibit_login=True)).json == {"user_id": guest.user_id}
    assert (await guest.asks("GET", CLIENT + "/account/whoami")).json["is_guest"] is False


@aio
async def test_who_is_not_upgraded(deploy: Deploy) -> None:
    deployment = await deploy(settings=GUESTS)
    guest, alice = await guest_of(deployment), await deployment.user("alice")
    assert (await upgrade(deployment, guest, username="bob")).errcode == "M_INVALID_USERNAME"
    assert (await upgrade(deployment, guest, username=None)).errcode == "M_INVALID_USERNAME"
    assert (await upgrade(deployment, guest, guest_access_token="junk")).errcode == "M_UNKNOWN_TOKEN"
    assert (await upgrade(deployment, alice)).errcode == "M_FORBIDDEN"
    assert (await upgrade(deployment, guest, password="short")).errcode == "M_WEAK_PASSWORD"
    assert (await guest.asks("GET", CLIENT + "/account/whoami")).json["is_guest"] is True


async def guests_in(deployment: Deployment, alice: User, count: int) -> tuple[str, list[User]]:
    """The path of a room of alice's that takes guests, and guests in it."""
    made = await alice.asks("POST", CLIENT + "/createRoom", {"preset": "public_chat"})
    room = f"{CLIENT}/rooms/{made.json['room_id']}"
    await access(alice, room, "can_join")
    found = [await guest_of(deployment) for _ in range(count)]
    for guest in found:
        assert (await guest.asks("POST", room + "/join", {})).status == 200
    return room, found


async def access(alice: User, room: str, value: str) -> None:
    answer = await alice.asks("PUT", room + "/state/m.room.guest_access", {"guest_access": value})
    assert answer.status == 200


async def joined(alice: User, room: str) -> set[str]:
    return set((await alice.asks("GET", room + "/joined_members")).json["joined"])


@aio
async def test_guests_are_put_out_of_a_room_that_closes_to_them(deploy: Deploy) -> None:
    deployment = await deploy(settings=GUESTS)
    alice, bob = await deployment.user("alice"), await deployment.user("bob")
    room, (guest, member) = await guests_in(deployment, alice, 2)
    other, _ = await guests_in(deployment, alice, 0)
    for path, user in ((room, bob), (other, guest)):
        assert (await user.asks("POST", path + "/join", {})).status == 200
    assert (await upgrade(deployment, member)).status == 200
    await chores.put_guests_out(deployment.server)
    everybody = {alice.user_id, bob.user_id, guest.user_id, member.user_id}
    assert await joined(alice, room) == everybody
    await access(alice, room, "forbidden")
    await chores.put_guests_out(deployment.server)
    assert await joined(alice, room) == everybody - {guest.user_id}
    assert await joined(alice, other) == {alice.user_id, guest.user_id}
    gone = (await alice.asks("GET", f"{room}/state/m.room.member/{guest.user_id}", format="event")).json
    assert (gone["sender"], gone["content"]) == (guest.user_id, {"membership": "leave"})
    assert [await node.read(stored.waiting, guests.CLOSED, 10) for node in deployment.server.nodes] == [[], []]


@aio
async def test_a_room_that_takes_guests_again_keeps_them(deploy: Deploy) -> None:
    deployment = await deploy(settings=GUESTS)
    alice = await deployment.user("alice")
    room, (guest,) = await guests_in(deployment, alice, 1)
    await access(alice, room, "forbidden")
    await access(alice, room, "can_join")
    await chores.put_guests_out(deployment.server)
    assert await joined(alice, room) == {alice.user_id, guest.user_id}
    await access(alice, room, "what?")
    await chores.put_guests_out(deployment.server)
    assert await joined(alice, room) == {alice.user_id}


@aio
async def test_the_job_that_puts_guests_out_is_poked(deploy: Deploy) -> None:
    deployment = await deploy(settings=GUESTS)
    alice = await deployment.user("alice")
    room, _ = await guests_in(deployment, alice, 1)
    key = stored.key("tehran", guests.CLOSED)
    with deployment.server.wakeups.listen([key]) as listener:
        await access(alice, room, "forbidden")
        assert key in set(await listener.wait(1))
