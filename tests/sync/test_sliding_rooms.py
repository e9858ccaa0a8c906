"""Sliding sync: when a room is sent, and what is said of it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from homeserver.rooms.state import Rooms
from tests.rooms.play import Play, text_of
from tests.support import aio
from tests.sync.sliding import EVERYTHING, LAZY, ME, Client, members, set_data, set_state, state_of, types, window

NAME = ["m.room.name", ""]
TOPIC = ["m.room.topic", ""]


def texts(entry: dict[str, Any]) -> list[str]:
    return [text_of(event) for event in entry["timeline"] if event["type"] == "m.room.encrypted"]


# -- when a room is sent


@aio
async def test_first_everything_and_then_what_is_new(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    other = await play.create(alice)
    await play.send(alice, room_id, "one")
    client = Client(alice, {"lists": {"all": window(limit=3)}})
    first = await client.rooms()
    assert first.keys() == {room_id, other}
    assert first[room_id]["initial"] is True
    assert first[room_id]["limited"] is True
    assert len(first[room_id]["timeline"]) == 3
    assert first[room_id]["num_live"] == 0
    assert await client.rooms() == {}
    await play.send(bob, room_id, "two")
    await play.settle()
    entry = await client.room(room_id)
    assert "initial" not in entry
    assert (texts(entry), entry["limited"], entry["num_live"]) == (["two"], False, 1)
    assert entry["required_state" if "required_state" in entry else "timeline"] == entry["timeline"]


@aio
async def test_what_is_missed_out_of_range_is_told_from_where_it_was_left(play: Play) -> None:
    alice = await play.user("alice")
    quiet, busy = await play.create(alice), await play.create(alice)
    client = Client(alice, {"lists": {"all": window(0, 1)}})
    await client.sync()
    only_first = {"lists": {"all": window(0, 0)}}
    await play.send(alice, quiet, "q1")
    await play.send(alice, busy, "b1")
    assert list(await client.rooms(**only_first)) == [busy]
    await play.send(alice, busy, "b2")
    assert list(await client.rooms(**only_first)) == [busy]
    entry = await client.room(quiet)
    assert (texts(entry), entry["num_live"]) == (["q1"], 0), "it was there before the last position"
    assert "initial" not in entry
    assert await client.rooms() == {}


@aio
async def test_a_gap_is_limited_and_can_be_filled(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    client = Client(alice, {"lists": {"all": window(limit=2)}})
    await client.sync()
    for number in range(5):
        await play.send(alice, room_id, str(number))
    entry = await client.room(room_id)
    assert (texts(entry), entry["limited"], entry["num_live"]) == (["3", "4"], True, 2)
    query = {"dir": "b", "from": entry["prev_batch"], "limit": "2"}
    page = await play.ask(alice, "GET", f"/rooms/{quote(room_id)}/messages", **query)
    assert [text_of(event) for event in page["chunk"]] == ["2", "1"]
    query = {"dir": "b", "from": str(client.pos), "limit": "1"}
    page = await play.ask(alice, "GET", f"/rooms/{quote(room_id)}/messages", **query)
    assert [text_of(event) for event in page["chunk"]] == ["4"], "a position is a token, too"


@aio
async def test_the_gap_is_the_same_without_memory(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    client = Client(alice, {"lists": {"all": window(limit=2, state=[TOPIC])}})
    await client.sync()
    await set_state(play, alice, room_id, "m.room.topic", {"topic": "T"})
    for number in range(60):
        await play.send(alice, room_id, str(number))
    play.node("tehran").memory(Rooms).clear()
    entry = await client.room(room_id)
    assert (texts(entry), entry["limited"]) == (["58", "59"], True)
    assert state_of(entry) == {("m.room.topic", ""): {"topic": "T"}}
    fresh = await Client(alice, {"lists": {"all": window(limit=55)}}).room(room_id)
    assert texts(fresh) == [str(number) for number in range(5, 60)]


@aio
async def test_who_comes_back_is_told_everything(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    client = Client(bob)
    await client.sync()
    await play.change(bob, room_id, "leave")
    await play.settle()
    await play.change(alice, room_id, "invite", user_id=bob.user_id)
    await play.settle()
    await play.change(bob, room_id, "join")
    await play.settle()
    entry = await client.room(room_id)
    assert entry["initial"] is True
    assert entry["timeline"][-1]["content"]["membership"] == "join"


@aio
async def test_a_changed_name_of_the_user_is_no_coming_back(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    client = Client(alice)
    await client.sync()
    renamed = {"membership": "join", "displayname": "Alice"}
    await set_state(play, alice, room_id, "m.room.member", renamed, alice.user_id)
    entry = await client.room(room_id)
    assert "initial" not in entry
    assert types(entry) == ["m.room.member"]


@aio
async def test_a_larger_timeline_is_sent_at_once(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    for number in range(6):
        await play.send(alice, room_id, str(number))
    client = Client(alice, {"lists": {"all": window(limit=1)}})
    assert texts(await client.room(room_id)) == ["5"]
    more = {"room_subscriptions": {room_id: {"timeline_limit": 4, "required_state": []}}}
    entry = await client.room(room_id, **more)
    assert (texts(entry), entry["unstable_expanded_timeline"]) == (["2", "3", "4", "5"], True)
    assert (entry["num_live"], "initial" in entry) == (0, False)
    assert await client.rooms(**more) == {}
    assert await client.rooms() == {}, "less"
    await play.send(alice, room_id, "6")
    entry = await client.room(room_id)
    assert (texts(entry), entry["limited"]) == (["6"], False)
    assert await client.rooms(**more) == {}, "nothing was missed in between"
    await play.send(alice, room_id, "7")
    await play.send(alice, room_id, "8")
    entry = await client.room(room_id)
    assert (texts(entry), entry["limited"]) == (["8"], True)
    assert texts(await client.room(room_id, **more)) == ["5", "6", "7", "8"], "now there is something to fill in"


@aio
async def test_more_of_a_timeline_than_before_and_all_that_is_new(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    client = Client(alice, {"lists": {"all": window(limit=1)}})
    await client.sync()
    await play.send(alice, room_id, "1")
    await play.send(alice, room_id, "2")
    entry = await client.room(room_id, lists={"all": window(limit=3)})
    assert (texts(entry)[-2:], entry["num_live"], entry["limited"]) == (["1", "2"], 2, False)
    assert entry["unstable_expanded_timeline"] is True


# -- state


@aio
async def test_state_that_is_wanted(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice, name="Roses", topic="Red", invite=[bob.user_id])
    await play.change(bob, room_id, "join")
    await play.settle()

    async def wanted(*pairs: list[str]) -> set[tuple[str, str]]:
        return set(state_of(await Client(alice, {"lists": {"all": window(state=list(pairs))}}).room(room_id)))

    mine, bobs = ("m.room.member", alice.user_id), ("m.room.member", bob.user_id)
    assert await wanted() == set()
    assert await wanted(NAME, TOPIC, ["m.room.avatar", ""]) == {("m.room.name", ""), ("m.room.topic", "")}
    assert await wanted(ME) == {mine}
    assert await wanted(["m.room.member", "*"]) == {mine, bobs}
    everything = await wanted(["*", "*"])
    assert {mine, bobs, ("m.room.create", ""), ("m.room.encryption", "")} <= everything
    assert await wanted(["*", bob.user_id]) == {bobs}
    assert await wanted(["*", "*"], ["m.room.member", "$LAZY"]) == everything
    assert await wanted(["m.room.name", "$LAZY"]) == set()


@aio
async def test_everything_and_members_lazily(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    await play.send(alice, room_id, "hello")
    body = {"lists": {"all": window(limit=1, state=[["*", "*"], LAZY])}}
    entry = await Client(bob, body).room(room_id)
    assert members(entry) == {alice.user_id}
    assert ("m.room.create", "") in state_of(entry)


@aio
async def test_state_that_changed(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    client = Client(alice, {"lists": {"all": window(state=[NAME, ["org.example.x", "*"]])}})
    await client.sync()
    await set_state(play, alice, room_id, "m.room.name", {"name": "Roses"})
    await set_state(play, alice, room_id, "m.room.topic", {"topic": "not wanted"})
    await set_state(play, alice, room_id, "org.example.x", {"a": 1}, "k")
    entry = await client.room(room_id)
    changed = {("m.room.name", ""): {"name": "Roses"}, ("org.example.x", "k"): {"a": 1}}
    assert (state_of(entry), entry["name"]) == (changed, "Roses")
    await play.send(alice, room_id, "hello")
    assert "required_state" not in await client.room(room_id)


@aio
async def test_more_state_than_before_is_sent_at_once(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice, name="Roses", topic="Red")
    client = Client(alice, {"lists": {"all": window(state=[NAME])}})
    await client.sync()
    both = {"lists": {"all": window(state=[NAME, TOPIC])}}
    entry = await client.room(room_id, **both)
    assert state_of(entry).keys() == {("m.room.topic", "")}
    assert "timeline" not in entry
    assert await client.rooms() == {}
    assert await client.rooms(**both) == {}, "it has it"
    assert await client.rooms() == {}
    await set_state(play, alice, room_id, "m.room.topic", {"topic": "Blue"})
    assert "required_state" not in await client.room(room_id)
    assert state_of(await client.room(room_id, **both)) == {("m.room.topic", ""): {"topic": "Blue"}}


@aio
async def test_lazy_members_are_those_of_the_timeline(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    room_id = await play.room_of(alice, bob, carol)
    await play.send(bob, room_id, "hello")
    await play.settle()
    client = Client(alice, {"lists": {"all": window(limit=1, state=[LAZY])}})
    assert members(await client.room(room_id)) == {bob.user_id}
    await play.send(bob, room_id, "again")
    await play.settle()
    assert "required_state" not in await client.room(room_id), "the client has it"
    await play.send(carol, room_id, "me too")
    assert members(await client.room(room_id)) == {carol.user_id}
    await set_state(play, bob, room_id, "m.room.member", {"membership": "join", "displayname": "B"}, bob.user_id)
    entry = await client.room(room_id)
    assert state_of(entry) == {("m.room.member", bob.user_id): {"membership": "join", "displayname": "B"}}


@aio
async def test_all_changes_of_members_unless_there_is_a_gap(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    room_id = await play.room_of(alice, bob, carol)
    for user in (bob, carol):
        await play.send(user, room_id, "hello")
    await play.settle()
    client = Client(alice, {"lists": {"all": window(limit=2, state=[LAZY])}})
    assert members(await client.room(room_id)) == {bob.user_id, carol.user_id}
    await set_state(play, bob, room_id, "m.room.member", {"membership": "join", "displayname": "B"}, bob.user_id)
    await play.send(alice, room_id, "1")
    entry = await client.room(room_id)
    assert (members(entry), entry["limited"]) == ({alice.user_id, bob.user_id}, False)
    await set_state(play, carol, room_id, "m.room.member", {"membership": "join", "displayname": "C"}, carol.user_id)
    for number in range(3):
        await play.send(alice, room_id, str(number))
    entry = await client.room(room_id)
    assert ("required_state" in entry, entry["limited"]) == (False, True)
    await play.send(carol, room_id, "hello")
    assert members(await client.room(room_id)) == {carol.user_id}, "what the client has of her is not true any more"


# -- what is said of a room


@aio
async def test_what_names_a_room(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    await play.ask(bob, "PUT", f"/profile/{quote(bob.user_id)}/displayname", {"displayname": "Bob"})
    room_id = await play.create(alice, invite=[bob.user_id, carol.user_id])
    await play.change(bob, room_id, "join")
    await play.settle()
    client = Client(alice)
    entry = await client.room(room_id)
    heroes = {hero.pop("user_id"): hero for hero in entry["heroes"]}
    assert heroes == {bob.user_id: {"displayname": "Bob"}, carol.user_id: {}}
    assert (entry["joined_count"], entry["invited_count"]) == (2, 1)
    assert not {"name", "avatar", "is_dm"} & entry.keys()
    await play.send(alice, room_id, "hello")
    assert not {"heroes", "joined_count", "name"} & (await client.room(room_id)).keys()
    await play.change(carol, room_id, "join")
    entry = await client.room(room_id)
    assert (entry["joined_count"], entry["invited_count"], len(entry["heroes"])) == (3, 0, 2)
    await set_state(play, alice, room_id, "m.room.name", {"name": "Roses"})
    await set_state(play, alice, room_id, "m.room.avatar", {"url": "mxc://example.org/abc"})
    entry = await client.room(room_id)
    assert (entry["name"], entry["avatar"]) == ("Roses", "mxc://example.org/abc")
    assert "heroes" not in entry
    fresh = await Client(alice).room(room_id)
    assert (fresh["name"], fresh["avatar"], "heroes" in fresh) == ("Roses", "mxc://example.org/abc", False)


@aio
async def test_direct_chats(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.create(alice)
    client = Client(alice)
    await client.sync()
    await set_data(play, alice, "m.direct", {bob.user_id: [room_id]})
    assert (await client.room(room_id))["is_dm"] is True
    assert await client.rooms() == {}
    assert (await Client(alice).room(room_id))["is_dm"] is True
    await set_data(play, alice, "m.direct", {})
    assert (await client.room(room_id))["is_dm"] is False


@aio
async def test_the_stamp_by_which_clients_sort(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id, other = await play.room_of(alice, bob), await play.room_of(alice, bob)
    client = Client(alice)
    first = await client.rooms()
    assert first[room_id]["bump_stamp"] < first[other]["bump_stamp"]
    await set_state(play, alice, room_id, "m.room.topic", {"topic": "nothing to see"})
    assert (await client.room(room_id))["bump_stamp"] == first[room_id]["bump_stamp"]
    await play.send(bob, room_id, "hello")
    bumped = (await client.room(room_id))["bump_stamp"]
    assert bumped > first[other]["bump_stamp"]
    for number in range(55):
        await set_state(play, alice, room_id, "m.room.topic", {"topic": str(number)})
    assert (await client.room(room_id))["bump_stamp"] == bumped, "though it is not in memory any more"
    await play.send(bob, room_id, "hello again")
    for number in range(55):
        await set_state(play, alice, room_id, "m.room.topic", {"topic": str(number)})
    assert (await client.room(room_id))["bump_stamp"] > bumped


@aio
async def test_invitations_and_knocks(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    client = Client(alice)
    await client.sync()
    room_id = await play.create(bob, name="Roses", invite=[alice.user_id])
    await play.settle()
    entry = await client.room(room_id)
    stripped = {(event["type"], event["state_key"]): event["content"] for event in entry["invite_state"]}
    assert stripped["m.room.name", ""] == {"name": "Roses"}
    assert stripped["m.room.member", alice.user_id]["membership"] == "invite"
    assert not {"timeline", "required_state", "prev_batch", "limited", "num_live"} & entry.keys()
    assert (entry["initial"], entry["bump_stamp"] > 0) == (True, True)
    await play.send(bob, room_id, "hello")
    await play.settle()
    assert await client.rooms() == {}
    await play.change(alice, room_id, "join")
    await play.settle()
    entry = await client.room(room_id)
    assert (entry["initial"], "invite_state" in entry, entry["name"]) == (True, False, "Roses")


@aio
async def test_what_may_not_be_seen_is_not_shown(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob"), await play.user("carol")
    hidden = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room_id = await play.create(alice, invite=[bob.user_id, carol.user_id], initial_state=[hidden])
    await play.change(carol, room_id, "join")
    await play.send(alice, room_id, "before")
    await play.change(bob, room_id, "join")
    await play.send(alice, room_id, "after")
    await play.send(carol, room_id, "from carol")
    await set_data(play, bob, "m.ignored_user_list", {"ignored_users": {carol.user_id: {}}})
    client = Client(bob, {"lists": {"all": window(limit=50)}})
    assert texts(await client.room(room_id)) == ["after"]
    await play.send(carol, room_id, "from carol again")
    assert await client.rooms() == {}


@aio
async def test_own_events_have_their_transaction_ids(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    client = Client(alice)
    await client.sync()
    await play.send(alice, room_id, "hello", "my-txn")
    (event,) = (await client.room(room_id))["timeline"]
    assert event["unsigned"]["transaction_id"] == "my-txn"
    assert "room_id" not in event
    play.node("tehran").memory(Rooms).clear()
    fresh = await Client(alice, {"lists": {"all": window(limit=1)}}).room(room_id)
    assert fresh["timeline"][0]["unsigned"]["transaction_id"] == "my-txn"


@aio
async def test_a_gap_comes_with_what_relates_to_its_events(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    root = await play.send(alice, room_id, "root")
    await play.send(alice, room_id, "reply", relates_to={"rel_type": "m.thread", "event_id": root})
    entry = await Client(alice, {"lists": {"all": window(limit=2)}}).room(room_id)
    assert entry["timeline"][0]["unsigned"]["m.relations"]["m.thread"]["count"] == 1


@aio
async def test_a_new_connection_is_told_all_of_it_with_one_trip_to_read(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    plain, room_id = await play.create(alice, invite=[bob.user_id]), await play.create(alice, invite=[bob.user_id])
    for room in (plain, room_id):
        await play.change(bob, room, "join")
    own = await play.send(alice, room_id, "hello", "my-txn")
    root = await play.send(bob, room_id, "root")
    await play.send(alice, room_id, "reply", "my-reply", relates_to={"rel_type": "m.thread", "event_id": root})
    node = play.node("tehran")
    body = {"lists": {"all": window(0, 0, limit=3)}, "extensions": EVERYTHING}
    await Client(alice, body).sync()  # whoever asked once is known, and their rooms
    held = node.memory(Rooms).get(room_id)
    assert held is not None
    for event in held.recent:
        event.echo = None  # as after a start
    entry = await Client(alice, body).room(room_id)
    assert [event["event_id"] for event in entry["timeline"]][:2] == [own, root]
    unsigned = [event["unsigned"] for event in entry["timeline"]]
    assert [each.get("transaction_id") for each in unsigned] == ["my-txn", None, "my-reply"]
    assert [each.get("m.relations", {}).get("m.thread", {}).get("count") for each in unsigned] == [None, 1, None]
    stranger = await Client(bob, body).room(room_id)
    assert not any("transaction_id" in event["unsigned"] for event in stranger["timeline"] if event["event_id"] == own)

    narrow = {"lists": {"all": window(0, 0, limit=1)}, "extensions": EVERYTHING}
    await Client(bob, narrow).sync()
    trips = node.engine.trips
    entry = await Client(bob, narrow).room(room_id)
    assert (entry["limited"], len(entry["timeline"])) == (True, 1)
    assert node.engine.trips == trips + 2  # one to read, one to keep what it was told


@aio
async def test_a_redacted_state_event_is_shown_redacted(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice, topic="secret")
    body = {"lists": {"all": window(state=[TOPIC])}}
    before = await Client(alice, body).room(room_id)
    event_id = before["required_state"][0]["event_id"]
    await play.ask(alice, "PUT", f"/rooms/{quote(room_id)}/redact/{quote(event_id)}/t1", {})
    after = await Client(alice, body).room(room_id)
    assert state_of(after) == {("m.room.topic", ""): {}}
