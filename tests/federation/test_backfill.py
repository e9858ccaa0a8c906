"""History of rooms of other servers: fetched when somebody reads that far."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from homeserver.protocol.events import build
from homeserver.rooms import gaps, sight, state
from homeserver.storage import events, timeline_gaps
from homeserver.web.messages import Response
from tests.deployment import POLICY, User
from tests.federation.guests import given, made
from tests.federation.meetings import enter
from tests.network import Exchange, Network
from tests.rooms.play import Play, ciphertext, text_of
from tests.support import aio

A, B = "a.test", "b.test"


async def joined(network: Network, count: int, **wish: Any) -> tuple[Play, Play, User, User, str, list[str]]:
    """A room of a in which alice sent so many messages before bob of b joined: their texts are numbers."""
    a, b = await network.found(A), await network.found(B)
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, **{"preset": "public_chat", **wish})
    sent = [await a.send(alice, room_id, str(number)) for number in range(count)]
    await enter(b, bob, room_id, A)
    return a, b, alice, bob, room_id, sent


async def page(play: Play, user: User, room_id: str, **query: str) -> dict[str, Any]:
    return await play.ask(user, "GET", f"/rooms/{quote(room_id)}/messages", **{"dir": "b", "limit": "20", **query})


async def read_back(play: Play, user: User, room_id: str, **query: str) -> list[dict[str, Any]]:
    """All that a user gets who reads backwards to the end, newest first."""
    found: list[dict[str, Any]] = []
    at: dict[str, str] = {}
    for _ in range(50):
        answer = await page(play, user, room_id, **query, **at)
        found += answer["chunk"]
        if "end" not in answer:
            return found
        at = {"from": answer["end"]}
    raise AssertionError("there is no end")


def texts(chunk: list[dict[str, Any]]) -> list[str]:
    return [text_of(event) for event in chunk if event["type"] == "m.room.encrypted"]


def asked(network: Network, what: str) -> list[Exchange]:
    return [each for each in network.exchanges if f"/{what}/" in each.target]


@aio
async def test_history_is_fetched_when_somebody_reads_that_far(network: Network) -> None:
    a, b, _, bob, room_id, _ = await joined(network, 250)
    assert asked(network, "backfill") == []
    found = await read_back(b, bob, room_id)
    assert texts(found) == [str(number) for number in reversed(range(250))]
    assert [event["event_id"] for event in found] == (await a.event_ids("tehran", room_id))[::-1]
    assert found[-1]["type"] == "m.room.create"
    assert len(asked(network, "backfill")) <= 5
    network.cut(A, B)
    assert await read_back(b, bob, room_id) == found, "it is here now"
    assert [event["event_id"] for event in await b.timeline(bob, room_id)][:3] == [
        event["event_id"] for event in found[:-4:-1]
    ]


@aio
async def test_sync_shows_none_of_it(network: Network) -> None:
    a, b, alice, bob, room_id, _ = await joined(network, 30)
    since = (await b.ask(bob, "GET", "/sync"))["next_batch"]
    await read_back(b, bob, room_id)
    await a.send(alice, room_id, "new")
    rooms = (await b.ask(bob, "GET", "/sync", since=since)).get("rooms", {})
    assert rooms.get("join", {}).get(room_id, {}).get("timeline", {}).get("events", []) == []
    fresh = await b.ask(bob, "GET", "/sync", filter='{"room":{"timeline":{"limit":40}}}')
    timeline = fresh["rooms"]["join"][room_id]["timeline"]
    assert len(timeline["events"]) > 30, "the first synchronisation has it"


@aio
async def test_two_who_read_share_a_walk(network: Network) -> None:
    _, b, _, bob, room_id, _ = await joined(network, 50)
    carol = await b.user("carol")
    await b.change(carol, room_id, "join")
    await asyncio.gather(*(page(b, user, room_id) for user in (bob, carol, bob)))
    assert len(asked(network, "backfill")) == 1


@aio
async def test_what_cannot_be_had_is_no_error(network: Network) -> None:
    _, b, _, bob, room_id, _ = await joined(network, 5)
    network.cut(A, B)
    first = await page(b, bob, room_id)
    assert [event["type"] for event in first["chunk"]] == ["m.room.member"]
    again = await page(b, bob, room_id, **{"from": first["end"]})
    assert (again["chunk"], "end" in again) == ([], False)
    await b.ask(bob, "GET", f"/rooms/{quote(room_id)}/context/{quote(first['chunk'][0]['event_id'])}")
    network.mend(A, B)
    assert texts((await page(b, bob, room_id))["chunk"]) == [], "not at once"
    await network.clock.advance(gaps.AGAIN_AFTER)
    assert texts((await page(b, bob, room_id))["chunk"]) == ["4", "3", "2", "1", "0"]
    walks = b.server.telemetry.counter("domicile_federation_history_walks", "", ["outcome"])
    assert (walks.value("nothing"), walks.value("found")) == (1, 1)


@aio
async def test_who_does_not_answer_is_waited_for_so_long(network: Network) -> None:
    _, b, _, bob, room_id, _ = await joined(network, 5)
    was_asked, silent = asyncio.Event(), asyncio.Event()

    async def hang(*_: Any, **__: Any) -> list[Any]:
        was_asked.set()
        await silent.wait()
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(b.server.remote, "fetch_history", hang)
        reading = asyncio.ensure_future(page(b, bob, room_id))
        await was_asked.wait()
        await network.clock.advance(gaps.PATIENCE)
        assert len((await reading)["chunk"]) == 1
        silent.set()


@aio
async def test_the_context_of_an_event_reaches_into_history(network: Network) -> None:
    _, b, _, bob, room_id, _ = await joined(network, 40)
    (event,) = (await page(b, bob, room_id, limit="1"))["chunk"]
    path = f"/rooms/{quote(room_id)}/context/{quote(event['event_id'], safe='')}"
    around = await b.ask(bob, "GET", path, limit="20")
    assert texts(around["events_before"]) == [str(number) for number in range(39, 29, -1)]


@aio
async def test_the_state_at_an_event_of_history(network: Network) -> None:
    a, b = await network.found(A), await network.found(B)
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat", name="old")
    event_id = await a.send(alice, room_id, "then")
    await a.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.name", {"name": "new"})
    await enter(b, bob, room_id, A)
    await read_back(b, bob, room_id)
    path = f"/rooms/{quote(room_id)}/context/{quote(event_id, safe='')}"
    around = await b.ask(bob, "GET", path, limit="0")
    names = [event["content"]["name"] for event in around["state"] if event["type"] == "m.room.name"]
    members = [event["state_key"] for event in around["state"] if event["type"] == "m.room.member"]
    assert (names, members) == (["old"], [alice.user_id])


@aio
async def test_each_node_that_reads_gets_it(network: Network) -> None:
    _, b, _, bob, room_id, _ = await joined(network, 10)
    carol = await b.user("fr-carol", "paris")
    await b.change(carol, room_id, "join")
    await b.settle()
    expected = [str(number) for number in reversed(range(10))]
    assert texts(await read_back(b, carol, room_id)) == expected
    assert texts(await read_back(b, bob, room_id)) == expected


@aio
@pytest.mark.parametrize("version", ["1", "2", "3", "6", "10", "12"])
async def test_every_room_version(network: Network, version: str) -> None:
    _, b, _, bob, room_id, _ = await joined(network, 3, room_version=version)
    assert texts(await read_back(b, bob, room_id)) == ["2", "1", "0"]


@aio
async def test_what_happened_while_nobody_of_us_was_there(network: Network) -> None:
    a, b, alice, bob, room_id, _ = await joined(network, 5)
    await b.change(bob, room_id, "leave")
    await network.settle()
    for number in range(30):
        await a.send(alice, room_id, f"away {number}")
    await enter(b, bob, room_id, A)
    found = await read_back(b, bob, room_id)
    expected = [f"away {number}" for number in reversed(range(30))] + [str(number) for number in reversed(range(5))]
    assert texts(found) == expected
    assert [event["event_id"] for event in found] == (await a.event_ids("tehran", room_id))[::-1]


@aio
async def test_a_redaction_from_before_holds(network: Network) -> None:
    a, b, alice, bob, room_id, sent = await joined(network, 10)
    path = f"/rooms/{quote(room_id)}/redact/{quote(sent[3], safe='')}/r1"
    await a.ask(alice, "PUT", path, {})
    late = f"/rooms/{quote(room_id)}/redact/{quote(sent[5], safe='')}/r2"
    await a.ask(alice, "PUT", late, {})
    found = texts(await read_back(b, bob, room_id))
    assert found.count("<redacted>") == 2


@aio
async def test_plaintext_is_not_kept(network: Network) -> None:
    a, b = await network.found(A, top="conformance_mode = true\n"), await network.found(B)
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat")
    encrypt = f"/rooms/{quote(room_id)}/state/m.room.encryption"
    await a.ask(alice, "PUT", encrypt, {"algorithm": "m.megolm.v1.aes-sha2"})
    await a.ask(alice, "PUT", f"/rooms/{quote(room_id)}/send/m.room.message/1", {"msgtype": "m.text", "body": "secret"})
    await a.send(alice, room_id, "sealed")
    await enter(b, bob, room_id, A)
    found = await read_back(b, bob, room_id)
    assert texts(found) == ["sealed"]
    assert "m.room.message" not in {event["type"] for event in found}
    assert found[-1]["type"] == "m.room.create", "the graph is whole all the same"
    rows = await b.node("tehran").read(_everything)
    assert any(b"m.room.message" in client for client in rows)
    assert not any(b"secret" in client for client in rows)


async def _everything(tx: Any) -> list[bytes]:
    return [row[0] for row in await tx.all("SELECT client FROM events")]


# who may see it -----------------------------------------------------------------------------


async def set_visibility(play: Play, user: User, room_id: str, value: str) -> None:
    path = f"/rooms/{quote(room_id)}/state/m.room.history_visibility"
    await play.ask(user, "PUT", path, {"history_visibility": value})


@aio
async def test_who_came_later_does_not_see_what_was_for_members(network: Network) -> None:
    a, b = await network.found(A), await network.found(B)
    alice, bob, carol = await a.user("alice"), await b.user("bob"), await b.user("carol")
    room_id = await a.create(alice, preset="public_chat")
    await set_visibility(a, alice, room_id, "shared")
    await a.send(alice, room_id, "for all who come")
    await set_visibility(a, alice, room_id, "joined")
    await a.send(alice, room_id, "for members")
    await enter(b, bob, room_id, A)
    await b.send(bob, room_id, "bob is in")
    await b.change(bob, room_id, "leave")
    await network.settle()
    await set_visibility(a, alice, room_id, "shared")
    await a.send(alice, room_id, "for all again")
    await enter(b, carol, room_id, A)
    assert texts(await read_back(b, carol, room_id)) == ["for all again", "for all who come"]


@aio
async def test_what_is_hidden_until_its_visibility_is_known(network: Network) -> None:
    """The state before a change of visibility is asked for; where that is not to be had, a doubt is a no."""
    a, b = await network.found(A), await network.found(B)
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, preset="public_chat")
    for number in range(120):
        await a.send(alice, room_id, str(number))
    await set_visibility(a, alice, room_id, "world_readable")
    await enter(b, bob, room_id, A)
    first = await page(b, bob, room_id, limit="5")
    assert texts(first["chunk"]) == ["119", "118", "117"], "what was in force before has been learned"
    assert len(asked(network, "state_ids")) == 1


@aio
async def test_a_doubt_about_visibility_is_a_no(network: Network) -> None:
    _, b, _, _, room_id, _ = await joined(network, 1)
    node = b.node("tehran")
    nid = (await state.get(node, room_id)).nid

    async def place(tx: Any, kind: str, pos: int) -> None:
        await tx.run("UPDATE events SET pos = ? WHERE type = ?", pos, kind)

    async def visible() -> list[tuple[int, str]]:
        return (await node.read(sight.visibilities, [nid]))[nid]

    assert await visible() == [(sight.BEGINNING, "shared")], "in force when we came, and before as far as is known"
    await node.write(place, "m.room.history_visibility", -5)
    assert await visible() == [(sight.BEGINNING, "joined"), (-5, "shared")]
    await node.write(place, "m.room.create", -9)
    assert await visible() == [(-5, "shared")]


# what is not believed -----------------------------------------------------------------------


@aio
async def test_only_what_a_chain_leads_to_is_believed(network: Network) -> None:
    a, b, alice, bob, room_id, sent = await joined(network, 3)
    room = await state.get(a.node("tehran"), room_id)
    stray = await made(network, a, room_id, alice, "m.room.encrypted", ciphertext("stray"))
    forged = dict(stray.pdu(), sender=bob.user_id)
    (row,) = await a.node("tehran").read(events.by_ids, [sent[-1]])
    real = state.parse(room, row).pdu()
    altered = dict(real, content=ciphertext("altered"))
    assert room.rules.event_id_is_hash
    pdus = [stray.pdu(), forged, 7, {}, real, altered]
    await answering(network, "backfill", {"origin": A, "origin_server_ts": 1, "pdus": pdus})
    found = texts((await page(b, bob, room_id))["chunk"])
    assert found == ["2"]
    network.faults.clear()


async def answering(network: Network, what: str, content: dict[str, Any]) -> None:
    """Let a answer this to every question of a kind."""
    site = network.plays[A].deployment.site
    call = site.call

    async def lying(method: str, target: str, **kw: Any) -> Any:
        if f"/{what}/" in target:
            return Response(200, orjson.dumps(content))
        return await call(method, target, **kw)

    site.call = lying  # type: ignore[method-assign]


@pytest.mark.parametrize("place", [-1, -2])
@aio
async def test_an_id_that_is_no_hash_stands_for_one_event(network: Network, place: int) -> None:
    """Servers choose the ids in the oldest rooms: what is meant by one is said by the hash beside it."""
    a, b, alice, bob, room_id, sent = await joined(network, 3, room_version="1")
    room = await state.get(a.node("tehran"), room_id)
    rows = await a.node("tehran").read(events.by_ids, sent)
    real = {row.event_id: state.parse(room, row) for row in rows}
    model = real[sent[place]]
    made_up = build(
        room.rules,
        type=model.type,
        sender=alice.user_id,
        room_id=room_id,
        content=ciphertext("another"),
        prev_events=model.prev_events,
        auth_events=model.auth_events,
        depth=model.depth,
        origin_server_ts=model.origin_server_ts,
        reference_hashes={
            each[0]: each[1]["sha256"] for name in ("prev_events", "auth_events") for each in model.server_fields[name]
        },
        event_id=model.event_id,
        server_name=A,
        key=a.server.identity.key,
    )
    assert made_up.reference_hash != model.reference_hash
    told = [(real | {made_up.event_id: made_up})[event_id].pdu() for event_id in reversed(sent)]
    await answering(network, "backfill", {"origin": A, "origin_server_ts": 1, "pdus": told})
    assert texts((await page(b, bob, room_id))["chunk"]) == ([] if place == -1 else ["2"])
    left_out = b.server.telemetry.counter("domicile_federation_history_left_out", "")
    assert left_out.value() >= 2


@aio
@pytest.mark.parametrize("content", [{}, {"pdus": 5}, {"pdus": [None] * 500}, {"pdus": []}])
async def test_answers_that_are_none(network: Network, content: dict[str, Any]) -> None:
    _, b, _, bob, room_id, _ = await joined(network, 3)
    await answering(network, "backfill", content)
    assert len((await page(b, bob, room_id))["chunk"]) == 1
    network.faults.clear()


@aio
async def test_a_fork_in_history_is_read_whole(network: Network) -> None:
    a, _, alice, bob, room_id, _ = await joined(network, 3)
    carol = await a.user("carol")
    await a.change(carol, room_id, "join")
    c = await network.found("c.test")
    dave = await c.user("dave")
    await enter(c, dave, room_id, A)
    await network.settle()
    fork = await made(network, a, room_id, bob, "m.room.encrypted", ciphertext("branch"))
    await a.send(alice, room_id, "trunk")
    await given(a, room_id, fork)
    await a.send(alice, room_id, "merged")
    d = await network.found("d.test")
    frank = await d.user("frank")
    await enter(d, frank, room_id, A)
    assert set(texts(await read_back(d, frank, room_id))) == {"merged", "trunk", "branch", "2", "1", "0"}


# borders ------------------------------------------------------------------------------------


@aio
async def test_no_history_comes_where_no_flow_leads(network: Network) -> None:
    _, b, _, bob, room_id, _ = await joined(network, 5)
    b.server.policy.now = (await network.found("strict.test", policy=POLICY)).server.policy.now
    exchanges = len(network.exchanges)
    assert texts((await page(b, bob, room_id))["chunk"]) == []
    assert not [each for each in network.exchanges[exchanges:] if each.source == B]


@aio
async def test_gaps_are_found_where_events_are_lacking(network: Network) -> None:
    a, b, _, _, room_id, sent = await joined(network, 3)
    node = b.node("tehran")
    room = await state.get(node, room_id)
    gap = await node.read(timeline_gaps.find, room.nid, node.position, None, 10)
    assert gap == timeline_gaps.Gap(frozenset([sent[-1]]), None)
    assert await node.read(timeline_gaps.find, room.nid, node.position, None, 1) is None
    local = await state.get(a.node("tehran"), room_id)
    assert await a.node("tehran").read(timeline_gaps.find, local.nid, 2**60, None, 100) is None


@aio
async def test_the_memory_of_a_room_does_not_claim_more_than_it_has(network: Network) -> None:
    _, b, _, bob, room_id, _ = await joined(network, 10)
    node = b.node("tehran")
    before = (await state.get(node, room_id)).recent
    await read_back(b, bob, room_id)
    room = await state.get(node, room_id)
    assert room.recent is before
    rows = await node.read(events.timeline_backwards, room.nid, 2**60, room.recent_floor, 1000)
    assert [row.pos for row in reversed(rows)] == [event.pos for event in room.recent]
