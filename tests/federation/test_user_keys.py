"""Public keys between servers: asked for, claimed, kept by the nodes that share rooms, and kept up to date."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest

from federation import remote
from homeserver.e2ee import remote_lists
from homeserver.protocol.errors import Refusal
from homeserver.runtime.exchange import Answer
from homeserver.runtime.outbound import Place
from homeserver.storage import key_copies, rooms, streams, users
from homeserver.storage.engine import Transaction
from homeserver.storage.nodes import Node
from homeserver.storage.streams import Stream
from tests.deployment import FLOWING, User
from tests.e2ee.play import Device, Identity
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

QUERY = "/_matrix/federation/v1/user/keys/query"

IN_ONLY = FLOWING + '[[flows]]\nfrom = "unknown"\nto = ["IR", "FR"]\nclasses = ["*"]\nconsent = false\n'
"""Servers that nobody has placed may tell us things, and we tell them nothing."""


async def device_of(play: Play, localpart: str, node: str = "tehran") -> Device:
    """Make an account whose device has published its keys."""
    device = Device(await play.user(localpart, node))
    await device.publish()
    return device


async def move(node: Node, room_id: str, user_id: str, membership: str = "join") -> None:
    """Let the node believe that somebody of another server has this membership in a room."""

    async def write(tx: Transaction) -> None:
        users.intern(tx, [user_id])
        room = await rooms.find(tx, room_id)
        assert room is not None
        pos = await streams.allocate(tx)
        rooms.set_membership(tx, [(user_id, room.room_nid, membership, 0, pos)])
        tx.after_commit(lambda: node.announce(pos, [(Stream.MEMBERS, [room.room_nid])]))

    await node.advance(write)


async def share(here: Play, user: User, other: Device, node: str = "tehran") -> str:
    """A room of a user in which somebody of another server is."""
    room_id = await here.create(user)
    await move(here.node(node), room_id, other.user_id)
    return room_id


async def copies(node: Node) -> dict[str, tuple[int | None, bool]]:
    """The users of other servers of whose keys a node holds a copy: version, and whether it is stale."""

    async def read(tx: Transaction) -> dict[str, tuple[int | None, bool]]:
        sql = "SELECT user_id, stream_id, stale FROM remote_device_lists JOIN users USING (user_nid)"
        return {row[0]: (row[1], bool(row[2])) for row in await tx.all(sql)}

    return await node.read(read)


def questions(network: Network, path: str = QUERY) -> int:
    """How often one server has asked another for this."""
    return sum(exchange.target.startswith(path) for exchange in network.exchanges)


def lie(network: Network, monkeypatch: pytest.MonkeyPatch, path: str, told: dict[str, Any]) -> None:
    """Let every server answer questions to this path so, whatever is true."""
    carry = network.carry

    async def carried(source: str, place: Place, method: str, target: str, *rest: Any) -> Answer:
        answer = await carry(source, place, method, target, *rest)
        return replace(answer, body=orjson.dumps(told)) if target.startswith(path) else answer

    monkeypatch.setattr(network, "carry", carried)


async def towns(network: Network) -> tuple[Play, Play]:
    """Two deployments."""
    return await network.found("here.test"), await network.found("there.test")


# asking -------------------------------------------------------------------------------------


@aio
async def test_the_keys_of_another_servers_users(network: Network) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    pierre = await device_of(there, "pierre", "paris")
    bobs = Identity(bob.user_id)
    await bob.user.asks(
        "POST",
        "/_matrix/client/v3/keys/device_signing/upload",
        {**bobs.upload(), "auth": {"type": "m.login.password"}},
    )
    answer = await alice.query(alice, bob, pierre)
    assert answer["failures"] == {}
    assert answer["device_keys"][bob.user_id] == {bob.device_id: bob.device_keys()}
    assert answer["device_keys"][pierre.user_id] == {pierre.device_id: pierre.device_keys()}
    assert answer["master_keys"][bob.user_id]["keys"] == bobs.master_key()["keys"]
    assert answer["self_signing_keys"][bob.user_id]["usage"] == ["self_signing"]
    assert bob.user_id not in answer["user_signing_keys"]
    assert questions(network) == 1, "one question to a server, whoever is asked about"
    assert await copies(here.node("tehran")) == {}, "nobody shares a room with them"
    sent = network.bytes_out("there.test")
    assert b"bob's phone" not in sent
    assert b"user_signing" not in sent


@aio
async def test_a_user_of_another_server_is_signed(network: Network) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    alices, bobs = Identity(alice.user_id), Identity(bob.user_id)
    for device, identity in ((alice, alices), (bob, bobs)):
        assert (await device.asks("POST", "/keys/device_signing/upload", identity.upload())).status == 200
    signed = alices.by(alices.user_signing, bobs.master_key())
    name = bobs.master.verify_key.base64
    answer = await alice.gets("POST", "/keys/signatures/upload", {bob.user_id: {name: signed}})
    assert answer["failures"] == {}
    shown = (await alice.query(bob))["master_keys"][bob.user_id]
    assert shown["signatures"][alice.user_id] == signed["signatures"][alice.user_id]
    assert b"user_signing" not in network.bytes_out("here.test")
    network.cut("here.test", "there.test")
    answer = await alice.gets("POST", "/keys/signatures/upload", {"@carol:there.test": {name: signed}})
    assert answer["failures"]["@carol:there.test"][name]["errcode"] == "M_NOT_FOUND"


@aio
async def test_what_is_asked_once_is_kept_where_a_room_is_shared(network: Network) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    claire = await device_of(here, "claire", "paris")
    room_id = await share(here, alice.user, bob)
    for _ in range(3):
        assert set((await alice.query(bob))["device_keys"][bob.user_id]) == {bob.device_id}
    assert questions(network) == 1
    assert set(await copies(here.node("tehran"))) == {bob.user_id}
    await claire.query(bob)
    assert questions(network) == 2
    assert await copies(here.node("paris")) == {}, "no room is shared there"
    await move(here.node("tehran"), room_id, bob.user_id, "leave")
    await alice.query(bob)
    await move(here.node("tehran"), room_id, bob.user_id)
    before = questions(network)
    await alice.query(bob)
    assert questions(network) == before + 1, "what was kept before the gap counts no more"


@aio
async def test_a_server_that_does_not_answer_is_named(network: Network) -> None:
    here, there = await towns(network)
    await network.found("far.test")
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    network.cut("here.test", "far.test")
    asked: dict[str, Any] = {"device_keys": {bob.user_id: [], "@x:far.test": [], "@y:nowhere.test": []}}
    answer = await alice.gets("POST", "/keys/query", asked)
    assert set(answer["device_keys"]) == {bob.user_id}
    assert set(answer["failures"]) == {"far.test", "nowhere.test"}
    assert answer["failures"]["far.test"]["error"] == "far.test could not be reached"
    itself = await alice.gets("POST", "/keys/query", {"device_keys": {"@x:HERE.test": []}})
    assert set(itself["failures"]) == {"HERE.test"}
    late = await alice.gets("POST", "/keys/query", {"device_keys": {bob.user_id: []}, "timeout": 0})
    assert (late["device_keys"], set(late["failures"])) == ({}, {"there.test"})


@aio
async def test_a_user_whose_node_is_down_holds_up_nobody(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = await towns(network)
    alice = await device_of(here, "alice")
    bob, pierre = await device_of(there, "bob"), await device_of(there, "pierre", "paris")
    await there.node("paris").engine.close()
    assert set((await alice.query(bob, pierre))["device_keys"]) == {bob.user_id}
    alone = await alice.query(pierre)
    assert (alone["device_keys"], set(alone["failures"])) == ({}, {"there.test"})


@aio
async def test_keys_that_are_not_what_they_should_be_are_shown_to_nobody(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    mallory = await device_of(there, "mallory")
    good, hers = bob.device_keys(), mallory.device_keys()
    bobs, others = Identity(bob.user_id), Identity(bob.user_id)
    forged: dict[str, Any] = {
        bob.device_id: {**good, "algorithms": ["m.other"]},
        "OTHER": good,
        "HERS": {**hers, "user_id": bob.user_id},
        "UNSIGNED": {**good, "device_id": "UNSIGNED", "signatures": {}},
        "NOTHING": None,
    }
    answer: dict[str, Any] = {
        "device_keys": {bob.user_id: forged, "@unasked:there.test": {"X": good}},
        "master_keys": {bob.user_id: bobs.master_key()},
        "self_signing_keys": {bob.user_id: others.upload()["self_signing_key"]},
    }

    lie(network, monkeypatch, QUERY, answer)
    shown = await alice.query(bob)
    assert shown["device_keys"] == {bob.user_id: {}}
    assert shown["master_keys"] == {bob.user_id: {**bobs.master_key(), "signatures": {}}}
    assert shown["self_signing_keys"] == {}
    answer["device_keys"] = {bob.user_id: {**forged, bob.device_id: good}}
    assert (await alice.query(bob))["device_keys"] == {bob.user_id: {bob.device_id: good}}
    cases: list[dict[str, Any]] = [{}, {"device_keys": []}, {"device_keys": {bob.user_id: 5}, "master_keys": 7}]
    for nonsense in cases:
        answer.clear()
        answer.update(nonsense)
        assert (await alice.query(bob))["device_keys"] == {}


# claiming -----------------------------------------------------------------------------------


@aio
async def test_one_time_keys_of_other_servers_are_given_out_once(network: Network) -> None:
    here, there = await towns(network)
    alice, carol = await device_of(here, "alice"), await device_of(here, "carol")
    bob = Device(await there.user("bob"))
    keys = bob.one_time_keys("AAAAAA", "AAAAAB")
    await bob.publish(one_time_keys=keys)
    await carol.publish(one_time_keys=carol.one_time_keys("C"))
    found = [await alice.claim(bob, carol), await alice.claim(bob), await alice.claim(bob)]
    assert set(found[0]["one_time_keys"]) == {bob.user_id, carol.user_id}
    given = [list(each["one_time_keys"].get(bob.user_id, {}).get(bob.device_id, {}).items()) for each in found]
    assert [key for part in given for key in part] == list(keys.items())
    assert given[2] == []
    assert [each["failures"] for each in found] == [{}, {}, {}]
    network.cut("here.test", "there.test")
    assert set((await alice.claim(bob))["failures"]) == {"there.test"}


@aio
async def test_a_claimed_key_is_the_one_that_was_asked_for(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    key = bob.one_time_keys("X")
    given: dict[str, Any] = {}
    told = {"one_time_keys": {bob.user_id: given, alice.user_id: {alice.device_id: key}}}
    lie(network, monkeypatch, "/_matrix/federation/v1/user/keys/claim", told)
    for nonsense in ({bob.device_id: {"other:X": "k"}}, {bob.device_id: {"signed_curve25519:X": 5}}, {"OTHER": key}):
        given.clear()
        given.update(nonsense)
        assert (await alice.claim(bob))["one_time_keys"] == {}
    given[bob.device_id] = {"other:X": "k", **key}
    assert (await alice.claim(bob))["one_time_keys"] == {bob.user_id: {bob.device_id: key}}


# borders ------------------------------------------------------------------------------------


@aio
async def test_no_key_comes_in_where_no_flow_leads(network: Network) -> None:
    here, there = await network.found("here.test", policy=FLOWING), await network.found("there.test")
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    for answer in (await alice.query(bob), await alice.claim(bob)):
        assert set(answer["failures"]) == {"there.test"}
        assert answer["failures"]["there.test"]["org.domicile.flow"] == {
            "from": "unknown",
            "to": "IR",
            "class": "keys",
        }
    assert network.bytes_out("here.test") == b""


@aio
async def test_no_key_goes_out_where_no_flow_leads(network: Network) -> None:
    here, there = await network.found("here.test"), await network.found("there.test", policy=FLOWING)
    alice = await device_of(here, "alice")
    bob = Device(await there.user("bob"))
    await bob.publish(one_time_keys=bob.one_time_keys("AAAAAA"))
    assert set((await alice.query(bob))["failures"]) == {"there.test"}
    assert (await alice.claim(bob))["one_time_keys"] == {}
    await share(here, alice.user, bob)
    assert not await remote_lists.refresh(here.server, here.node("tehran"), bob.user_id)
    assert [exchange.status for exchange in network.exchanges[-2:]] == [200, 403]
    sent = network.bytes_out("there.test")
    assert bob.curve.encode() not in sent
    assert b"AAAAAA" not in sent
    assert (await bob.claim(bob))["one_time_keys"], "nobody has taken it"


@aio
async def test_the_question_takes_no_flow(network: Network) -> None:
    """What leaves is that somebody is asked about, which is none of the data of our users."""
    here, there = await network.found("here.test", policy=IN_ONLY), await network.found("there.test")
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    assert set((await alice.query(bob))["device_keys"]) == {bob.user_id}
    assert alice.user_id.encode() not in network.bytes_out("here.test")
    back = await bob.query(alice)
    assert (back["device_keys"], set(back["failures"])) == ({}, {"here.test"})
    assert alice.curve.encode() not in network.bytes_out("here.test")


# keeping up ---------------------------------------------------------------------------------


def update_of(device: Device, stream_id: int, *previous: int, **more: Any) -> remote_lists.Update:
    """What the device's server would say of it."""
    content = {
        "user_id": device.user_id,
        "device_id": device.device_id,
        "stream_id": stream_id,
        "prev_id": list(previous),
        "keys": device.device_keys(),
        **more,
    }
    return remote_lists.read_update(content, strict=True)


