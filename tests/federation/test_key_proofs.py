"""Proofs of keys that come from other servers: handed on with the keys, looked at here, and what contradicts itself is
kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from homeserver.control import commands
from homeserver.e2ee import remote_lists
from homeserver.e2ee.asking import Asking
from homeserver.protocol import canonical, checkpoints, key_proofs, log_alarms, merkle, signed_notes
from homeserver.protocol.checkpoints import Head
from homeserver.protocol.key_log import Manifest
from homeserver.protocol.key_proofs import NotProved
from homeserver.protocol.log_alarms import Link
from homeserver.protocol.signed_notes import public_key
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.witnessing import Submission
from homeserver.runtime.exchange import Answer
from homeserver.runtime.outbound import Place
from homeserver.storage import witnessed_logs
from homeserver.transparency import heads, peers, sequencing, witnessing
from homeserver.transparency.peers import Peers
from tests.e2ee.play import Device
from tests.federation.test_user_keys import QUERY, device_of, held, lie, questions, share, towns, update_of
from tests.network import Network
from tests.rooms.play import Play
from tests.support import ON_SQLITE, aio
from tests.transparency.stranger import FIELD, Stranger, Unproved

ORIGIN = "there.test/_domicile/v1/key-log/tehran"

Json = dict[str, Any]


async def neighbours(network: Network) -> tuple[Play, Play, Device, Device]:
    """Two deployments, and somebody on each, whose keys are in the logs."""
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    await hashed(there)
    return here, there, alice, bob


async def hashed(play: Play) -> None:
    """All leaves are in the trees."""
    for node in play.server.nodes:
        await sequencing.catch_up(play.server, node)


async def contradictions(play: Play) -> list[Json]:
    """What operators are told of other servers' logs."""
    await peers.look_at_all(play.server)
    return list((await commands.perform(play.server, "log-status", {}))["contradictions"])


@aio
async def test_proofs_are_handed_on(network: Network) -> None:
    here, there, alice, bob = await neighbours(network)
    stranger = Stranger(there.deployment)
    leaf, _ = await stranger.check(await alice.query(bob), bob.user_id)
    await share(here, alice.user, bob)
    await alice.query(bob)
    asked = questions(network)
    assert (await stranger.check(await alice.query(bob), bob.user_id))[0] == leaf
    assert questions(network) == asked, "the proof rests with the copy"
    assert await contradictions(here) == []
    assert peers.has_log(here.server, "there.test")
    assert here.server.telemetry.counter("domicile_peer_key_log_faults", "").value() == 0


@aio
async def test_a_copy_that_has_changed_is_proved_again(network: Network) -> None:
    here, there, alice, bob = await neighbours(network)
    stranger, node = Stranger(there.deployment), here.node("tehran")
    await share(here, alice.user, bob)
    version = await held(here, bob)
    await stranger.check(await alice.query(bob), bob.user_id)
    await peers.look_at_all(here.server)
    second = await bob.another()
    await second.publish()
    await hashed(there)
    await remote_lists.apply_update(here.server, node, update_of(second, version + 1, version))
    answer = await alice.query(bob)
    assert len(answer["device_keys"][bob.user_id]) == 2
    with pytest.raises(Unproved, match="nothing is told"):
        await stranger.check(answer, bob.user_id)
    for task in list(node.memory(Asking).refreshing.values()):  # unless it was quicker than the answer
        await task
    await stranger.check(await alice.query(bob), bob.user_id)
    assert node.memory(Asking).refreshing == {}, "and not at every turn"


def shown_otherwise(network: Network, monkeypatch: pytest.MonkeyPatch, change: Callable[[Json], object]) -> None:
    """Let answers with keys tell something else of the log."""
    carry = network.carry

    async def carried(source: str, place: Place, method: str, target: str, *rest: Any) -> Answer:
        answer = await carry(source, place, method, target, *rest)
        if not target.startswith(QUERY):
            return answer
        told = orjson.loads(b"".join(answer.body) if isinstance(answer.body, list) else answer.body)
        change(told[FIELD][ORIGIN])
        return replace(answer, body=orjson.dumps(told))

    monkeypatch.setattr(network, "carry", carried)


def telling(checkpoint: str) -> Callable[[Json], object]:
    """What is changed when they tell this checkpoint."""
    return lambda told: told.update(checkpoint=checkpoint)


