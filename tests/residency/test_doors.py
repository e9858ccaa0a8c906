"""Every door into a room asks the user before the room crosses a border, changes nothing until they agree, and opens
then to the same request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from config.load import policy_from_text
from homeserver.rooms import state
from homeserver.storage.engine import Transaction
from tests.deployment import FLOWING, NAME, PASSWORD, POLICY, SETTINGS, Answer, User
from tests.residency.asking import ASKING, agree, asked
from tests.rooms.play import CLIENT, Cast, Play
from tests.support import aio


class Door(NamedTuple):
    """Who does what; from where to where that leads."""

    user: User
    method: str
    path: str
    body: dict[str, Any]
    source: str
    target: str

    async def tried(self) -> Answer:
        """Make the request."""
        return await self.user.asks(self.method, CLIENT + self.path, self.body)


async def create(play: Play) -> Door:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    return Door(alice, "POST", "/createRoom", {"invite": [bob.user_id]}, "IR", "FR")


async def invite(play: Play) -> Door:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice)
    return Door(alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id}, "IR", "FR")


async def invite_as_state(play: Play) -> Door:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice)
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
    return Door(alice, "PUT", path, {"membership": "invite"}, "IR", "FR")


async def public_room(play: Play, **wish: Any) -> str:
    alice = await play.user("alice")
    return await play.create(alice, preset="public_chat", **wish)


async def join(play: Play) -> Door:
    bob = await play.user("bob", "paris")
    return Door(bob, "POST", f"/join/{quote(await public_room(play))}", {}, "FR", "IR")


async def join_as_state(play: Play) -> Door:
    bob = await play.user("bob", "paris")
    path = f"/rooms/{quote(await public_room(play))}/state/m.room.member/{quote(bob.user_id)}"
    return Door(bob, "PUT", path, {"membership": "join"}, "FR", "IR")


async def accept(play: Play) -> Door:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    await_yes = await alice.asks("POST", f"{CLIENT}/createRoom", {"invite": [bob.user_id]})
    await agree(alice, asked(await_yes, "FR"))
    room_id = await play.create(alice, invite=[bob.user_id])
    return Door(bob, "POST", f"/rooms/{quote(room_id)}/join", {}, "FR", "IR")


async def knock(play: Play) -> Door:
    bob = await play.user("bob", "paris")
    rule = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
    room_id = await play.create(await play.user("alice"), initial_state=[rule])
    return Door(bob, "POST", f"/knock/{quote(room_id)}", {}, "FR", "IR")


async def restricted(play: Play) -> Door:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    space = await play.create(bob)
    allow = [{"type": "m.room_membership", "room_id": space}]
    rule = {"type": "m.room.join_rules", "content": {"join_rule": "restricted", "allow": allow}}
    room_id = await play.create(alice, initial_state=[rule])
    return Door(bob, "POST", f"/join/{quote(room_id)}", {}, "FR", "IR")


async def upgrade(play: Play) -> Door:
    """Of a room that bob has brought across."""
    bob, alice = await play.user("bob", "paris"), await play.user("alice")
    room_id = await play.create(alice, preset="public_chat")
    answer = await bob.asks("POST", f"{CLIENT}/join/{quote(room_id)}", {})
    await agree(bob, asked(answer, "IR", source="FR"))
    await play.change(bob, room_id, "join")
    await play.settle()
    return Door(alice, "POST", f"/rooms/{quote(room_id)}/upgrade", {"new_version": "12"}, "IR", "FR")


DOORS = (create, invite, invite_as_state, join, join_as_state, accept, knock, restricted, upgrade)


async def written(play: Play) -> dict[str, list[int]]:
    """How many rooms, events and memberships each node has."""

    async def counts(tx: Transaction) -> list[int]:
        tables = ("rooms", "events", "memberships", "outbox", "users")
        rows = [await tx.one(f"SELECT COUNT(*) FROM {table}") for table in tables]
        return [row[0] for row in rows if row is not None]

    await play.settle()
    return {node.name: await node.read(counts) for node in play.server.nodes}


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
@aio
async def test_a_door_asks_once_and_opens_then(cast: Cast, door: Callable[[Play], Awaitable[Door]]) -> None:
    play = await cast(policy=ASKING)
    way = await door(play)
    before = await written(play)
    address = asked(await way.tried(), way.target, source=way.source)
    assert await written(play) == before
    await agree(way.user, address)
    assert (await way.tried()).status == 200
    assert await written(play) != before


@pytest.mark.parametrize("door", [create, invite, join], ids=lambda door: door.__name__)
@aio
async def test_nobody_is_asked_where_the_policy_says_so(cast: Cast, door: Callable[[Play], Awaitable[Door]]) -> None:
    play = await cast()
    assert (await (await door(play)).tried()).status == 200


@aio
async def test_the_gate_speaks_first(cast: Cast) -> None:
    """Nobody is asked about what is forbidden."""
    play = await cast(policy=POLICY)
    answer = await (await create(play)).tried()
    assert (answer.status, answer.json["org.domicile.reason"]) == (403, "flow_denied")


@aio
async def test_who_has_agreed_is_asked_no_more(cast: Cast) -> None:
    play = await cast(policy=ASKING)
    way = await create(play)
    await agree(way.user, asked(await way.tried(), "FR"))
    for _ in range(2):
        assert (await way.tried()).status == 200
    carol = await play.user("carol", "paris")
    room_id = await play.create(way.user)
    await play.change(way.user, room_id, "invite", user_id=carol.user_id)
    dora = await play.user("dora")
    asked(await dora.asks("POST", f"{CLIENT}/createRoom", {"invite": [carol.user_id]}), "FR")


@aio
async def test_at_home_nobody_is_asked(cast: Cast) -> None:
    play = await cast(policy=ASKING)
    alice, dora = await play.user("alice"), await play.user("dora")
    room_id = await play.room_of(alice, dora)
    assert (await state.get(play.node("tehran"), room_id)).now.joined == 2


@aio
async def test_members_are_not_asked_when_somebody_else_brings_a_room_across(cast: Cast) -> None:
    """Whoever comes or brings is; the others go on, and may invite where the room is already."""
    play = await cast(policy=ASKING)
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol", "paris")
    room_id = await play.create(alice, preset="public_chat")
    answer = await bob.asks("POST", f"{CLIENT}/join/{quote(room_id)}", {})
    await agree(bob, asked(answer, "IR", source="FR"))
    await play.change(bob, room_id, "join")
    await play.send(alice, room_id, "welcome")
    await play.change(alice, room_id, "invite", user_id=carol.user_id)
    asked(await alice.asks("POST", f"{CLIENT}/createRoom", {"invite": [carol.user_id]}), "FR")


@aio
async def test_whoever_is_asked_about_several_places_is_asked_at_once(cast: Cast) -> None:
    more = (
        '[jurisdictions.KZ]\n[nodes.almaty]\njurisdiction = "KZ"\ndatabase = "sqlite:a/node.db"\nmedia = "file:a/m"\n'
    )
    flows = "".join(
        f'[[flows]]\nfrom = "{source}"\nto = {targets}\nclasses = ["events", "keys"]\n'
        for source, targets in (("IR", '["KZ"]'), ("FR", '["KZ"]'), ("KZ", '["IR", "FR"]'))
    )
    play = await cast(policy=ASKING.replace("[[pins]]", more + "[[pins]]", 1) + flows)
    alice, bob, aida = await play.user("alice"), await play.user("bob", "paris"), await play.user("aida", "almaty")
    body = {"invite": [bob.user_id, aida.user_id]}
    answer = await alice.asks("POST", f"{CLIENT}/createRoom", body)
    await agree(alice, asked(answer, "FR", "KZ"))
    assert (await alice.asks("POST", f"{CLIENT}/createRoom", body)).status == 200


@aio
async def test_when_more_comes_to_flow_users_are_asked_again(cast: Cast) -> None:
    less = ASKING.replace('classes = ["*"]', 'classes = ["events", "keys"]')
    play = await cast(policy=less)
    way = await create(play)
    await agree(way.user, asked(await way.tried(), "FR"))
    play.server.policy.now = policy_from_text(less.replace("serial = 1", "serial = 2"), "residency.toml", NAME)
    assert (await way.tried()).status == 200
    play.server.policy.now = policy_from_text(ASKING, "residency.toml", NAME)
    await agree(way.user, asked(await way.tried(), "FR"))
    play.server.policy.now = policy_from_text(less, "residency.toml", NAME)
    assert (await way.tried()).status == 200


@aio
async def test_guests_are_asked_too(cast: Cast) -> None:
    policy = ASKING.replace('[default]\nnode = "tehran"', '[default]\nnode = "paris"')
    play = await cast(policy=policy, settings=SETTINGS.replace("[passwords]", "guests = true\n[passwords]"))
    access = {"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}
    room_id = await public_room(play, initial_state=[access])
    made = await play.deployment.asked("POST", f"{CLIENT}/register", {}, kind="guest")
    guest = User(play.deployment, made.json["user_id"], made.json["device_id"], made.json["access_token"])
    path = f"{CLIENT}/join/{quote(room_id)}"
    await agree(guest, asked(await guest.asks("POST", path, {}), "IR", source="FR"))
    assert (await guest.asks("POST", path, {})).status == 200


@aio
async def test_a_consent_ends_with_its_account(cast: Cast) -> None:
    play = await cast(policy=ASKING)
    way = await create(play)
    await agree(way.user, asked(await way.tried(), "FR"))

    async def consents(tx: Transaction) -> int:
        row = await tx.one("SELECT COUNT(*) FROM consents")
        assert row is not None
        return int(row[0])

    assert [await node.read(consents) for node in play.server.nodes] == [1, 0]
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}}
    await play.ask(way.user, "POST", "/account/deactivate", {"auth": {**auth, "password": PASSWORD}})
    assert await play.node("tehran").read(consents) == 0


def test_the_policies_differ_by_consent_alone() -> None:
    assert policy_from_text(ASKING, "residency.toml", NAME).asks_consent("IR", "FR")
    assert not policy_from_text(FLOWING, "residency.toml", NAME).asks_consent("IR", "FR")