async def held(here: Play, *devices: Device) -> int:
    """Have tehran hold the first one's user's whole list; returns its version."""
    assert await remote_lists.refresh(here.server, here.node("tehran"), devices[0].user_id)
    ((stream_id, stale),) = (await copies(here.node("tehran"))).values()
    assert stream_id is not None
    assert not stale
    return stream_id


@aio
async def test_word_of_a_device_is_taken_over(network: Network) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    node, second = here.node("tehran"), await bob.another()
    await share(here, alice.user, bob)
    version = await held(here, bob)
    since = (await alice.sync())["next_batch"]
    asked = len(network.exchanges)
    await remote_lists.apply_update(here.server, node, update_of(second, version + 5, version))
    changed = await alice.sync(since)
    assert changed["device_lists"]["changed"] == [bob.user_id]
    shown = (await alice.query(bob))["device_keys"][bob.user_id]
    assert shown == {device.device_id: device.device_keys() for device in (bob, second)}
    upto = changed["next_batch"]
    between = await alice.gets("GET", "/keys/changes", **{"from": since, "to": upto})
    assert between["changed"] == [bob.user_id]
    gone = update_of(bob, version + 9, version + 5, deleted=True)
    await remote_lists.apply_update(here.server, node, gone)
    assert set((await alice.query(bob))["device_keys"][bob.user_id]) == {second.device_id}
    quiet = (await alice.sync(upto))["next_batch"]
    await remote_lists.apply_update(here.server, node, gone)
    assert "device_lists" not in await alice.sync(quiet), "the same word again is no news"
    assert len(network.exchanges) == asked
    assert await copies(node) == {bob.user_id: (version + 9, False)}


