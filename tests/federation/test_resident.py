"""What other servers may ask of a server that is in a room, and what of it is refused."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson
import pytest

from federation import handshake, remote
from homeserver.protocol import events, signing, versions
from homeserver.protocol.events import Event
from tests.deployment import User
from tests.federation.guests import asks, refusal
from tests.federation.meetings import enter, membership, told
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

EVERY = list(versions.VERSIONS)


async def joining(b: Play, room_id: str, user_id: str, kind: str = "join", **content: Any) -> Event:
    """A member event of a user in the place of a template of a.test's, whatever it says."""
    node = b.node("tehran")
    template = await handshake.ask_template(b.server, node, "a.test", room_id, user_id, kind)
    return handshake.fill(b.server, template, room_id, user_id, {"membership": kind, **content})


async def hands_in(b: Play, verb: str, event: Event, **changes: Any) -> tuple[int, str]:
    """Give an event to a.test; returns status and errcode of its refusal."""
    room_id, event_id = changes.pop("room_id", event.room_id), changes.pop("event_id", event.event_id)
    version = "v1" if verb == "knock" else "v2"
    target = f"/_matrix/federation/{version}/send_{verb}/{quote(room_id, safe='')}/{quote(event_id, safe='')}"
    try:
        answer = await remote.ask(b.server, "a.test", "PUT", target, {**event.pdu(), **changes}, most=2**20)
    except remote.RemoteRefusal as refused:
        return refused.status, refused.errcode
    raise AssertionError(f"it answered {answer}")


async def _hall(network: Network, version: str = "11") -> tuple[Play, Play, User, User, str]:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    return a, b, alice, bob, await a.create(alice, preset="public_chat", name="Hidden", room_version=version)


@aio
async def test_templates_are_for_users_of_who_asks(network: Network) -> None:
    _, b, _, bob, room_id = await _hall(network)
    where = f"{quote(room_id, safe='')}"
    for user_id in ("@alice:a.test", "@carol:c.test", "bob", "@bob:b.test:1"):
        for kind in ("join", "leave", "knock"):
            path = f"/make_{kind}/{where}/{quote(user_id, safe='')}"
            assert await refusal(b, "a.test", "GET", path, ver=EVERY) == (403, "M_FORBIDDEN"), (user_id, kind)
    path = f"/make_join/{quote('!none:a.test', safe='')}/{quote(bob.user_id, safe='')}"
    assert await refusal(b, "a.test", "GET", path, ver=EVERY) == (404, "M_NOT_FOUND")


@aio
async def test_a_server_that_does_not_know_the_version_is_told_it(network: Network) -> None:
    a, b, alice, bob, room_id = await _hall(network)
    path = f"/make_join/{quote(room_id, safe='')}/{quote(bob.user_id, safe='')}"
    assert await refusal(b, "a.test", "GET", path) == (400, "M_INCOMPATIBLE_ROOM_VERSION")
    assert await refusal(b, "a.test", "GET", path, ver=["1", "10"]) == (400, "M_INCOMPATIBLE_ROOM_VERSION")
    assert b'"room_version":"11"' in network.exchanges[-1].answer
    assert (await asks(b, "a.test", "GET", path, ver=["1", "11"]))["room_version"] == "11"
    room_id = await a.create(alice, preset="public_chat", room_version="1")
    path = f"/make_join/{quote(room_id, safe='')}/{quote(bob.user_id, safe='')}"
    assert (await asks(b, "a.test", "GET", path))["room_version"] == "1", "who says nothing knows the first"


@aio
async def test_only_the_join_that_is_meant_is_taken_in(network: Network) -> None:
    a, b, alice, bob, room_id = await _hall(network)
    join = await joining(b, room_id, bob.user_id)
    assert await hands_in(b, "join", join, event_id="$other") == (400, "M_INVALID_PARAM")
    assert await hands_in(b, "join", join, room_id="!none:a.test") == (404, "M_NOT_FOUND")
    for name, value in (
        ("type", "m.room.name"),
        ("sender", alice.user_id),
        ("state_key", "@carol:b.test"),
        ("content", {"membership": "leave"}),
        ("depth", "deep"),
        ("prev_events", None),
        ("signatures", {}),
        ("signatures", {"a.test": join.signatures["b.test"]}),
        ("origin_server_ts", join.origin_server_ts + 1),
    ):
        status, errcode = await hands_in(b, "join", join, **{name: value})
        assert (status, errcode) == (400, "M_INVALID_PARAM"), name
    assert await hands_in(b, "leave", join) == (400, "M_INVALID_PARAM")
    assert await hands_in(b, "knock", join) == (400, "M_INVALID_PARAM")
    path = f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}"
    assert (await a.refused(alice, "GET", path)).status == 404, "nobody came in"
    assert b"Hidden" not in network.bytes_out("a.test")


