"""Rooms of every version between two nodes: created, written to, redacted in, forked and merged."""

from __future__ import annotations

import re
from urllib.parse import quote

import orjson
import pytest

from homeserver.protocol import events
from homeserver.protocol.events import Event
from homeserver.protocol.signers import required_signers
from homeserver.protocol.versions import VERSIONS
from homeserver.rooms import references, seeding, state
from homeserver.rooms.receive import take_in
from homeserver.rooms.state import Room
from homeserver.storage import events as stored
from homeserver.storage.events import Verdict
from tests.deployment import User
from tests.rooms.play import Cast, Play
from tests.rooms.test_outage import breakable, cut_off, reconnect
from tests.support import Databases, aio

ALL = pytest.mark.parametrize("version", VERSIONS)
OPAQUE = pytest.mark.parametrize("version", [each for each, rules in VERSIONS.items() if not rules.event_id_is_hash])


async def cast_of(play: Play, version: str) -> tuple[User, User, User, str]:
    """Alice in Tehran with a room of this version; Bob, who may do something in it, and Dora in Paris."""
    alice, bob, dora = await play.user("alice"), await play.user("bob", "paris"), await play.user("dora", "paris")
    room_id = await play.create(
        alice,
        room_version=version,
        invite=[bob.user_id, dora.user_id],
        power_level_content_override={"users": {bob.user_id: 60}}
        if VERSIONS[version].creators_unlimited
        else {"users": {alice.user_id: 100, bob.user_id: 60}},
    )
    for user in (bob, dora):
        await play.change(user, room_id, "join")
    await play.settle()
    return alice, bob, dora, room_id


async def redact(play: Play, user: User, room_id: str, event_id: str) -> str:
    path = f"/rooms/{quote(room_id)}/redact/{quote(event_id, safe='')}/once"
    return str((await play.ask(user, "PUT", path, {"reason": "slip"}))["event_id"])


async def all_events(play: Play, node: str, room_id: str) -> tuple[Room, dict[str, Event]]:
    """All events in the timeline of a room on a node, parsed."""
    room = await play.replica(node, room_id)
    rows = await play.node(node).read(stored.by_ids, await play.event_ids(node, room_id))
    return room, {row.event_id: state.parse(room, row) for row in rows}


async def assert_sound(play: Play, node: str, room_id: str, version: str) -> None:
    """Whatever a node holds of a room is what another server of the federation would take."""
    room, held = await all_events(play, node, room_id)
    rules, server = VERSIONS[version], play.server
    assert room.rules is rules
    keys = {server.identity.key.key_id: server.identity.key.verify_key}
    shape = r"\$[\w-]{24}:" + re.escape(server.name) if not rules.event_id_is_hash else r"\$[\w+/-]{43}"
    for event_id, event in held.items():
        assert re.fullmatch(shape, event_id)
        pdu = orjson.loads(event.pdu_bytes())
        again = events.from_pdu(rules, pdu)
        assert (again.event_id, again.rest) == (event_id, event.rest)
        assert required_signers(rules, event) == {server.name}
        again.verify(server.name, keys)
        for name in ("prev_events", "auth_events"):
            for reference in pdu[name]:
                if rules.event_id_is_hash:
                    assert reference in held
                else:
                    cited, hashes = reference
                    assert hashes == {"sha256": held[cited].reference_hash}
        if event.type == "m.room.redaction":
            assert event.redacts in held


@ALL
@aio
async def test_a_room_across_two_nodes(play: Play, version: str) -> None:
    alice, bob, dora, room_id = await cast_of(play, version)
    await play.send(alice, room_id, "salaam")
    slip = await play.send(dora, room_id, "salut!!!")
    await play.send(bob, room_id, "salut")
    redaction = await redact(play, dora, room_id, slip)
    await play.send(alice, room_id, "chetori")
    await play.assert_equal(room_id)
    for user in (alice, bob, dora):
        assert await play.texts(user, room_id) == ["salaam", "<redacted>", "salut", "chetori"]
        (found,) = [each for each in await play.timeline(user, room_id) if each["event_id"] == slip]
        assert found["unsigned"]["redacted_because"]["event_id"] == redaction
    kept = (await all_events(play, "paris", room_id))[1][slip]
    assert kept.content == {}
    refused = await play.refused(dora, "PUT", f"/rooms/{quote(room_id)}/redact/{quote(redaction, safe='')}x/t")
    assert refused.status == 404
    for node in ("tehran", "paris"):
        await assert_sound(play, node, room_id, version)