async def gap(network: Network) -> tuple[Play, Device, Device, Device, int]:
    """alice shares a room with bob, of whose list her node has missed a part, and cannot ask: their town, and the
    devices of alice and of bob, and the version of the list that it has."""
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    node, second = here.node("tehran"), await bob.another()
    await share(here, alice.user, bob)
    version = await held(here, bob)
    await second.publish()
    network.cut("here.test", "there.test")
    await remote_lists.apply_update(here.server, node, update_of(bob, version + 50, version + 40))
    assert not await remote_lists.refresh(here.server, node, bob.user_id)
    assert await copies(node) == {bob.user_id: (version, True)}
    return here, alice, bob, second, version


@aio
async def test_a_gap_makes_the_list_stale_and_it_is_asked_for(network: Network) -> None:
    here, alice, bob, second, version = await gap(network)
    node = here.node("tehran")
    answer = await alice.query(bob)
    assert (answer["device_keys"], set(answer["failures"])) == ({}, {"there.test"}), "a stale list is shown to nobody"
    network.mend("here.test", "there.test")
    assert set((await alice.query(bob))["device_keys"][bob.user_id]) == {bob.device_id, second.device_id}
    await remote_lists.mark_stale(here.server, node, bob.user_id)
    assert await remote_lists.refresh(here.server, node, bob.user_id)
    ((stream_id, stale),) = (await copies(node)).values()
    assert stream_id is not None
    assert stream_id > version
    assert not stale