@aio
async def test_two_histories_are_kept_for_ever(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there, alice, bob = await neighbours(network)
    await alice.query(bob)
    assert await contradictions(here) == []
    server, node = there.server, there.node("tehran")
    forged = heads.signed(server, ORIGIN, node, Head(1, b"x" * 32)).write().decode()
    with monkeypatch.context() as patch:
        shown_otherwise(network, patch, lambda told: told.update(checkpoint=forged))
        answer = await alice.query(bob)
    assert answer[FIELD][ORIGIN]["users"][bob.user_id]["checkpoint"] == forged, "it is handed on, for clients to see"
    (found,) = await contradictions(here)
    true = (await Stranger(there.deployment).got("checkpoint")).decode()
    key = (await heads.public_key(server, node)).write()
    assert (found["origin"], found["what"]) == (ORIGIN, "two histories")
    assert (found["one"], found["other"]) == (f"{key}\n{true}", f"{key}\n{forged}")
    here.server.nodes.directory._memories.pop(Peers)
    await alice.query(bob)  # the true one again
    assert await contradictions(here) == [found]
    assert here.server.nodes.directory.memory(Peers).contradictions == {("there.test",): 1}
    here.deployment.observed.faults.clear()


@aio
async def test_it_is_an_alarm_when_the_log_is_witnessed_here(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there, alice, bob = await neighbours(network)
    key = (await heads.public_key(there.server, there.node("tehran"))).write()
    await alice.query(bob)
    await peers.look_at_all(here.server)
    await commands.perform(here.server, "log-witness-add", {"log": ORIGIN, "key": key})
    await alice.query(bob)
    await peers.look_at_all(here.server)
    assert (await commands.perform(here.server, "log-status", {}))["alarms"] == []
    forged = heads.signed(there.server, ORIGIN, there.node("tehran"), Head(1, b"x" * 32)).write().decode()
    shown_otherwise(network, monkeypatch, lambda told: told.update(checkpoint=forged))
    for _ in range(2):
        await alice.query(bob)
        await peers.look_at_all(here.server)
        (alarm,) = (await commands.perform(here.server, "log-status", {}))["alarms"]
    link = {name: alarm[name] for name in Link.__dataclass_fields__}
    log_alarms.check(log_alarms.read(canonical.encode(link)))
    assert (alarm["kind"], alarm["origin"], alarm["shown"]) == ("two_histories", ORIGIN, forged)
    here.deployment.observed.faults.clear()


@ON_SQLITE
@aio
async def test_it_is_one_too_when_what_was_signed_was_smaller(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, alice, bob = await neighbours(network)
    server, node = there.server, there.node("tehran")
    key = await heads.public_key(server, node)
    await commands.perform(here.server, "log-witness-add", {"log": ORIGIN, "key": key.write()})

    async def signs(old: int) -> Head:
        shown = await heads.current(server, node)
        assert shown is not None
        parts = merkle.consistency_parts(old, shown.head.size)
        roots = await heads.subtrees(node, {part for group in parts for part in group})
        proof = tuple(merkle.assembled(parts, roots))
        await witnessing.sign(here.server, Submission(old, proof, signed_notes.read(shown.note)).write())
        return shown.head

    first = await signs(0)
    old = heads.signed(server, ORIGIN, node, first).write().decode()
    for _ in range(2):
        await (await bob.another()).publish()
    await hashed(there)
    last = await signs(first.size)
    assert last.size > first.size + 1
    forged = heads.signed(server, ORIGIN, node, Head(first.size, b"x" * 32)).write().decode()
    between = heads.signed(server, ORIGIN, node, Head(first.size + 1, b"x" * 32)).write().decode()
    directory = here.server.nodes.directory.engine
    for told, place, alarms, unexplained in (
        (between, None, 0, 0),  # nobody knows where it could be asked
        (old, "https://there.test/log", 0, 0),
        (between, "https://there.test/log", 0, 1),
        (forged, None, 1, 1),
    ):
        named = (ORIGIN, "", key.write(), witnessing.EMPTY, 0, place)
        await directory.write(witnessed_logs.add, *named)
        with monkeypatch.context() as patch:
            shown_otherwise(network, patch, telling(told))
            await alice.query(bob)
        await peers.look_at_all(here.server)
        assert len((await commands.perform(here.server, "log-status", {}))["alarms"]) == alarms
        (log,) = (await commands.perform(here.server, "log-witness-list", {}))["logs"]
        assert log["unexplained"] == unexplained  # of which the log is asked
    here.deployment.observed.faults.clear()


@aio
async def test_a_log_has_one_key(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there, alice, bob = await neighbours(network)
    await alice.query(bob)
    await peers.look_at_all(here.server)
    other = SigningKey("log", b"o" * 32)
    checkpoint = await Stranger(there.deployment).checkpoint()
    forged = checkpoints.signed(checkpoint, other).write().decode()
    key = public_key(ORIGIN, other).write()
    shown_otherwise(network, monkeypatch, lambda told: told.update(checkpoint=forged, key=key))
    for _ in range(2):
        await alice.query(bob)
        (found,) = await contradictions(here)
    assert (found["what"], found["other"]) == ("another key", f"{key}\n{forged}")
    here.deployment.observed.faults.clear()


@aio
async def test_a_server_speaks_for_its_own_logs_alone(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, alice, bob = await neighbours(network)
    told = (await alice.query(bob))[FIELD]
    lie(network, monkeypatch, QUERY, {"device_keys": {bob.user_id: {bob.device_id: bob.device_keys()}}, FIELD: told})
    assert FIELD in await alice.query(bob)
    elsewhere = {ORIGIN.replace("there.test", "bank.test"): told[ORIGIN]}
    lie(network, monkeypatch, QUERY, {"device_keys": {bob.user_id: {}}, FIELD: elsewhere})
    assert FIELD not in await alice.query(bob)


# what is told wrongly -----------------------------------------------------------------------


async def told_of(alice: Device, bob: Device) -> tuple[Json, Manifest]:
    """What is told of bob, as a server tells it; and what there is to be proved."""
    mine = (await alice.query(bob))[FIELD][ORIGIN]["users"][bob.user_id]
    return {FIELD: {ORIGIN: {"users": {bob.user_id: mine}}}}, Manifest.of(
        {bob.device_id: orjson.dumps(bob.device_keys())}, {}
    )


@aio
async def test_what_does_not_hold_is_refused(network: Network) -> None:
    _, there, alice, bob = await neighbours(network)
    await device_of(there, "carol")
    await hashed(there)
    answer, shown = await told_of(alice, bob)
    told = key_proofs.of_answer(answer, "there.test", bob.user_id)
    assert told is not None
    assert key_proofs.check(told, bob.user_id, shown).head.size == 2
    assert orjson.loads(told.write()) == answer[FIELD][ORIGIN]["users"][bob.user_id]

    def said(**new: str) -> key_proofs.Told:
        return replace(told, said={**told.said, **new})

    leaf, keys, note = (told.said[name] for name in ("leaf", "keys", "checkpoint"))
    cases = [
        (replace(told, index=1), "the proof does not hold"),
        (replace(told, index=2), "the proof does not hold"),
        (replace(told, inclusion=()), "the proof does not hold"),
        (replace(told, inclusion=("!",)), "the proof does not hold"),
        (said(leaf=leaf.replace("device_keys", "found")), "the proof does not hold"),
        (said(leaf="x"), "the proof does not hold"),
        (said(opening="AAAA"), "the proof does not hold"),
        (said(keys=keys.replace(bob.device_id, "OTHER")), "the digests are not those of the leaf"),
        (said(keys="[]"), "the proof does not hold"),
        (said(checkpoint=note.replace("\n2\n", "\n3\n")), "signature"),
        (said(checkpoint="x"), "note"),
        (said(key="x"), "A key is written"),
        (replace(told, origin=f"{ORIGIN}.2"), "the checkpoint is of"),
    ]
    for each, sentence in cases:
        with pytest.raises(NotProved, match=sentence):
            key_proofs.check(each, bob.user_id, shown)
    with pytest.raises(NotProved, match="does not hold"):
        key_proofs.check(told, alice.user_id, shown)
    ghost = Manifest({**shown.devices, "GHOST": "x"}, {})
    for other in (ghost, Manifest({}, {}), Manifest(shown.devices, {"master": "x"})):
        with pytest.raises(NotProved, match="the keys are not those of the log"):
            key_proofs.check(told, bob.user_id, other)
    key_proofs.check(replace(told, withheld=(bob.device_id,)), bob.user_id, Manifest({}, {}))


@aio
async def test_what_is_too_much_or_of_another_form_is_not_read(network: Network) -> None:
    _, _, alice, bob = await neighbours(network)
    answer, _ = await told_of(alice, bob)
    mine = answer[FIELD][ORIGIN]["users"][bob.user_id]
    for wrong in (
        {"index": -1},
        {"index": True},
        {"index": "0"},
        {"index": 2**80},
        {"leaf": None},
        {"keys": "x" * 20_000},
        {"inclusion": None},
        {"inclusion": [1]},
        {"inclusion": ["x"] * 65},
        {"withheld": "x"},
        {"withheld": [1]},
        {"checkpoint": 1},
        {"key": None},
    ):
        told = {FIELD: {ORIGIN: {"users": {bob.user_id: {**mine, **wrong}}}}}
        assert key_proofs.of_answer(told, "there.test", bob.user_id) is None, wrong
    fields: list[Any] = [None, [], {ORIGIN: None}, {ORIGIN: {"users": []}}, {ORIGIN: {"users": {bob.user_id: 1}}}]
    for field in fields:
        assert key_proofs.of_answer({FIELD: field}, "there.test", bob.user_id) is None
    assert key_proofs.of_answer({}, "there.test", bob.user_id) is None
    mine.pop("inclusion")
    assert key_proofs.of_answer(answer, "there.test", bob.user_id) is None, "it is not in the tree yet"
