"""Rooms are ordered elsewhere: because an operator wants it, because their people have gone, or because a node goes."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from homeserver.protocol.errors import Conflict
from homeserver.residency.changes import letting_go
from homeserver.storage import outbox, rooms
from homeserver.storage.directory import Kind
from homeserver.storage.engine import Transaction
from tests.deployment import FLOWING, POLICY
from tests.moves.play import Stage, Staging
from tests.rooms.play import CLIENT
from tests.support import ON_SQLITE, Databases, aio

LYON = """
[nodes.lyon]
jurisdiction = "FR"
database = "sqlite:lyon/node.db"
media = "file:lyon/media"
"""


async def home_of(play: Stage, room: str) -> str | None:
    """The node that orders a room, as the directory says."""
    return await play.server.nodes.directory.ask(Kind.ROOM, room)


async def let_go(play: Stage, name: str, *, wholly: bool = True) -> None:
    """What happens to what a node holds besides users, when these have gone."""
    await letting_go.let_go(play.server, {name}, {name} if wholly else (), lambda step, done: None)


@aio
async def test_a_room_is_ordered_where_an_operator_wants_it(stage: Staging) -> None:
    """Its aliases and its place in the directory go along, and nobody notices; what is asked twice is done once."""
    play = await stage()
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room = await play.create(alice, invite=[bob.user_id], room_alias_name="hall", visibility="public")
    await play.change(bob, room, "join")
    said = ["before 1", "before 2"]
    for text in said:
        await play.send(alice, room, text)
    for _ in range(2):
        answer = await play.command("residency-move-room", room=room, to="paris")
        assert await home_of(play, room) == "paris"
    assert (answer["from"], answer["to"]) == ("paris", "paris")
    for text, user in (("after 1", alice), ("after 2", bob)):
        await play.send(user, room, text)
        said.append(text)
    await play.settle()
    for user in (alice, bob):
        assert await play.texts(user, room) == said
    await play.assert_equal(room)
    for node in ("tehran", "paris"):
        assert (await play.replica(node, room)).home == "paris"
    found = await play.ask(alice, "GET", f"/directory/room/{quote('#hall:example.org')}")
    assert found["room_id"] == room
    assert [each["room_id"] for each in (await play.ask(alice, "GET", "/publicRooms"))["chunk"]] == [room]
    await play.ask(alice, "DELETE", f"/directory/room/{quote('#hall:example.org')}")
    await play.command("residency-move-room", room=room, to="tehran")
    assert (await play.ask(alice, "GET", f"/rooms/{room}/aliases"))["aliases"] == [], "what was taken away stays away"
    assert (await play.ask(alice, "GET", f"/directory/list/room/{room}"))["visibility"] == "public"


@ON_SQLITE
@aio
async def test_a_room_is_not_ordered_where_it_has_no_members_or_may_not_be(stage: Staging, engines: Databases) -> None:
    await engines.make_breakable("paris")
    play = await stage(policy=POLICY)
    alice = await play.user("alice")
    room = await play.create(alice)
    dry = await play.command("residency-move-room", room=room, to="paris", dry_run=True)
    assert (dry["from"], dry["to"], len(dry["obstacles"])) == ("tehran", "paris", 2), "no members, and no flow"
    refusal = await play.refusal("residency-move-room", room=room, to="paris")
    assert "it has members on tehran" in refusal.message
    assert (await play.refusal("residency-move-room", room="!no", to="paris")).errcode == "M_NOT_FOUND"
    await engines.take_away("paris")
    await play.node("paris").engine.probe()
    assert "is down" in (await play.refusal("residency-move-room", room=room, to="paris")).message
    assert await home_of(play, room) == "tehran"


@ON_SQLITE
@aio
async def test_who_left_a_room_takes_no_order_of_it_along(stage: Staging) -> None:
    """What they may still read of it is not the room as it is now: who is in it orders it."""
    play = await stage(policy=FLOWING + LYON)
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol", "paris")
    room = await play.room_of(alice, bob)
    await play.change(alice, room, "leave")
    await play.change(bob, room, "invite", user_id=carol.user_id)
    await play.change(carol, room, "join")
    await play.settle()
    assert await home_of(play, room) == "tehran"
    await play.move(alice, "lyon")
    assert await home_of(play, room) == "paris"
    await play.send(carol, room, "still here")
    assert (await play.texts(bob, room))[-1] == "still here"
    assert (await play.replica("paris", room)).home == "paris"


@aio
async def test_when_a_node_goes_others_order_its_rooms(stage: Staging) -> None:
    """A room that has members elsewhere, one that somebody may still read, one that is nobody's any more; and one to
    which somebody is invited."""
    play = await stage()
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    shared = await play.create(alice, invite=[bob.user_id], room_alias_name="shared")
    await play.change(bob, shared, "join")
    left = await play.room_of(alice, bob)
    await play.change(bob, left, "leave")
    own = await play.create(alice, room_alias_name="own")
    invited = await play.create(alice, invite=[bob.user_id])
    await play.settle()
    await play.send(alice, shared, "a word")
    for room in (shared, left, own, invited):
        await play.change(alice, room, "leave")
    for _ in range(2):  # whoever is killed in between
        await let_go(play, "tehran")
    assert await home_of(play, shared) == await home_of(play, left) == "paris"
    assert await home_of(play, own) is await home_of(play, invited) is None
    assert await play.node("paris").read(homes_there) == {shared: "paris", left: "paris", invited: None}
    await play.send(bob, shared, "another")
    assert await play.texts(bob, shared) == ["a word", "another"]
    found = await play.ask(bob, "GET", f"/directory/room/{quote('#shared:example.org')}")
    assert found["room_id"] == shared
    gone = await play.refused(bob, "GET", f"/directory/room/{quote('#own:example.org')}")
    assert (gone.status, gone.errcode) == (404, "M_NOT_FOUND")
    answer = await bob.asks("POST", f"{CLIENT}/rooms/{invited}/join", {})
    assert answer.status in (403, 404), answer
    await play.change(bob, invited, "leave")


async def homes_there(tx: Transaction) -> dict[str, str | None]:
    """Which nodes order the rooms that a node knows, as it has it."""
    return {row[0]: row[1] for row in await tx.all("SELECT room_id, home FROM rooms")}


@ON_SQLITE
@aio
async def test_a_node_that_stays_keeps_rooms_that_are_nobodys(stage: Staging) -> None:
    play = await stage()
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    shared, own = await play.room_of(alice, bob), await play.create(alice)
    await play.change(alice, shared, "leave")
    await play.change(alice, own, "leave")
    await let_go(play, "tehran", wholly=False)
    assert await home_of(play, shared) == "paris"
    assert await home_of(play, own) == "tehran"
    assert await play.node("tehran").read(rooms.find, own) is not None


@ON_SQLITE
@aio
async def test_what_is_kept_back_keeps_a_node(stage: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the policy does not let go would never be sent; what waits for a moment is waited for."""
    play = await stage()
    await play.end()
    await play.node("tehran").write(put, 5)
    (obstacle,) = await letting_go.obstacles(play.server, ["tehran"])
    assert "1 parcels for other nodes" in obstacle
    monkeypatch.setattr(letting_go, "PATIENCE", 0.0)
    with pytest.raises(Conflict, match="--resume"):
        await let_go(play, "tehran")
    await play.node("tehran").write(put, -6)
    found = await letting_go.obstacles(play.server, ["tehran"])
    assert "keeps back 1 parcels for paris" in found[0]


async def put(tx: Transaction, pos: int) -> None:
    outbox.put(tx, pos, [outbox.NewParcel("paris", "receipt")])