@aio
async def test_a_node_that_was_out_of_reach_believes_no_copy(network: Network) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    node, second = here.node("tehran"), await bob.another()
    await share(here, alice.user, bob)
    version = await held(here, bob)
    assert set((await alice.query(bob))["device_keys"][bob.user_id]) == {bob.device_id}
    await second.publish()
    await node.engine.close()
    await remote_lists.apply_update(here.server, node, update_of(second, version + 1, version))
    await node.engine.open()
    assert set((await alice.query(bob))["device_keys"][bob.user_id]) == {bob.device_id, second.device_id}
    before = len(network.exchanges)
    await alice.query(bob)
    assert len(network.exchanges) == before


@aio
async def test_many_words_at_once_are_one_question(network: Network) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    node = here.node("tehran")
    await share(here, alice.user, bob)
    version = await held(here, bob)
    path = "/_matrix/federation/v1/user/devices/"
    before = questions(network, path)
    words = [update_of(bob, version + 50 + number, version + 40) for number in range(20)]
    for word in words:
        await remote_lists.apply_update(here.server, node, word)
    task = remote_lists.begin_refresh(here.server, node, bob.user_id)
    assert task is not None
    while not task.done():
        await network.clock.advance(remote_lists.PAUSE)
    assert await task
    assert 1 <= questions(network, path) - before <= remote_lists.ATTEMPTS
    assert [stale for _, stale in (await copies(node)).values()] == [False]


