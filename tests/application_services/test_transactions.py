"""What an application service is told: which events, in which order, once, whoever is away or killed meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from homeserver.application_services.sending import sender
from tests.application_services.bridge import HS_TOKEN
from tests.application_services.stage import SetUp, Stage, path_of
from tests.deployment import User
from tests.support import aio


@aio
async def test_a_service_is_told_of_its_users_rooms_and_of_no_others(set_up: SetUp) -> None:
    stage = await set_up()
    alice = await stage.play.user("alice")
    ghost = await stage.ghost("joe")
    elsewhere = await stage.room(alice)
    await stage.play.send(alice, elsewhere, "not for the bridge")
    room_id = await stage.room(alice, ghost)
    told = await stage.play.send(alice, room_id, "for the bridge")
    await stage.bridge.has(told)
    events = stage.bridge.events()
    assert {event["room_id"] for event in events} == {room_id}
    memberships = [
        (event["content"]["membership"], event["state_key"]) for event in events if event["type"] == "m.room.member"
    ]
    assert memberships == [("invite", ghost.user_id), ("join", ghost.user_id)]
    [invite] = [event for event in events if event["content"].get("membership") == "invite"]
    assert {"m.room.create", "m.room.member"} <= {event["type"] for event in invite["unsigned"]["invite_room_state"]}
    message = events[-1]
    assert (message["sender"], message["type"]) == (alice.user_id, "m.room.encrypted")
    assert {asked.token for asked in stage.bridge.attempts} == {HS_TOKEN}
    assert all(asked.path.startswith("/_matrix/app/v1/transactions/") for asked in stage.bridge.attempts)


@aio
async def test_a_service_is_told_no_more_when_its_user_has_left(set_up: SetUp) -> None:
    stage = await set_up()
    alice, ghost, room_id = await stage.meeting()
    await stage.play.change(alice, room_id, "kick", user_id=ghost.user_id)
    after = await stage.play.send(alice, room_id, "nobody is told")
    other = await stage.room(alice, ghost)
    await stage.bridge.has(await stage.play.send(alice, other, "the last"))
    assert after not in stage.bridge.event_ids()
    kicks = [event for event in stage.bridge.events() if event["content"].get("membership") == "leave"]
    assert [event["state_key"] for event in kicks] == [ghost.user_id]


@aio
async def test_what_happened_while_it_was_away_comes_in_order_once_and_as_it_was(set_up: SetUp) -> None:
    stage = await set_up()
    alice, ghost, room_id = await stage.meeting()
    await stage.bridge.close()
    sent = [await stage.play.send(alice, room_id, f"number {n}") for n in range(120)]
    await stage.play.change(alice, room_id, "kick", user_id=ghost.user_id)
    unseen = await stage.play.send(alice, room_id, "after the ghost left")
    stage.bridge.open()
    await stage.as_service("POST", "/_matrix/client/v1/appservice/bridge/ping", {})  # it shows that it is back
    await stage.bridge.until(
        lambda: any(event["content"].get("membership") == "leave" for event in stage.bridge.events())
    )
    told = stage.bridge.event_ids()
    assert [event_id for event_id in told if event_id in sent] == sent
    assert len(told) == len(set(told))
    assert unseen not in told
    assert max(len(asked.body["events"]) for asked in stage.bridge.transactions) <= 100


async def tried(stage: Stage, user: User, room_id: str, *outcomes: int) -> tuple[str, int]:
    """Send an event, and wait until the service has been told once, which answers with these statuses: the event's id,
    and how often it had been asked before."""
    await stage.bridge.has(await stage.play.send(user, room_id, "before"))
    stage.bridge.outcomes.extend(outcomes)
    begun = len(stage.bridge.attempts)
    sent = await stage.play.send(user, room_id, "first")
    await stage.bridge.until(lambda: len(stage.bridge.attempts) > begun)
    return sent, begun


@aio
async def test_a_failed_transaction_is_repeated_to_the_byte(set_up: SetUp) -> None:
    stage = await set_up()
    alice, _, room_id = await stage.meeting()
    first, begun = await tried(stage, alice, room_id, 500, 503, 200)
    second = await stage.play.send(alice, room_id, "second")
    await stage.bridge.has(first, second)
    attempts = [asked for asked in stage.bridge.attempts[begun:] if asked.path.startswith("/_matrix/app")]
    assert len(attempts) >= 4
    assert attempts[0] == attempts[1] == attempts[2]
    assert first in [event["event_id"] for event in attempts[0].body["events"]]
    assert second not in [event["event_id"] for event in attempts[0].body["events"]]
    assert stage.bridge.event_ids().count(first) == 1


@aio
async def test_one_transaction_is_under_way_at_a_time(set_up: SetUp) -> None:
    stage = await set_up()
    alice, _, room_id = await stage.meeting()
    stage.bridge.held = asyncio.Event()
    sent = [await stage.play.send(alice, room_id, f"number {n}") for n in range(10)]
    await stage.bridge.until(lambda: stage.bridge.under_way == 1)
    stage.bridge.held.set()
    await stage.bridge.has(*sent)
    assert stage.bridge.most_under_way == 1
    assert [each for each in stage.bridge.event_ids() if each in sent] == sent


@aio
async def test_a_service_that_shows_itself_while_a_transaction_fails_is_tried_again_at_once(
    set_up: SetUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await set_up()
    monkeypatch.setattr(sender, "FIRST_PAUSE", 3600)
    alice, _, room_id = await stage.meeting()
    await stage.bridge.has(await stage.play.send(alice, room_id, "before"))
    stage.bridge.held = asyncio.Event()
    stage.bridge.outcomes.append(503)
    sent = await stage.play.send(alice, room_id, "while it starts")
    await stage.bridge.until(lambda: stage.bridge.under_way == 1)
    shown = await stage.as_service("POST", "/_matrix/client/v1/appservice/bridge/ping", {})
    assert shown.status == 200
    stage.bridge.held.set()
    await stage.bridge.has(sent)


@aio
async def test_a_transaction_outlives_the_server_that_made_it(set_up: SetUp) -> None:
    stage = await set_up()
    alice, _, room_id = await stage.meeting()
    first, begun = await tried(stage, alice, room_id, *[503] * 50)
    await stage.end()  # killed
    second = await stage.play.send(alice, room_id, "second")
    stage.bridge.outcomes.clear()
    stage = await set_up(again=stage)
    await stage.as_service("POST", "/_matrix/client/v1/appservice/bridge/ping", {})
    await stage.bridge.has(first, second)
    repeated = [asked for asked in stage.bridge.attempts[begun:] if asked.path == stage.bridge.attempts[begun].path]
    assert len(repeated) > 1
    assert all(asked == repeated[0] for asked in repeated)
    assert stage.bridge.event_ids().count(first) == stage.bridge.event_ids().count(second) == 1


@aio
async def test_services_of_former_times_are_found_by_their_older_address(set_up: SetUp) -> None:
    stage = await set_up()
    from tests.application_services.bridge import Answering

    stage.bridge.answers["/_matrix/app/v1/transactions"] = Answering(404, {"errcode": "M_UNRECOGNIZED"})
    alice, _, room_id = await stage.meeting()
    sent = await stage.play.send(alice, room_id, "told by the older address")
    await stage.bridge.has(sent)
    assert all(asked.path.startswith("/transactions/") for asked in stage.bridge.transactions)
    newer = [asked for asked in stage.bridge.attempts if asked.path.startswith("/_matrix/app")]
    assert len(newer) == 1


@aio
async def test_a_room_is_told_of_by_its_alias_and_its_id(set_up: SetUp) -> None:
    namespaces = {
        "users": [],
        "aliases": [{"exclusive": False, "regex": "#town_.*"}],
        "rooms": [],
    }
    stage = await set_up(registration={"namespaces": namespaces})
    alice = await stage.play.user("alice")
    named = await stage.play.create(alice, room_alias_name="town_square")
    other = await stage.play.create(alice)
    unseen = await stage.play.send(alice, other, "in another room")
    seen = await stage.play.send(alice, named, "in the square")
    await stage.bridge.has(seen)
    assert unseen not in stage.bridge.event_ids()
    await stage.play.ask(alice, "DELETE", "/directory/room/%23town_square%3Aexample.org")
    later = await stage.play.send(alice, named, "without a name")
    await stage.play.ask(alice, "PUT", "/directory/room/%23town_hall%3Aexample.org", {"room_id": other})
    await stage.bridge.has(await stage.play.send(alice, other, "in the hall"))
    assert later not in stage.bridge.event_ids()
    stage = await set_up(again=stage, registration={"namespaces": namespaces})
    await stage.bridge.has(await stage.play.send(stage.moved(alice), other, "known after a restart", "again"))


@aio
async def test_all_of_a_room_whose_id_is_named(set_up: SetUp) -> None:
    stage = await set_up(registration={"namespaces": {"rooms": [{"exclusive": False, "regex": "!.*"}]}})
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob", "paris")
    room_id = await stage.room(alice, bob)
    await stage.bridge.has(
        await stage.play.send(alice, room_id, "one"), await stage.play.send(bob, room_id, "from paris")
    )
    assert "m.room.create" in {event["type"] for event in stage.bridge.events()}


@aio
async def test_rooms_that_another_node_orders_are_told_of_once(set_up: SetUp) -> None:
    stage = await set_up()
    bob = await stage.play.user("bob", "paris")
    ghost = await stage.ghost("joe")
    room_id = await stage.play.create(bob, invite=[ghost.user_id])
    await stage.bridge.until(
        lambda: [event for event in stage.bridge.events() if event["content"].get("membership") == "invite"]
    )
    await stage.play.change(ghost, room_id, "join")
    await stage.play.settle()
    sent = [await stage.play.send(bob, room_id, f"from paris {n}") for n in range(3)]
    await stage.bridge.has(*sent)
    memberships = [
        event["content"]["membership"] for event in stage.bridge.events() if event["type"] == "m.room.member"
    ]
    assert memberships == ["invite", "join"]
    assert [each for each in stage.bridge.event_ids() if each in sent] == sent
    assert len(stage.bridge.event_ids()) == len(set(stage.bridge.event_ids()))


@aio
async def test_ephemeral_events_are_told_to_whom_asks_for_them(set_up: SetUp) -> None:
    stage = await set_up(registration={"receive_ephemeral": True})
    alice = await stage.play.user("alice")
    ghost = await stage.ghost("joe")
    room_id, other = await stage.room(alice, ghost), await stage.room(alice)
    read = await stage.play.send(alice, room_id, "to be read")
    for place in (room_id, other):
        await stage.play.ask(alice, "PUT", path_of(place, "typing", alice.user_id), {"typing": True, "timeout": 9000})
    [typing] = await stage.bridge.until(lambda: stage.bridge.ephemeral("m.typing"))
    assert typing == {"type": "m.typing", "room_id": room_id, "content": {"user_ids": [alice.user_id]}}
    await stage.play.ask(alice, "POST", path_of(room_id, "receipt", "m.read", read), {})
    [receipt] = await stage.bridge.until(lambda: stage.bridge.ephemeral("m.receipt"))
    assert receipt["room_id"] == room_id
    assert list(receipt["content"][read]["m.read"]) == [alice.user_id]
    await stage.play.ask(alice, "POST", path_of(room_id, "receipt", "m.read.private", read), {})
    await stage.play.ask(ghost, "POST", path_of(room_id, "receipt", "m.read.private", read), {})
    found = await stage.bridge.until(
        lambda: len(stage.bridge.ephemeral("m.receipt")) > 1 and stage.bridge.ephemeral("m.receipt")
    )
    assert found[1]["content"][read] == {
        "m.read.private": {ghost.user_id: found[1]["content"][read]["m.read.private"][ghost.user_id]}
    }
    await stage.play.ask(
        alice, "PUT", f"/presence/{alice.user_id}/status", {"presence": "online", "status_msg": "here"}
    )
    [presence] = await stage.bridge.until(lambda: stage.bridge.ephemeral("m.presence"))
    assert (presence["sender"], presence["content"]["status_msg"]) == (alice.user_id, "here")


@aio
async def test_ephemeral_events_are_told_to_nobody_else(set_up: SetUp) -> None:
    stage = await set_up()
    alice, _, room_id = await stage.meeting()
    await stage.play.ask(alice, "PUT", path_of(room_id, "typing", alice.user_id), {"typing": True, "timeout": 9000})
    await stage.bridge.has(await stage.play.send(alice, room_id, "the last"))
    assert all(set(asked.body) == {"events"} for asked in stage.bridge.transactions)
