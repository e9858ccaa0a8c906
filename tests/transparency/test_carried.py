"""Proofs that come with copies of keys: told without asking another node, and never of other keys than those shown."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from homeserver.e2ee import carried, shown_keys
from homeserver.protocol import checkpoints, signed_notes
from homeserver.protocol.signing import SigningKey
from homeserver.storage import device_keys as stored
from homeserver.storage import key_copies
from homeserver.storage.device_keys import Proof
from homeserver.storage.engine import Transaction
from homeserver.transparency import proving, sequencing
from homeserver.transparency.heads import KeyLog
from homeserver.transparency.proving import ForCopies
from tests.deployment import FLOWING, POLICY
from tests.e2ee.play import Device, Identity
from tests.moves.play import Stage, Staging, stage
from tests.support import ON_SQLITE, Databases, aio
from tests.transparency.stranger import FIELD, Stranger
from tests.transparency.test_key_log import UPLOAD, refused

__all__ = ["stage"]

WITNESSED = """
[witnesses.zurich]
jurisdiction = "FR"
key = "matrix.example.net/_domicile/v1/witness+781780cc+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X"
url = "https://127.0.0.1:9/witness"
[witnessing]
quorum = 1
"""
"""With a witness that is not there."""


async def neighbours(play: Stage) -> tuple[Device, Device]:
    """Two who share a room, on two nodes; and their keys are copied."""
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    await play.room_of(alice.user, bob.user)
    await play.settle()
    await bob.query(alice)
    return alice, bob


async def carried_to(play: Stage, node: str = "paris") -> None:
    """All that waits to go into a log, and into copies of what that proves, has gone."""
    await play.settle()
    for each in play.server.nodes:
        await sequencing.catch_up(play.server, each)
    await carried.get(play.server, play.node(node))


def silenced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on no node tells another what its log says, yet; returns who is asked about."""
    asked: list[str] = []

    async def nothing_yet(_: object, __: object, user_ids: list[str]) -> ForCopies:
        asked.extend(user_ids)
        return ForCopies({}, set(user_ids), {})

    monkeypatch.setattr(proving, "for_copies", nothing_yet)
    return asked