@aio
async def test_what_follows_on_nothing_is_not_taken_in(network: Network) -> None:
    _, b, _, bob, room_id = await _hall(network)
    join = await joining(b, room_id, bob.user_id)
    for name in ("prev_events", "auth_events"):
        pdu = {**join.pdu(), name: ["$" + "A" * 43]}
        del pdu["signatures"], pdu["hashes"]
        forged = events.from_pdu(join.rules, signing.sign_event(join.rules, pdu, "b.test", b.server.identity.key))
        assert (await hands_in(b, "join", forged))[0] in (400, 403), name


@aio
async def test_who_is_banned_or_not_invited_is_not_let_in(network: Network) -> None:
    a, b, alice, bob, room_id = await _hall(network)
    join = await joining(b, room_id, bob.user_id)
    await a.change(alice, room_id, "ban", user_id=bob.user_id)
    assert await hands_in(b, "join", join) == (403, "M_FORBIDDEN")
    private = await a.create(alice)
    path = f"/make_join/{quote(private, safe='')}/{quote(bob.user_id, safe='')}"
    assert await refusal(b, "a.test", "GET", path, ver=EVERY) == (403, "M_FORBIDDEN")
    path = f"/make_leave/{quote(private, safe='')}/{quote(bob.user_id, safe='')}"
    assert await refusal(b, "a.test", "GET", path) == (403, "M_FORBIDDEN")


@aio
async def test_a_join_that_comes_twice_is_one(network: Network) -> None:
    a, b, alice, bob, room_id = await _hall(network)
    join = await joining(b, room_id, bob.user_id)
    target = f"/_matrix/federation/v2/send_join/{quote(room_id, safe='')}/{quote(join.event_id, safe='')}"
    first, second = [await remote.ask(b.server, "a.test", "PUT", target, join.pdu(), most=2**20) for _ in range(2)]
    assert first == second
    assert await membership(a, alice, room_id, bob) == "join"
    assert len([event for event in await a.timeline(alice, room_id) if event.get("state_key") == bob.user_id]) == 1


@aio
async def test_what_proves_a_room_need_not_come_twice(network: Network) -> None:
    _, b, _, bob, room_id = await _hall(network)
    join = await joining(b, room_id, bob.user_id)
    target = f"/_matrix/federation/v2/send_join/{quote(room_id, safe='')}/{quote(join.event_id, safe='')}"

    async def answer(omit: str) -> dict[str, set[str]]:
        found = await remote.ask(b.server, "a.test", "PUT", f"{target}?omit_members={omit}", join.pdu(), most=2**20)
        assert found["members_omitted"] is False
        return {
            part: {events.event_id_of(join.rules, each) for each in found[part]} for part in ("state", "auth_chain")
        }

    twice, once = await answer("false"), await answer("true")
    assert twice["state"] == once["state"]
    assert twice["state"] & twice["auth_chain"]
    assert once["auth_chain"] == twice["auth_chain"] - twice["state"]
    with pytest.raises(remote.RemoteRefusal, match="400"):
        await answer("maybe")


@aio
async def test_an_access_control_list_counts_for_each_request(network: Network) -> None:
    a, b, alice, bob, room_id = await _hall(network)
    join = await joining(b, room_id, bob.user_id)
    await a.change(alice, room_id, "invite", user_id=bob.user_id)
    leave = await joining(b, room_id, bob.user_id, "leave")
    acl = {"allow": ["*"], "deny": ["b.*"]}
    await a.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.server_acl/", acl)
    assert await hands_in(b, "join", join) == (403, "M_FORBIDDEN")
    assert await hands_in(b, "leave", leave) == (403, "M_FORBIDDEN")
    assert await hands_in(b, "knock", join) == (403, "M_FORBIDDEN")
    for kind in ("join", "leave", "knock"):
        path = f"/make_{kind}/{quote(room_id, safe='')}/{quote(bob.user_id, safe='')}"
        assert await refusal(b, "a.test", "GET", path, ver=EVERY) == (403, "M_FORBIDDEN")


@aio
async def test_who_is_not_in_a_room_any_more_does_not_speak_for_it(network: Network) -> None:
    _, b, _, bob, room_id = await _hall(network)
    c = await network.found("c.test")
    carol = await c.user("carol")
    await enter(b, bob, room_id, "a.test")
    await b.change(bob, room_id, "leave")
    await network.settle()
    path = f"/make_join/{quote(room_id, safe='')}/{quote(carol.user_id, safe='')}"
    assert await refusal(c, "b.test", "GET", path, ver=EVERY) == (404, "M_NOT_FOUND")
    assert (await asks(c, "a.test", "GET", path, ver=EVERY))["room_version"] == "11"