@aio
async def test_what_is_overtaken_by_news_is_not_kept(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    node = here.node("tehran")
    await share(here, alice.user, bob)
    carry = network.carry

    async def slowly(*args: Any) -> Any:
        answer = await carry(*args)
        if args[3] == QUERY:
            await remote_lists.apply_update(here.server, node, update_of(bob, 70, 60))
        return answer

    monkeypatch.setattr(network, "carry", slowly)
    assert set((await alice.query(bob))["device_keys"]) == {bob.user_id}
    assert await copies(node) == {}


@aio
async def test_word_of_cross_signing_keys(network: Network) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    node, bobs = here.node("tehran"), Identity(bob.user_id)
    await share(here, alice.user, bob)
    await held(here, bob)
    since = (await alice.sync())["next_batch"]
    keys = bobs.upload()
    await remote_lists.apply_signing_keys(here.server, node, bob.user_id, keys["master_key"], keys["self_signing_key"])
    answer = await alice.query(bob)
    assert answer["master_keys"][bob.user_id]["keys"] == bobs.master_key()["keys"]
    assert answer["self_signing_keys"][bob.user_id]["keys"] == keys["self_signing_key"]["keys"]
    assert (await alice.sync(since))["device_lists"]["changed"] == [bob.user_id]
    forged = Identity(bob.user_id).upload()["self_signing_key"]
    await remote_lists.apply_signing_keys(here.server, node, bob.user_id, keys["master_key"], forged)
    assert await remote_lists.refresh(here.server, node, bob.user_id)
    assert (await alice.query(bob))["master_keys"] == {}, "the server itself, when asked, knows of none"


@aio
async def test_word_of_a_stranger_is_not_kept(network: Network) -> None:
    here, there = await towns(network)
    bob = await device_of(there, "bob")
    node = here.node("tehran")
    await remote_lists.apply_update(here.server, node, update_of(bob, 5))
    await remote_lists.apply_signing_keys(here.server, node, bob.user_id, None, None)
    await remote_lists.mark_stale(here.server, node, bob.user_id)

    async def known(tx: Transaction) -> int | None:
        return await users.nid(tx, bob.user_id)

    assert await node.read(known) is None
    assert network.exchanges == []


@aio
async def test_copies_that_nobody_needs_are_dropped(network: Network) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    node = here.node("tehran")
    room_id = await share(here, alice.user, bob)
    await held(here, bob)
    assert await node.write(key_copies.drop_idle_copies) == 0
    await move(node, room_id, bob.user_id, "leave")
    assert await node.write(key_copies.drop_idle_copies) == 1
    assert await copies(node) == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"user_id": "bob"},
        {"user_id": None},
        {"device_id": 5},
        {"stream_id": "7"},
        {"stream_id": True},
        {"stream_id": 2**70},
        {"prev_id": 7},
        {"prev_id": ["7"]},
    ],
)
def test_what_is_no_word_of_a_device(wrong: dict[str, Any]) -> None:
    content = {"user_id": "@bob:there.test", "device_id": "D", "stream_id": 1, **wrong}
    with pytest.raises(Refusal):
        remote_lists.read_update(content, strict=True)


def test_a_device_whose_keys_are_not_its_own_has_none() -> None:
    content = {"user_id": "@bob:there.test", "device_id": "D", "stream_id": 1, "keys": {"user_id": "@eve:there.test"}}
    assert remote_lists.read_update(content, strict=True).keys is None


# what we answer -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "query", {}, 400),
        ("POST", "query", {"device_keys": []}, 400),
        ("POST", "query", {"device_keys": {"@bob:there.test": "D"}}, 400),
        ("POST", "query", {"device_keys": {"@bob:there.test": [5]}}, 400),
        ("POST", "claim", {}, 400),
        ("POST", "claim", {"one_time_keys": {"@bob:there.test": ["D"]}}, 400),
        ("POST", "claim", {"one_time_keys": {"@bob:there.test": {"D": 5}}}, 400),
        ("POST", "query", {"device_keys": {"@x:here.test": [], "nobody": 5}}, 200),
        ("POST", "claim", {"one_time_keys": {"@x:here.test": {"D": "a"}}}, 200),
    ],
)
@aio
async def test_questions_that_are_none(
    network: Network, method: str, path: str, body: dict[str, Any], status: int
) -> None:
    here, _ = await towns(network)
    target = f"/_matrix/federation/v1/user/keys/{path}"
    with suppress(remote.RemoteRefusal):
        await remote.ask(here.server, "there.test", method, target, body, most=10_000)
    assert network.exchanges[-1].status == status