@aio
async def test_copies_are_shown_with_their_proof(stage: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    play = await stage()
    alice, bob = await neighbours(play)
    await alice.gets("POST", UPLOAD, Identity(alice.user_id).upload())
    await carried_to(play)
    asked = silenced(monkeypatch)
    here, there = Stranger(play.deployment), Stranger(play.deployment, "paris")
    answer = await bob.query(alice, bob)
    leaf, head = await here.check(answer, alice.user_id)
    assert head.size >= 2
    assert (await there.check(answer, bob.user_id))[0].tag != leaf.tag
    assert (await here.check(await bob.query(alice), alice.user_id))[0] == leaf
    assert asked == [], "nobody waits for another node"


@ON_SQLITE
@aio
async def test_a_proof_outlives_the_node_that_it_is_from(
    stage: Staging, engines: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = await stage()
    alice, bob = await neighbours(play)
    await carried_to(play)
    about = await Stranger(play.deployment).about()
    await play.end()
    again = await stage()
    await engines.take_away("tehran")
    await again.node("tehran").engine.probe()
    bob.user = type(bob.user)(again.deployment, bob.user_id, bob.device_id, bob.user.token)
    answer = await bob.query(alice)
    assert alice.user_id in answer[FIELD][about["origin"]]["users"]


@ON_SQLITE
@aio
async def test_a_copy_is_not_shown_with_the_proof_of_other_keys(stage: Staging) -> None:
    play = await stage()
    alice, bob = await neighbours(play)
    await carried_to(play)
    here = Stranger(play.deployment)
    first, _ = await here.check(await bob.query(alice), alice.user_id)
    with pytest.MonkeyPatch.context() as patch:
        silenced(patch)  # the copy comes, and its proof does not yet
        await (await alice.another()).publish()
        await play.settle()
        answer = await bob.query(alice)
        assert len(answer["device_keys"][alice.user_id]) == 2
        assert await refused(here, answer, alice.user_id) == "nothing is told"
    old = Proof("example.org/_domicile/v1/key-log/tehran", b'{"keys":"{\\"devices\\":{},\\"signing\\":{}}"}')
    await play.node("paris").write(carried._put, play.node("paris"), {alice.user_id: old})
    assert await refused(here, await bob.query(alice), alice.user_id) == "nothing is told"
    await carried_to(play)
    leaf, _ = await here.check(await bob.query(alice), alice.user_id)
    assert leaf.digest != first.digest


@ON_SQLITE
@aio
async def test_what_is_not_in_the_tree_yet_is_waited_for(stage: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    play = await stage()
    alice, bob = await neighbours(play)
    node = play.node("paris")
    wanted = node.memory(carried.Wanted).users

    with monkeypatch.context() as patch:
        silenced(patch)
        carried.want(play.server, node, [alice.user_id, "@nobody:example.org", bob.user_id])
        assert await carried.get(play.server, node)
        assert wanted == {alice.user_id}
    await carried_to(play)
    assert wanted == set()
    await Stranger(play.deployment).check(await bob.query(alice), alice.user_id)


@ON_SQLITE
@aio
async def test_a_node_that_is_down_is_asked_again(stage: Staging, engines: Databases) -> None:
    play = await stage()
    alice, _ = await neighbours(play)
    node = play.node("paris")
    await carried_to(play)
    await engines.take_away("tehran")
    await play.node("tehran").engine.probe()
    carried.want(play.server, node, [alice.user_id])
    assert not await carried.get(play.server, node)
    assert node.memory(carried.Wanted).users == {alice.user_id}
    await engines.bring_back("tehran")
    await play.node("tehran").engine.probe()
    await carried_to(play)
    assert node.memory(carried.Wanted).users == set()


@ON_SQLITE
@aio
async def test_no_proof_comes_where_keys_may_not(stage: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    play = await stage(policy=POLICY)
    alice, _ = await play.device("alice"), await play.device("bob", "paris")
    asked = silenced(monkeypatch)
    carried.want(play.server, play.node("paris"), [alice.user_id])
    assert await carried.get(play.server, play.node("paris"))
    assert play.node("paris").memory(carried.Wanted).users == set()
    assert asked == []


@ON_SQLITE
@aio
async def test_proofs_of_enormous_size_are_not_kept(stage: Staging, monkeypatch: pytest.MonkeyPatch) -> None:
    play = await stage()
    alice, bob = await neighbours(play)
    monkeypatch.setattr(carried, "LARGEST", 100)
    node = play.node("paris")
    await node.write(stored_away, alice.user_id)
    await carried_to(play)
    carried.want(play.server, node, [alice.user_id])
    await carried.get(play.server, node)
    assert await refused(Stranger(play.deployment), await bob.query(alice), alice.user_id) == "nothing is told"


async def stored_away(tx: Any, user_id: str) -> None:
    """There is no proof of a user's copy."""
    found = await stored.of_users(tx, [user_id])
    key_copies.drop_proof(tx, found[user_id].user_nid)


@aio
async def test_a_copy_that_goes_takes_its_proof_with_it(stage: Staging) -> None:
    play = await stage(policy=FLOWING)
    alice, _ = await neighbours(play)
    await carried_to(play)
    node = play.node("paris")
    assert await node.read(proof_of, alice.user_id) is not None
    await play.move(alice)
    assert await node.read(proof_of, alice.user_id) is None


async def proof_of(tx: Any, user_id: str) -> Proof | None:
    """What came with the copy of a user's keys."""
    return (await stored.of_users(tx, [user_id]))[user_id].proof


@ON_SQLITE
@aio
async def test_a_proof_comes_again_once_witnesses_have_signed_it(stage: Staging) -> None:
    play = await stage(policy=FLOWING + WITNESSED)
    alice, bob = await neighbours(play)
    await carried_to(play)
    home, node = play.node("tehran"), play.node("paris")
    log = home.memory(KeyLog)
    assert log.shown is not None
    before = await node.read(proof_of, alice.user_id)
    assert before is not None
    assert alice.user_id in node.memory(carried.Wanted).unsigned["tehran"]
    await carried.get(play.server, node)
    note = signed_notes.read(log.shown.note)
    witness = SigningKey.generate("w")
    signed = note.with_signatures([checkpoints.cosigned(note, "witness.example", witness, 1_800_000_000)])
    log.cosigned = log.shown._replace(note=signed.write())
    await carried.get(play.server, node)
    after = await node.read(proof_of, alice.user_id)
    assert after is not None
    assert orjson.loads(after.said)["checkpoint"].encode() == signed.write()
    assert node.memory(carried.Wanted).unsigned["tehran"] == {}
    await Stranger(play.deployment).check(await bob.query(alice), alice.user_id)


async def _inject(tx: Transaction, user_id: str) -> None:
    await tx.run(
        "INSERT INTO device_keys (user_nid, device_id, keys) SELECT user_nid, 'GHOST', ? FROM users WHERE user_id = ?",
        orjson.dumps({"algorithms": [], "device_id": "GHOST", "keys": {}, "signatures": {}, "user_id": user_id}),
        user_id,
    )


@ON_SQLITE
@aio
async def test_a_device_that_was_put_into_a_copy_is_not_shown(stage: Staging) -> None:
    play = await stage()
    alice, bob = await neighbours(play)
    await carried_to(play)
    await bob.query(alice)
    await carried_to(play)
    await play.node("paris").write(_inject, alice.user_id)
    play.node("paris").memory(shown_keys.Remembered).clear()
    answer = await bob.query(alice)
    assert set(answer["device_keys"][alice.user_id]) == {alice.device_id}
    await Stranger(play.deployment).check(answer, alice.user_id)
