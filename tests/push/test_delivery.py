"""Who has a pusher is told of what comes: by a real gateway, in order, once, and no more than is needed."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from config.load import policy_from_text
from config.policy import Policy
from homeserver.push import lines
from homeserver.push.lines import Followers
from homeserver.rooms.onlookers import Onlookers
from homeserver.storage import pushers as stored
from tests.deployment import FLOWING, SETTINGS, flow, start
from tests.push.gateway import Gateway
from tests.push.stage import PUSH, WATCHED, Put, Stage
from tests.rooms.play import Play
from tests.support import Databases, aio

DAY = 24 * 3600.0


def counter(stage: Stage, name: str, *labels: str) -> float:
    """The value of a counter."""
    found = stage.server.telemetry.counter(name, "", ["outcome" if "notifications" in name else "reason"]).values()
    return found.get(labels, 0)


@aio
async def test_an_event_is_told_with_its_names_and_without_its_content(stage: Stage) -> None:
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    await stage.play.ask(bob, "PUT", f"/profile/{quote(bob.user_id)}/displayname", {"displayname": "Bob"})
    room = await stage.play.room_of(bob, alice)
    await stage.play.ask(bob, "PUT", f"/rooms/{quote(room)}/state/m.room.name", {"name": "Tea"})
    await stage.set(alice, brand="e")
    event_id = await stage.play.send(bob, room, "hello")
    (told,) = await stage.gateway.hears(1)
    assert told.pop("devices") == [
        {
            "app_id": "org.example.app",
            "pushkey": "key",
            "pushkey_ts": stage.server.clock.now_ms() // 1000,
            "data": {"brand": "e"},
            "tweaks": {"sound": "default"},
        }
    ]
    assert told == {
        "event_id": event_id,
        "room_id": room,
        "type": "m.room.encrypted",
        "sender": bob.user_id,
        "sender_display_name": "Bob",
        "room_name": "Tea",
        "prio": "high",
        "counts": {"unread": 1},
    }


@aio
async def test_who_asks_for_event_ids_gets_nothing_else(stage: Stage) -> None:
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room = await stage.play.room_of(bob, alice)
    await stage.set(alice, format="event_id_only")
    event_id = await stage.play.send(bob, room, "hello")
    (told,) = await stage.gateway.hears(1)
    (device,) = told.pop("devices")
    assert set(device) == {"app_id", "pushkey", "pushkey_ts", "data"}
    assert device["data"] == {"format": "event_id_only"}
    assert told == {"event_id": event_id, "room_id": room, "prio": "high", "counts": {"unread": 1}}


@aio
async def test_no_details_where_the_operator_wants_none(put: Put) -> None:
    stage = await put(settings=SETTINGS + "[push]\ndetails = false\n")
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room = await stage.play.room_of(bob, alice)
    await stage.set(alice)
    await stage.play.send(bob, room, "hello")
    (told,) = await stage.gateway.hears(1)
    assert set(told) == {"event_id", "room_id", "prio", "counts", "devices"}


@aio
async def test_it_comes_in_order_from_whatever_node_and_not_to_who_sent_it(stage: Stage) -> None:
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob", "paris")
    room = await stage.play.room_of(bob, alice)
    await stage.set(alice)
    await stage.set(bob, "bobs")
    sent = [await stage.play.send(bob, room, str(number)) for number in range(5)]
    told = await stage.gateway.hears(5)
    assert [each["event_id"] for each in told] == sent
    assert [each["counts"]["unread"] for each in told][-1] == 5
    answer = await stage.play.send(alice, room, "an answer")
    await stage.play.settle()
    while answer not in stage.gateway.events:
        await stage.gateway.hears(len(stage.gateway.told) + 1)
    for_alice = [each for each in stage.gateway.told if each["devices"][0]["pushkey"] == "key"]
    assert answer not in [each.get("event_id") for each in for_alice]


@aio
async def test_who_has_no_pusher_costs_nothing(stage: Stage) -> None:
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room = await stage.play.room_of(bob, alice)
    node = stage.play.node("tehran")
    await stage.looked(node)
    await stage.play.send(bob, room, "hello")
    assert not node.memory(Onlookers).wanted
    assert not node.memory(Onlookers).arrived
    await stage.set(alice)
    assert node.memory(Onlookers).wanted
    await alice.asks("POST", "/_matrix/client/v3/pushers/set", {**stage.gateway.pusher(), "kind": None})
    await stage.looked(node)
    assert not node.memory(Onlookers).wanted
    assert not node.memory(Followers).by_nid
    await stage.play.send(bob, room, "again")
    assert stage.gateway.told == []


@aio
async def test_rules_decide(stage: Stage) -> None:
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    quiet, loud = await stage.play.room_of(bob, alice), await stage.play.room_of(bob, alice)
    rule = f"/pushrules/global/room/{quote(quiet)}"
    await stage.play.ask(alice, "PUT", rule, {"actions": []})
    await stage.play.ask(alice, "PUT", f"/pushrules/global/override/{quote('mine')}", {"actions": [], "conditions": []})
    await stage.play.ask(alice, "PUT", "/pushrules/global/override/mine/enabled", {"enabled": False})
    await stage.set(alice)
    await stage.play.send(bob, quiet, "hush")
    heard = await stage.play.send(bob, loud, "hello")
    await stage.gateway.hears(1)
    assert stage.gateway.events == [heard]
    await stage.play.ask(alice, "PUT", "/pushrules/global/override/mine/enabled", {"enabled": True})
    await stage.play.send(bob, loud, "not any more")
    await stage.quiet(stage.play.node("tehran"))
    assert stage.gateway.events == [heard]


@aio
async def test_what_was_read_is_not_told_but_how_much_is_left(stage: Stage) -> None:
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room, other = await stage.play.room_of(bob, alice), await stage.play.room_of(bob, alice)
    await stage.set(alice)
    stage.gateway.status = 503
    first = await stage.play.send(bob, room, "one")
    second = await stage.play.send(bob, other, "two")
    await stage.gateway.was_tried(1)
    await stage.quiet(stage.play.node("tehran"))
    await stage.read(alice, room, first)
    await stage.looked(stage.play.node("tehran"))
    stage.gateway.status = 200
    await stage.play.deployment.clock.advance(10)
    (told,) = await stage.gateway.hears(1)
    assert (told["event_id"], told["counts"]) == (second, {"unread": 1})
    await stage.read(alice, other, second)
    await stage.looked(stage.play.node("tehran"))
    await stage.play.deployment.clock.advance(2)
    counts = (await stage.gateway.hears(2))[1]
    assert set(counts) == {"prio", "counts", "devices"}
    assert (counts["counts"], counts["prio"]) == ({"unread": 0}, "low")
    await stage.read(alice, other, second)  # once more: nothing has changed
    await stage.looked(stage.play.node("tehran"))
    await stage.play.deployment.clock.advance(2)
    await stage.quiet(stage.play.node("tehran"))
    assert len(stage.gateway.told) == 2


@aio
async def test_who_answers_has_read_what_came_before(stage: Stage) -> None:
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room = await stage.play.room_of(bob, alice)
    await stage.set(alice)
    stage.gateway.status = 503
    await stage.play.send(bob, room, "one")
    await stage.gateway.was_tried(1)
    await stage.play.send(alice, room, "I am here")
    stage.gateway.status = 200
    last = await stage.play.send(bob, room, "two")
    await stage.quiet(stage.play.node("tehran"))
    await stage.play.deployment.clock.advance(10)
    await stage.gateway.hears(1)
    assert stage.gateway.events == [last]


@aio
async def test_a_gateway_that_is_away_is_tried_again_ever_more_seldom(stage: Stage) -> None:
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room, clock = await stage.play.room_of(bob, alice), stage.play.deployment.clock
    node = stage.play.node("tehran")
    await stage.set(alice)
    stage.gateway.status = 500
    sent = [await stage.play.send(bob, room, str(number)) for number in range(3)]
    pauses: list[float] = []
    for attempt in range(1, 6):
        await stage.gateway.was_tried(attempt)
        await stage.quiet(node)
        (line,) = node.memory(Followers).lines()
        pauses.append((line.retry_ts - clock.now_ms()) / 1000)
        if attempt < 5:
            await clock.advance(pauses[-1] + 0.01)
    assert all(0.75 * 2**number <= pause <= 2**number for number, pause in enumerate(pauses, 1)), pauses
    stage.gateway.status = 200
    await clock.advance(pauses[-1] + 0.01)
    await stage.gateway.hears(3)
    assert stage.gateway.events == sent
    await stage.quiet(node)
    (line,) = node.memory(Followers).lines()
    assert (line.failures, line.retry_ts, len(line.queue)) == (0, 0, 0)


@aio
async def test_what_waits_is_bounded_and_given_up_after_a_day(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_DUE", 3)
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room, clock, node = await stage.play.room_of(bob, alice), stage.play.deployment.clock, stage.play.node("tehran")
    await stage.set(alice)
    stage.gateway.status = 500
    sent = [await stage.play.send(bob, room, str(number)) for number in range(5)]
    await stage.gateway.was_tried(1)
    await stage.quiet(node)
    (line,) = node.memory(Followers).lines()
    assert [due.event.event_id for due in line.queue] == sent[2:]
    assert counter(stage, "domicile_push_dropped", "too many") == 2
    while counter(stage, "domicile_push_dropped", "gateway away") == 0:
        tried = stage.gateway.tried
        await clock.advance(30 * 60.0)
        await stage.gateway.was_tried(tried + 1)
        await stage.quiet(node)
    assert clock.monotonic() >= DAY
    assert (len(line.queue), line.failures) == (0, 0)
    stage.gateway.status = 200
    last = await stage.play.send(bob, room, "much later")
    await stage.gateway.hears(1)
    assert stage.gateway.events == [last]


@aio
async def test_a_pusher_that_its_gateway_knows_no_more_is_removed(stage: Stage) -> None:
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room = await stage.play.room_of(bob, alice)
    await stage.set(alice, "old")
    stage.gateway.rejects = ["old", "somebody else's"]
    await stage.play.send(bob, room, "hello")
    await stage.gateway.hears(1)
    await stage.quiet(stage.play.node("tehran"))
    assert await stage.pushers(alice) == []
    stage.gateway.rejects = []
    await stage.play.send(bob, room, "again")
    await stage.quiet(stage.play.node("tehran"))
    assert len(stage.gateway.told) == 1
    assert counter(stage, "domicile_push_notifications", "rejected") == 1


@aio
async def test_a_pusher_goes_with_its_device(stage: Stage) -> None:
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room = await stage.play.room_of(bob, alice)
    await stage.set(alice)
    assert (await alice.asks("POST", "/_matrix/client/v3/logout", {})).status == 200
    await stage.play.send(bob, room, "hello")
    await stage.quiet(stage.play.node("tehran"))
    assert stage.gateway.told == []
    assert stage.play.node("tehran").memory(Followers).lines() == []


@aio
async def test_several_pushers_of_one_user_are_told_each(stage: Stage) -> None:
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room = await stage.play.room_of(bob, alice)
    await stage.set(alice, "one")
    await stage.set(alice, "two")
    event_id = await stage.play.send(bob, room, "hello")
    told = await stage.gateway.hears(2)
    assert {each["devices"][0]["pushkey"] for each in told} == {"one", "two"}
    assert stage.gateway.events == [event_id] * 2


@pytest.mark.parametrize("home", ["tehran", "paris"])
@aio
async def test_an_invitation_is_told_wherever_the_room_is(stage: Stage, home: str) -> None:
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob", home)
    await stage.set(alice)
    room = await stage.play.create(bob, invite=[alice.user_id], name="Tea")
    (told,) = await stage.gateway.hears(1)
    assert told["room_id"] == room
    assert (told["type"], told["sender"], told["user_is_target"]) == ("m.room.member", bob.user_id, True)
    assert told["content"] == {"membership": "invite"}
    assert told["prio"] == "high"


@aio
async def test_an_invitation_that_is_over_is_not_told(stage: Stage) -> None:
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    await stage.set(alice)
    stage.gateway.status = 503
    room = await stage.play.create(bob, invite=[alice.user_id])
    await stage.gateway.was_tried(1)
    await stage.play.change(bob, room, "kick", user_id=alice.user_id)
    stage.gateway.status = 200
    await stage.looked(stage.play.node("tehran"))
    await stage.play.deployment.clock.advance(10)
    await stage.quiet(stage.play.node("tehran"))
    assert stage.gateway.events == []


@aio
async def test_what_ignored_users_do_is_not_told(stage: Stage) -> None:
    alice, bob, carol = [await stage.play.user(name) for name in ("alice", "bob", "carol")]
    room = await stage.play.room_of(bob, alice, carol)
    content: dict[str, Any] = {"ignored_users": {bob.user_id: {}}}
    await stage.play.ask(alice, "PUT", f"/user/{alice.user_id}/account_data/m.ignored_user_list", content)
    await stage.set(alice)
    await stage.play.send(bob, room, "hello?")
    await stage.play.create(bob, invite=[alice.user_id])
    heard = await stage.play.send(carol, room, "hello")
    await stage.gateway.hears(1)
    await stage.quiet(stage.play.node("tehran"))
    assert stage.gateway.events == [heard]


# residency ----------------------------------------------------------------------------------


def flows(*classes: str) -> str:
    """Flows from Iran to where the gateway is."""
    return (
        FLOWING
        + f"""
