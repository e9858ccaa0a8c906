"""Servers that answer a join with what it should not be: nothing is kept, and the user is out of the room again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from federation.slices import LONGEST
from homeserver.protocol.events import build, pdu_bytes
from homeserver.protocol.signing import sign_event
from homeserver.protocol.versions import rules_of
from homeserver.runtime.exchange import Answer
from homeserver.storage import events
from tests.deployment import POLICY, User, flow
from tests.federation.changes import Change, spoil
from tests.federation.meetings import enter, kept_out, known, members, membership
from tests.network import OPEN, Network
from tests.rooms.play import Play
from tests.support import aio


def _of(value: Any, kind: str) -> Any:
    return next(event for event in value["state"] if event["type"] == kind)


def wrong_signatures(value: Any) -> None:
    """None of the events is signed by who claims to."""
    for event in [*value["state"], *value["auth_chain"]]:
        for by_key in event["signatures"].values():
            by_key.update(dict.fromkeys(by_key, "A" * 86))


def no_create(value: Any) -> None:
    """The state has no beginning."""
    value["state"].remove(_of(value, "m.room.create"))


def not_for_everybody(value: Any) -> None:
    """The state has no join rule, so that only the invited may join."""
    value["state"].remove(_of(value, "m.room.join_rules"))


def nobody_has_power(value: Any) -> None:
    """Who made the rules was never in the room, so that these are not proved."""
    for listed in (value["state"], value["auth_chain"]):
        listed[:] = [event for event in listed if event["type"] != "m.room.member"]


def members_left_out(value: Any) -> None:
    """It says that members were left out."""
    value["members_omitted"] = True


def another_event(value: Any) -> None:
    """What comes back is not our join."""
    value["event"]["content"]["displayname"] = "Mallory"


def no_lists(value: Any) -> None:
    """State and auth chain are none."""
    value["state"], value["auth_chain"] = {}, None


def not_events(value: Any) -> None:
    """They hold anything but events."""
    value["state"][:] = [1, None, [], {"type": 5}, {}]


def far_too_long(value: Any) -> None:
    """One of the events has no end."""
    value["state"].append({"type": "x", "content": {"x": "y" * LONGEST}})


SPOILS = [
    far_too_long,
    wrong_signatures,
    no_create,
    not_for_everybody,
    nobody_has_power,
    members_left_out,
    another_event,
    no_lists,
    not_events,
]


async def _hall(network: Network) -> tuple[Play, Play, User, User, str]:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat", name="Hall", room_version="11")
    await a.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.name/", {"name": "Another"})
    return a, b, alice, bob, room_id


@pytest.mark.parametrize("change", SPOILS, ids=lambda change: change.__name__)
@aio
async def test_a_spoilt_answer_is_refused(network: Network, monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    a, b, alice, bob, room_id = await _hall(network)
    spoil(network, monkeypatch, "send_join", change)
    answer = await kept_out(bob, room_id, "a.test")
    assert answer.status == 502
    assert not await known(b, room_id)
    assert await membership(a, alice, room_id, bob) == "leave", "the user went out again"
    assert (await b.ask(bob, "GET", "/joined_rooms")) == {"joined_rooms": []}
    monkeypatch.undo()
    await enter(b, bob, room_id, "a.test")
    assert await members(b, bob, room_id) == {alice.user_id, bob.user_id}


@pytest.mark.parametrize("how", ["broken off", "twice", "no JSON"])
@aio
async def test_what_is_no_whole_answer_is_refused(network: Network, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    a, b, alice, bob, room_id = await _hall(network)
    carry = network.carry

    async def changed(*args: Any) -> Answer:
        answer: Answer = await carry(*args)
        if "send_join" not in args[3]:
            return answer
        body = answer.body
        whole = {"broken off": body[:-100], "twice": body[:-1] + b"," + body[1:], "no JSON": b"<html>"}[how]
        return Answer(200, answer.headers, whole)

    monkeypatch.setattr(network, "carry", changed)
    assert (await kept_out(bob, room_id, "a.test")).status == 502
    assert not await known(b, room_id)
    assert await membership(a, alice, room_id, bob) == "leave"


async def _pdu(play: Play, event_id: str) -> dict[str, Any]:
    """An event as the server has it, in federation format."""
    (row,) = await play.node("tehran").read(events.by_ids, [event_id])
    found: dict[str, Any] = orjson.loads(pdu_bytes(rules_of("11"), row.client, row.rest))
    return found


@aio
async def test_two_events_for_one_place_are_no_state(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, alice, bob, room_id = await _hall(network)
    old = (await a.timeline(alice, room_id))[-2]
    assert old["type"] == "m.room.name"
    pdu = await _pdu(a, old["event_id"])
    spoil(network, monkeypatch, "send_join", lambda value: value["state"].append(pdu))
    assert (await kept_out(bob, room_id, "a.test")).status == 502
    assert not await known(b, room_id)


@aio
async def test_events_of_another_room_are_refused(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, alice, bob, room_id = await _hall(network)
    other = await a.create(alice, room_version="11")
    made = [await _pdu(a, event["event_id"]) for event in await a.timeline(alice, other)]
    spoil(network, monkeypatch, "send_join", lambda value: value["auth_chain"].extend(made))
    assert (await kept_out(bob, room_id, "a.test")).status == 502
    assert not await known(b, room_id)
    assert not await known(b, other)


@aio
async def test_one_event_that_nobody_signed_is_left_out(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, alice, bob, room_id = await _hall(network)

    def unsign(value: Any) -> None:
        for by_key in _of(value, "m.room.topic")["signatures"].values():
            by_key.update(dict.fromkeys(by_key, "A" * 86))

    await a.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.topic/", {"topic": "x"})
    spoil(network, monkeypatch, "send_join", unsign)
    await enter(b, bob, room_id, "a.test")
    ours = {key for key, _ in await _keys(b, room_id)}
    assert "m.room.topic" not in ours
    assert "m.room.name" in ours


@aio
async def test_who_is_not_in_the_state_any_more_is_not_in_the_room(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, alice, bob, room_id = await _hall(network)
    carol = await a.user("carol")
    await a.change(carol, room_id, "join")
    await enter(b, bob, room_id, "a.test")
    await b.change(bob, room_id, "leave")
    await network.settle()

    def forget(value: Any) -> None:
        value["state"] = [event for event in value["state"] if event.get("state_key") != carol.user_id]

    spoil(network, monkeypatch, "send_join", forget)
    await enter(b, bob, room_id, "a.test")
    room = await b.replica("tehran", room_id)
    assert room.now.joined == 2
    assert room.now.membership(carol.user_id) is None
    assert await members(b, bob, room_id) == {alice.user_id, bob.user_id}


@pytest.mark.parametrize("cites", ["nobody who sent it", "what is not there"])
@aio
async def test_an_event_that_the_rules_do_not_allow_is_left_out(
    network: Network, monkeypatch: pytest.MonkeyPatch, cites: str
) -> None:
    a, b, alice, bob, room_id = await _hall(network)
    held = await a.state_of("tehran", room_id)
    cited = [held["m.room.create", ""], held["m.room.power_levels", ""]]
    if cites == "what is not there":
        cited += [held["m.room.member", alice.user_id], "$" + "A" * 43]
    forged = build(
        rules_of("11"),
        type="m.room.topic",
        sender=alice.user_id if cites == "what is not there" else "@mallory:a.test",
        room_id=room_id,
        content={"topic": "forged"},
        state_key="",
        prev_events=[held["m.room.name", ""]],
        auth_events=cited,
        depth=20,
        origin_server_ts=1,
        server_name="a.test",
        key=a.server.identity.key,
    )
    spoil(network, monkeypatch, "send_join", lambda value: value["state"].append(forged.pdu()))
    await enter(b, bob, room_id, "a.test")
    assert "m.room.topic" not in {kind for kind, _ in await _keys(b, room_id)}
    assert b.server.telemetry.counter("domicile_federation_join_events_left_out", "").value() == 1


async def _keys(play: Play, room_id: str) -> list[tuple[str, str]]:
    return list(await play.state_of("tehran", room_id))


def _set(name: str, value: Any) -> Change:
    def change(answer: Any) -> None:
        answer["event"][name] = value

    return change


def _room_version(version: Any) -> Change:
    def change(answer: Any) -> None:
        answer["room_version"] = version

    return change


TEMPLATES = {
    "another type": _set("type", "m.room.message"),
    "another user": _set("state_key", "@eve:b.test"),
    "another sender": _set("sender", "@eve:b.test"),
    "another room": _set("room_id", "!other:a.test"),
    "another membership": _set("content", {"membership": "leave"}),
    "no content": _set("content", None),
    "no depth": _set("depth", "deep"),
    "below the ground": _set("depth", -1),
    "no references": _set("prev_events", None),
    "bad references": _set("auth_events", [1, {}]),
    "too many references": _set("prev_events", [f"$e{number}" for number in range(50)]),
    "an unknown version": _room_version("99"),
    "no version": _room_version({}),
    "vouched by nobody": _set("content", {"membership": "join", "join_authorised_via_users_server": 5}),
}


@pytest.mark.parametrize("name", TEMPLATES)
@aio
async def test_a_spoilt_template_is_not_signed(network: Network, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _, b, _, bob, room_id = await _hall(network)
    spoil(network, monkeypatch, "make_join", TEMPLATES[name])
    assert (await kept_out(bob, room_id, "a.test")).status == 502
    assert not await known(b, room_id)
    assert not [each for each in network.exchanges if "send_join" in each.target], "nothing was signed for it"


@pytest.mark.parametrize("encryption", [None, {}, {"algorithm": "org.example.none"}, {"algorithm": 1}])
@aio
async def test_a_room_that_is_not_encrypted_is_left_again(network: Network, encryption: dict[str, Any] | None) -> None:
    a, b = await network.found("a.test", settings=""), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await _clear_room(a, alice, encryption)
    answer = await kept_out(bob, room_id, "a.test")
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert answer.json["org.domicile.reason"] == "plaintext_refused"
    assert "not encrypted" in answer.json["error"]
    assert not await known(b, room_id)
    assert await membership(a, alice, room_id, bob) == "leave"


async def _clear_room(play: Play, user: User, encryption: dict[str, Any] | None) -> str:
    """A room without encryption, or with one that is none, as another product would make it."""
    strict = play.server.settings
    claimed = [] if encryption is None else [{"type": "m.room.encryption", "state_key": "", "content": encryption}]
    object.__setattr__(play.server, "settings", replace(strict, conformance_mode=True))
    try:
        return await play.create(user, preset="public_chat", initial_state=claimed)
    finally:
        object.__setattr__(play.server, "settings", strict)


# the link ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["make_join", "send_join"])
@aio
async def test_a_link_that_breaks_leaves_nothing_behind(
    network: Network, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    a, b, _, bob, room_id = await _hall(network)
    carry = network.carry

    async def cut(*args: Any) -> Answer:
        if step in args[3]:
            network.lose_answers("b.test", "a.test")
        return await carry(*args)

    monkeypatch.setattr(network, "carry", cut)
    assert (await kept_out(bob, room_id, "a.test")).status == 502
    assert not await known(b, room_id)
    monkeypatch.undo()
    network.mend("a.test", "b.test")
    await enter(b, bob, room_id, "a.test")
    assert await a.state_of("tehran", room_id) == await b.state_of("tehran", room_id)


@aio
async def test_the_next_server_is_asked_when_one_is_gone(network: Network) -> None:
    _, b, alice, bob, room_id = await _hall(network)
    path = f"/join/{quote(room_id)}?via=gone.test&via=b.test&via=..%2F&via=a.test"
    await b.ask(bob, "POST", path, {})
    assert await members(b, bob, room_id) == {alice.user_id, bob.user_id}


@aio
async def test_a_room_that_nobody_knows(network: Network) -> None:
    _, b, _, bob, _ = await _hall(network)
    assert (await kept_out(bob, "!none:a.test", "a.test")).status == 404
    assert (await kept_out(bob, "!none:b.test", "b.test")).status == 404
    assert not await known(b, "!none:a.test")


# the border -------------------------------------------------------------------------------------

PEER = """
[[peers]]
server = "a.test"
jurisdiction = "FR"
"""
FR_ONLY = flow("IR", "FR") + flow("FR", "IR")


@pytest.mark.parametrize("closed", ["a.test", "b.test"])
@aio
async def test_nobody_joins_where_no_flow_leads(network: Network, closed: str) -> None:
    a = await network.found("a.test", policy=POLICY if closed == "a.test" else OPEN)
    b = await network.found("b.test", policy=POLICY if closed == "b.test" else OPEN)
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat", name="Hidden")
    answer = await kept_out(bob, room_id, "a.test")
    assert answer.status == 403
    await network.settle()
    assert b"Hidden" not in network.bytes_out("a.test")
    assert bob.user_id.encode() not in network.bytes_out("b.test")
    if closed == "b.test":
        assert not [each for each in network.exchanges if each.source == "b.test"]


@aio
async def test_nobody_asks_a_server_with_which_no_room_may_be_shared(network: Network) -> None:
    events_only = '[[flows]]\nfrom = "IR"\nto = ["unknown"]\nclasses = ["events"]\nconsent = false\n'
    a, b = await network.found("a.test"), await network.found("b.test", policy=POLICY + events_only)
    alice, bob = await a.user("alice"), await b.user("bob")
    rules = [{"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}]
    room_id = await a.create(alice, preset="public_chat")
    knocking = await a.create(alice, initial_state=rules)
    for answer in (await kept_out(bob, room_id, "a.test"), await kept_out(bob, knocking, "a.test", "knock")):
        assert answer.json["org.domicile.flow"]["class"] == "keys"
    assert not [each for each in network.exchanges if each.source == "b.test"]


@aio
async def test_a_room_with_a_server_that_it_may_not_span_is_left_again(network: Network) -> None:
    a, c = await network.found("a.test"), await network.found("c.test")
    b = await network.found("b.test", policy=POLICY + FR_ONLY + PEER)
    alice, bob, carol = await a.user("alice"), await b.user("bob"), await c.user("carol")
    room_id = await a.create(alice, preset="public_chat")
    await enter(c, carol, room_id, "a.test")
    answer = await kept_out(bob, room_id, "a.test")
    assert (answer.status, answer.json["org.domicile.reason"]) == (403, "flow_denied")
    assert answer.json["org.domicile.flow"]["to"] == "unknown"
    assert not await known(b, room_id)
    assert await membership(a, alice, room_id, bob) == "leave"
    await network.settle()
    await c.change(carol, room_id, "leave")
    await network.settle()
    await enter(b, bob, room_id, "a.test")
    assert await members(b, bob, room_id) == {alice.user_id, bob.user_id}


@aio
async def test_an_access_control_list_keeps_servers_out(network: Network) -> None:
    a, b, alice, bob, room_id = await _hall(network)
    acl = {"allow": ["*"], "deny": ["b.test"]}
    await a.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.server_acl/", acl)
    assert (await kept_out(bob, room_id, "a.test")).status == 403
    assert not await known(b, room_id)


@aio
async def test_an_id_that_another_room_has_taken_is_refused(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """In old rooms servers choose ids: what is here already is not changed by a room that has the same ones."""
    a, b, c = [await network.found(name) for name in ("a.test", "b.test", "c.test")]
    alice, bob, carol = await a.user("alice"), await b.user("bob"), await c.user("carol")
    room_id = await a.create(alice, preset="public_chat", room_version="1")
    other = await c.create(carol, preset="public_chat", room_version="1", name="Mine")
    await enter(c, carol, room_id, "a.test")
    await enter(b, bob, room_id, "a.test")
    before = await b.state_of("tehran", room_id)
    taken = before["m.room.member", carol.user_id]

    def forge(value: Any) -> None:
        event = _of(value, "m.room.name")
        renamed = {**event, "event_id": taken, "signatures": {}, "hashes": {}}
        event.update(sign_event(rules_of("1"), renamed, "c.test", c.server.identity.key))

    spoil(network, monkeypatch, "send_join", forge)
    assert (await kept_out(bob, other, "c.test")).status == 403
    assert not await known(b, other)
    assert await b.state_of("tehran", room_id) == before
    assert await membership(c, carol, other, bob) == "leave"
