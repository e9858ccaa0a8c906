"""Invitations between servers."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson
import pytest

from federation import remote
from homeserver.rooms import proposals, state
from homeserver.rooms.send import Draft
from tests.deployment import POLICY, SETTINGS
from tests.federation.changes import Change, spoil
from tests.federation.meetings import members, membership, told
from tests.network import Network
from tests.support import aio

SHOWN = ("type", "state_key", "sender", "content")


@pytest.mark.parametrize("version", ["1", "6", "10", "12"])
@aio
async def test_an_invitation_is_shown_and_accepted(network: Network, version: str) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob", "paris")
    room_id = await a.create(alice, name="Hall", room_version=version)
    await a.change(alice, room_id, "invite", user_id=bob.user_id, reason="come")
    assert await membership(a, alice, room_id, bob) == "invite"
    shown = await told(b, bob, "invite", room_id)
    assert shown is not None
    seen = {event["type"]: event["content"] for event in shown["invite_state"]["events"]}
    assert seen["m.room.name"] == {"name": "Hall"}
    assert seen["m.room.member"]["reason"] == "come"
    assert "m.room.create" in seen
    await b.change(bob, room_id, "join")
    assert await members(a, alice, room_id) == await members(b, bob, room_id) == {alice.user_id, bob.user_id}


@aio
async def test_whoever_is_invited_while_a_room_is_made_may_come(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, invite=[bob.user_id], is_direct=True)
    shown = await told(b, bob, "invite", room_id)
    assert shown is not None
    (invitation,) = [
        event
        for event in shown["invite_state"]["events"]
        if event["type"] == "m.room.member" and event["state_key"] == bob.user_id
    ]
    assert invitation["content"]["is_direct"] is True
    await b.change(bob, room_id, "join")
    await network.settle()
    await b.send(bob, room_id, "hello")
    await network.settle()
    assert await a.texts(alice, room_id) == ["hello"]


@aio
async def test_an_invitation_into_a_room_that_both_are_in(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob, carol = await a.user("alice"), await b.user("bob"), await b.user("carol", "paris")
    room_id = await a.create(alice, invite=[bob.user_id])
    await b.change(bob, room_id, "join")
    await a.change(alice, room_id, "invite", user_id=carol.user_id)
    await network.settle()
    assert await told(b, carol, "invite", room_id) is not None
    assert await membership(b, bob, room_id, carol) == "invite"
    await b.change(carol, room_id, "join")
    await network.settle()
    assert await members(a, alice, room_id) == {alice.user_id, bob.user_id, carol.user_id}
    await b.assert_equal(room_id)


@aio
async def test_who_takes_no_invitations_is_not_shown_any(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    kind = "m.invite_permission_config"
    await b.ask(bob, "PUT", f"/user/{quote(bob.user_id)}/account_data/{kind}", {"default_action": "block"})
    room_id = await a.create(alice)
    answer = await a.refused(alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
    assert (answer.status, answer.errcode) == (403, "M_INVITE_BLOCKED")
    assert await told(b, bob, "invite", room_id) is None
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
    assert (await a.refused(alice, "GET", path)).status == 404, "nothing was committed"


@aio
async def test_an_invitation_that_cannot_be_brought_is_not_committed(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice)
    network.cut("a.test", "b.test")
    answer = await a.refused(alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
    assert answer.status == 502
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
    assert (await a.refused(alice, "GET", path)).status == 404
    network.mend("a.test", "b.test")
    await a.change(alice, room_id, "invite", user_id=bob.user_id)
    assert await told(b, bob, "invite", room_id) is not None
    nobody = await a.refused(alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": "@nobody:b.test"})
    assert (nobody.status, nobody.errcode) == (404, "M_NOT_FOUND")


@aio
async def test_no_invitation_leaves_where_no_flow_leads(network: Network) -> None:
    a, b = await network.found("a.test", policy=POLICY), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice)
    answer = await a.refused(alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
    assert (answer.status, answer.json["org.domicile.reason"]) == (403, "flow_denied")
    assert not network.bytes_out("a.test")
    assert await a.refused(alice, "POST", "/createRoom", {"invite": [bob.user_id]})
    await network.settle()
    assert not network.bytes_out("a.test")


@aio
async def test_no_invitation_is_taken_from_where_no_flow_leads(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test", policy=POLICY)
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice)
    answer = await a.refused(alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
    assert answer.status == 403
    assert await told(b, bob, "invite", room_id) is None
    assert b'"signatures":{"a.test"' not in network.bytes_out("b.test"), "it was not signed"


@aio
async def test_whoever_is_invited_too_often_is_left_in_peace(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = SETTINGS.replace("enabled = false", "invited = { per_second = 0.001, burst = 2 }")
    monkeypatch.setattr("tests.network.SETTINGS", limited)
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    rooms = [await a.create(alice) for _ in range(3)]
    for room_id in rooms[:2]:
        await a.change(alice, room_id, "invite", user_id=bob.user_id)
    answer = await a.refused(alice, "POST", f"/rooms/{quote(rooms[2])}/invite", {"user_id": bob.user_id})
    assert answer.status == 429
    counter = b.server.telemetry.counter("domicile_federation_invitations", "", ["outcome"])
    assert (counter.value("accepted"), counter.value("limited")) == (2, 1)


@pytest.mark.parametrize(("limit", "others"), [("invite_from_user", 200), ("invite_from_server", 429)])
@aio
async def test_whoever_invites_too_many_is_refused(
    network: Network, monkeypatch: pytest.MonkeyPatch, limit: str, others: int
) -> None:
    """Each invitation is for somebody else, so that none of them is invited too often."""
    limited = SETTINGS.replace("enabled = false", f"{limit} = {{ per_second = 0.001, burst = 2 }}")
    monkeypatch.setattr("tests.network.SETTINGS", limited)
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, zoe = await a.user("alice"), await a.user("zoe")
    invited = [await b.user(name) for name in ("bob", "carol", "dave", "erin")]
    hers, room_id = await a.create(zoe), await a.create(alice)
    for user in invited[:2]:
        await a.change(alice, room_id, "invite", user_id=user.user_id)
    answer = await a.refused(alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": invited[2].user_id})
    assert (answer.status, answer.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert await told(b, invited[2], "invite", room_id) is None
    path = f"/_matrix/client/v3/rooms/{quote(hers)}/invite"
    assert (await zoe.asks("POST", path, {"user_id": invited[3].user_id})).status == others
    counter = b.server.telemetry.counter("domicile_federation_invitations", "", ["outcome"])
    expected = (3, 1) if limit == "invite_from_user" else (2, 0)
    assert (counter.value("accepted"), counter.value("limited")) == expected


@aio
async def test_a_room_is_made_without_who_could_not_be_invited(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob, carol = await a.user("alice"), await b.user("bob"), await a.user("carol")
    network.cut("a.test", "b.test")
    room_id = await a.create(alice, invite=[bob.user_id, carol.user_id])
    assert await told(a, carol, "invite", room_id) is not None
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
    assert (await a.refused(alice, "GET", path)).status == 404


@aio
async def test_guests_must_be_allowed_beside_each_other(network: Network) -> None:
    peers = '[[peers]]\nserver = "b.test"\njurisdiction = "FR"\n'
    one_way = '[[flows]]\nfrom = "IR"\nto = ["FR", "unknown"]\nclasses = ["*"]\nconsent = false\n'
    back = '[[flows]]\nfrom = "FR"\nto = ["IR"]\nclasses = ["*"]\nconsent = false\n'
    a = await network.found("a.test", policy=POLICY + peers + one_way + back)
    alice = await a.user("alice")
    both = {"invite": ["@bob:b.test", "@carol:c.test"]}
    answer = await a.refused(alice, "POST", "/createRoom", both)
    assert (answer.status, answer.json["org.domicile.reason"]) == (403, "flow_denied")
    await network.settle()
    assert not network.bytes_out("a.test")


@aio
async def test_an_invitation_that_is_set_as_state_is_signed_too(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice)
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
    await a.ask(alice, "PUT", path, {"membership": "invite"})
    assert await told(b, bob, "invite", room_id) is not None
    network.cut("a.test", "b.test")
    other = f"/rooms/{quote(room_id)}/state/m.room.member/{quote('@carol:b.test')}"
    assert (await a.refused(alice, "PUT", other, {"membership": "invite"})).status == 502


@aio
async def test_an_older_server_invites(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    network.cut("a.test", "b.test")
    room_id = await a.create(alice, room_version="1", name="Old")
    network.mend("a.test", "b.test")
    node = a.node("tehran")
    room = await state.get(node, room_id)
    draft = Draft("m.room.member", alice.user_id, {"membership": "invite"}, bob.user_id)
    event, preview = await proposals.invitation(a.server, node, room, draft)
    stripped = [{key: orjson.loads(each)[key] for key in SHOWN} for each in preview]
    target = f"/_matrix/federation/v1/invite/{quote(room_id, safe='')}/{quote(event.event_id, safe='')}"
    body = {**event.pdu(), "unsigned": {"invite_room_state": stripped}}
    answer = await remote.ask(a.server, "b.test", "PUT", target, body, most=2**20, paired=True)
    assert orjson.loads(network.exchanges[-1].answer) == [200, answer]
    assert set(answer["event"]["signatures"]) == {"a.test", "b.test"}
    shown = await told(b, bob, "invite", room_id)
    assert shown is not None
    assert {"name": "Old"} in [each["content"] for each in shown["invite_state"]["events"]]


def no_signature(value: Any) -> None:
    """The server of the invited has not signed."""
    del value["event"]["signatures"]["b.test"]


def wrong_signature(value: Any) -> None:
    """It signed something else."""
    by_key = value["event"]["signatures"]["b.test"]
    by_key.update(dict.fromkeys(by_key, "A" * 86))


def another_event(value: Any) -> None:
    """What comes back is not what was sent."""
    value["event"]["content"]["membership"] = "ban"


def no_event(value: Any) -> None:
    """Nothing comes back."""
    del value["event"]


@pytest.mark.parametrize("change", [no_signature, wrong_signature, another_event, no_event])
@aio
async def test_an_invitation_that_comes_back_spoilt_is_not_committed(
    network: Network, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice)
    spoil(network, monkeypatch, "/invite/", change)
    answer = await a.refused(alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
    assert answer.status == 502
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
    assert (await a.refused(alice, "GET", path)).status == 404


@aio
async def test_an_invitation_whose_answer_was_lost_is_made_again(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice)
    network.lose_answers("a.test", "b.test")
    answer = await a.refused(alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
    assert answer.status == 502
    network.mend("a.test", "b.test")
    await a.change(alice, room_id, "invite", user_id=bob.user_id)
    await b.change(bob, room_id, "join")
    assert await members(a, alice, room_id) == await members(b, bob, room_id) == {alice.user_id, bob.user_id}


@aio
async def test_numbers_of_old_rooms_are_no_hindrance(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    odd = {"name": "Old", "half": 0.5, "large": 2**60}
    room_id = await a.create(alice, room_version="5")
    await a.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.name/", odd)
    await a.change(alice, room_id, "invite", user_id=bob.user_id)
    shown = await told(b, bob, "invite", room_id)
    assert shown is not None
    assert odd in [event["content"] for event in shown["invite_state"]["events"]]
    await b.change(bob, room_id, "join")
    assert await b.ask(bob, "GET", f"/rooms/{quote(room_id)}/state/m.room.name/") == odd