@ALL
@aio
async def test_a_room_forks_and_is_merged(cast: Cast, engines: Databases, version: str) -> None:
    play = await breakable(cast, engines)
    alice, bob, dora, room_id = await cast_of(play, version)
    slip = await play.send(bob, room_id, "before")
    await play.settle()
    topic = f"/rooms/{quote(room_id)}/state/m.room.topic/"
    await play.end()
    await play.ask(alice, "PUT", topic, {"topic": "Tehran's"})
    await play.ask(alice, "PUT", topic, {"topic": "Tehran's indeed"})
    await play.ask(alice, "POST", f"/rooms/{quote(room_id)}/ban", {"user_id": dora.user_id})
    await cut_off(play, engines, "tehran")
    await play.deployment.clock.advance(1)
    await play.ask(bob, "PUT", topic, {"topic": "Paris's"})
    await play.ask(bob, "PUT", f"/rooms/{quote(room_id)}/state/m.room.name/", {"name": "Paris"})
    await redact(play, bob, room_id, slip)
    await play.send(bob, room_id, "alone")
    await reconnect(play, engines, "tehran")
    await play.begin()
    await play.deployment.clock.advance(5)
    await play.assert_equal(room_id, ordered=False)
    assert len((await play.replica("tehran", room_id)).now.tips) == 2
    merging = await play.send(alice, room_id, "merged")
    await play.assert_equal(room_id, ordered=False)
    for name in ("tehran", "paris"):
        room, held = await all_events(play, name, room_id)
        assert room.now.membership(dora.user_id) == "ban"
        assert list(room.now.tips) == [merging]
        assert len(held[merging].prev_events) == 2
        await assert_sound(play, name, room_id, version)
    topics = [(await play.ask(user, "GET", topic))["topic"] for user in (alice, bob)]
    # The first version looks at the depth, which is greater in Tehran; the others at the clock.
    assert topics[0] == topics[1] == ("Tehran's indeed" if version == "1" else "Paris's")
    for user in (alice, bob):
        assert await play.ask(user, "GET", f"/rooms/{quote(room_id)}/state/m.room.name/") == {"name": "Paris"}
        assert sorted(await play.texts(user, room_id)) == ["<redacted>", "alone", "merged"]


@OPAQUE
@aio
async def test_hashes_of_a_room_that_is_not_in_memory(play: Play, version: str) -> None:
    alice, bob, _, room_id = await cast_of(play, version)
    await play.send(bob, room_id, "one")
    await play.settle()
    await play.replica("tehran", room_id)
    play.node("tehran").memory(references.Hashes).held.clear()
    await play.send(alice, room_id, "two")
    await play.assert_equal(room_id)
    await assert_sound(play, "paris", room_id, version)


@OPAQUE
@aio
async def test_an_id_that_is_taken_is_not_given_to_another_event(play: Play, version: str) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.create(alice, room_version=version, invite=[bob.user_id], name="Garden")
    for number in range(seeding.AT_ONCE):
        await play.send(alice, room_id, f"{number}")
    await play.change(bob, room_id, "join")
    await play.settle()
    _, everything = await all_events(play, "tehran", room_id)
    (original,) = [event for event in everything.values() if event.type == "m.room.name"]
    room = await play.replica("paris", room_id)
    assert original.event_id not in await play.event_ids("paris", room_id), "in its place in the history already"
    tip = next(iter(room.now.tips))

    def sent(event_id: str) -> Event:
        return events.build(
            room.rules,
            type="m.room.name",
            sender=alice.user_id,
            room_id=room_id,
            content={"name": "Forged"},
            state_key="",
            prev_events=[tip],
            auth_events=list(original.auth_events),
            depth=room.now.depth + 1,
            origin_server_ts=original.origin_server_ts + 1000,
            reference_hashes={each: event.reference_hash for each, event in everything.items()},
            event_id=event_id,
            server_name=play.server.name,
            key=play.server.identity.key,
        )

    for taken in (original.event_id, tip):
        assert await take_in(play.server, play.node("paris"), room_id, sent(taken)) is None
    assert await play.ask(bob, "GET", f"/rooms/{quote(room_id)}/state/m.room.name/") == {"name": "Garden"}
    given = {key: entry.event_id for key, entry in room.now.state.items()}
    for event in (original.redacted(), sent("$free:" + play.server.name)):
        assert await take_in(play.server, play.node("paris"), room_id, event, given=given) is Verdict.ACCEPTED
    assert await play.ask(bob, "GET", f"/rooms/{quote(room_id)}/state/m.room.name/") == {"name": "Forged"}