# invitations --------------------------------------------------------------------------------------


async def invitation(a: Play, b: Play, alice: User, bob: User, network: Network, version: str) -> dict[str, Any]:
    """The request by which alice invites bob, who blocks it: it can be made again."""
    kind = "m.invite_permission_config"
    path = f"/user/{quote(bob.user_id)}/account_data/{kind}"
    await b.ask(bob, "PUT", path, {"default_action": "block"})
    room_id = await a.create(alice, room_version=version)
    await a.refused(alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": bob.user_id})
    await b.ask(bob, "PUT", path, {"default_action": "allow"})
    (asked,) = [each for each in network.exchanges if "/v2/invite/" in each.target]
    return {"target": asked.target, "room_id": room_id, "body": orjson.loads(asked.body)}


@aio
async def test_only_an_invitation_that_is_meant_is_signed(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    asked = await invitation(a, b, alice, bob, network, "12")
    body, event, preview = asked["body"], asked["body"]["event"], asked["body"]["invite_room_state"]

    async def status(target: str = asked["target"], **changes: Any) -> int:
        try:
            await remote.ask(a.server, "b.test", "PUT", target, {**body, **changes}, most=2**20)
        except remote.RemoteRefusal as refused:
            return refused.status
        return 200

    assert await status(room_version="99") == 400
    assert await status(room_version=None) == 400
    assert await status(event=None) == 400
    for name, value in (
        ("type", "m.room.name"),
        ("sender", "@carol:c.test"),
        ("state_key", alice.user_id),
        ("content", {"membership": "join"}),
        ("signatures", {}),
        ("origin_server_ts", 5),
    ):
        assert await status(event={**event, name: value}) == 400, name
    assert await status(asked["target"][:-3] + "AAA") == 400
    assert await status(invite_room_state=None) == 400, "the m.room.create has to be shown"
    assert await status(invite_room_state=[each for each in preview if each["type"] != "m.room.create"]) == 400
    assert await status(invite_room_state=[*preview, {**preview[0], "signatures": {}}]) == 400
    assert await status(invite_room_state=[*preview, {"type": "m.room.name", "content": {}}]) == 400
    assert await told(b, bob, "invite", asked["room_id"]) is None
    assert await status() == 200
    assert await told(b, bob, "invite", asked["room_id"]) is not None


@aio
async def test_an_invitation_is_brought_by_its_own_server(network: Network) -> None:
    a, b, c = [await network.found(name) for name in ("a.test", "b.test", "c.test")]
    alice, bob = await a.user("alice"), await b.user("bob")
    asked = await invitation(a, b, alice, bob, network, "11")
    pdu = {**asked["body"]["event"], "sender": "@carol:c.test", "signatures": {}, "hashes": {}}
    event = events.from_pdu(
        versions.rules_of("11"), signing.sign_event(versions.rules_of("11"), pdu, "c.test", c.server.identity.key)
    )
    target = f"/_matrix/federation/v2/invite/{quote(asked['room_id'], safe='')}/{quote(event.event_id, safe='')}"
    with pytest.raises(remote.RemoteRefusal, match="400 M_INVALID_PARAM"):
        await remote.ask(a.server, "b.test", "PUT", target, {**asked["body"], "event": event.pdu()}, most=2**20)
    assert await told(b, bob, "invite", asked["room_id"]) is None
    await remote.ask(c.server, "b.test", "PUT", target, {**asked["body"], "event": event.pdu()}, most=2**20)
    assert await told(b, bob, "invite", asked["room_id"]) is not None


@pytest.mark.parametrize("version", ["1", "2", "6"])
@aio
async def test_old_rooms_may_be_shown_by_stripped_state(network: Network, version: str) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    asked = await invitation(a, b, alice, bob, network, version)
    stripped = {"type": "m.room.name", "state_key": "", "sender": alice.user_id, "content": {"name": "Old"}}
    proofless = {**stripped, "type": "m.room.topic", "signatures": {}}
    body = {**asked["body"], "invite_room_state": [stripped, proofless, 5]}
    await remote.ask(a.server, "b.test", "PUT", asked["target"], body, most=2**20)
    shown = await told(b, bob, "invite", asked["room_id"])
    assert shown is not None
    assert [event["type"] for event in shown["invite_state"]["events"]] == ["m.room.name", "m.room.member"]