[[peers]]
server = "{PUSH}"
jurisdiction = "X-CLOUD"
[jurisdictions.X-CLOUD]
name = "Cloud"
"""
        + flow("IR", "X-CLOUD", classes=classes)
    )


@aio
async def test_a_gateway_to_which_nothing_may_go_is_refused(put: Put) -> None:
    stage = await put(policy=flows("events", "keys"))
    alice = await stage.play.user("alice")
    answer = await stage.sets(alice)
    assert (answer.status, answer.errcode, answer.json["org.domicile.reason"]) == (403, "M_FORBIDDEN", "flow_denied")
    assert answer.json["org.domicile.flow"] == {"from": "IR", "to": "X-CLOUD", "class": "notifications"}
    assert await stage.pushers(alice) == []


@aio
async def test_where_events_may_not_go_no_details_do(put: Put) -> None:
    stage = await put(policy=flows("notifications"))
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room = await stage.play.room_of(bob, alice)
    await stage.set(alice)
    await stage.play.send(bob, room, "hello")
    (told,) = await stage.gateway.hears(1)
    assert set(told) == {"event_id", "room_id", "prio", "counts", "devices"}
    await stage.quiet(stage.play.node("tehran"))
    crossed = stage.server.telemetry.counter("domicile_federation_bytes", "", ["source", "target"]).values()
    assert crossed["IR", "X-CLOUD"] > 100
    assert crossed["X-CLOUD", "IR"] > 0


@aio
async def test_a_policy_that_changed_holds_for_what_waits(put: Put) -> None:
    stage = await put(policy=flows("notifications"))
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room = await stage.play.room_of(bob, alice)
    await stage.set(alice)
    stage.server.policy.now = policy(flows("keys"))
    await stage.play.send(bob, room, "hello")
    await stage.quiet(stage.play.node("tehran"))
    assert stage.gateway.tried == 0
    assert counter(stage, "domicile_push_notifications", "withheld") == 1
    assert await stage.pushers(alice) == ["key"]


def policy(text: str) -> Policy:
    """A policy from its text."""
    return policy_from_text(text, "residency.toml", "example.org")


@aio
async def test_private_addresses_are_not_connected_to(stage: Stage) -> None:
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room = await stage.play.room_of(bob, alice)
    inside: Gateway = Gateway(f"127.0.0.1:{stage.gateway.port}")
    assert (await alice.asks("POST", "/_matrix/client/v3/pushers/set", inside.pusher())).status == 200
    await stage.looked(stage.play.node("tehran"))
    await stage.play.send(bob, room, "hello")
    await stage.quiet(stage.play.node("tehran"))
    assert stage.gateway.tried == 0
    assert stage.outbound.internet.dialled == []
    assert counter(stage, "domicile_push_notifications", "failed") == 1


# restarts -----------------------------------------------------------------------------------


@aio
async def test_what_came_while_nobody_looked_is_told(put: Put) -> None:
    stage = await put(begin=False)
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room, read = await stage.play.room_of(bob, alice), await stage.play.room_of(bob, alice)
    assert (await stage.sets(alice)).status == 200
    sent = [await stage.play.send(bob, room, str(number)) for number in range(3)]
    await stage.read(alice, read, await stage.play.send(bob, read, "this one is read"))
    asked = await stage.play.create(bob, invite=[alice.user_id])
    stage.begin()
    told = await stage.gateway.hears(4)
    assert [each["event_id"] for each in told][:3] == sent
    assert told[3]["room_id"] == asked


@aio
async def test_a_restart_keeps_the_pause_and_loses_and_doubles_nothing(put: Put, engines: Databases) -> None:
    stage = await put()
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob")
    room, clock, node = await stage.play.room_of(bob, alice), stage.play.deployment.clock, stage.play.node("tehran")
    await stage.set(alice)
    heard = await stage.play.send(bob, room, "heard")
    await stage.gateway.hears(1)
    stage.gateway.status = 500
    sent = [await stage.play.send(bob, room, str(number)) for number in range(3)]
    for attempt in range(2, 8):
        await stage.gateway.was_tried(attempt)
        await stage.quiet(node)
        (line,) = node.memory(Followers).lines()
        # Not beyond the next attempt, whose own limits of time would pass before it has begun.
        await clock.advance((line.retry_ts - clock.now_ms()) / 1000 + 0.01 if attempt < 7 else 1.0)
    left = (line.retry_ts - clock.now_ms()) / 1000
    await stage.play.end()
    await stage.end()
    (row,) = await node.read(stored.of_users, [line.owner.user_nid])
    assert (row.failures, row.retry_ts, row.pushed_to) == (6, line.retry_ts, line.pushed_to)

    stage.gateway.status = 200
    tried = stage.gateway.tried
    again = stage.again(Play(await start(engines, policy=WATCHED, clock=clock)))
    again.begin()
    await again.quiet(again.play.node("tehran"))
    await clock.advance(left - 0.5)
    await again.quiet(again.play.node("tehran"))
    assert stage.gateway.tried == tried
    await clock.advance(1.0)
    await stage.gateway.hears(4)
    assert stage.gateway.events == [heard, *sent]
    await again.quiet(again.play.node("tehran"))
    await again.close()

    once_more = stage.again(Play(await start(engines, policy=WATCHED, clock=clock)))
    once_more.begin()
    await once_more.quiet(once_more.play.node("tehran"))
    assert len(stage.gateway.events) == 4
    await once_more.close()
