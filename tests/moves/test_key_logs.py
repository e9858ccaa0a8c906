"""Who moves is in the key logs of both nodes: here as gone, there as come, with the same keys as before."""

from __future__ import annotations

from homeserver.protocol.key_log import NO_KEYS, Reason, digest
from homeserver.transparency import sequencing
from tests.e2ee.test_cross_signing import identity
from tests.moves.play import Stage, Staging
from tests.support import ON_SQLITE, aio
from tests.transparency import ghosts
from tests.transparency.stranger import Stranger


async def caught_up(stage: Stage) -> None:
    """Bring into the trees of the logs what waits."""
    for node in stage.server.nodes:
        while await sequencing.hash_waiting(stage.server, node):
            pass


@aio
async def test_a_move_is_in_both_logs(stage: Staging) -> None:
    play = await stage()
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    here, there = Stranger(play.deployment), Stranger(play.deployment, "paris")
    await caught_up(play)
    before, _ = await here.check(await alice.query(alice), alice.user_id)
    await play.move(alice)
    await caught_up(play)
    left, came = (await here.leaves())[-1], (await there.leaves())[-1]
    assert (left.reason, left.previous, left.digest) == (Reason.LEFT, 0, digest(NO_KEYS))
    assert (came.reason, came.previous, came.digest) == (Reason.ARRIVED, None, before.digest)
    assert left.tag == came.tag == before.tag
    assert (await there.check(await bob.query(alice), alice.user_id))[0] == came
    await play.move(alice, "tehran")
    await caught_up(play)
    assert [leaf.reason for leaf in await here.leaves()] == [Reason.DEVICE_KEYS, Reason.LEFT, Reason.ARRIVED]
    assert [leaf.previous for leaf in await here.leaves()] == [None, 0, 1]
    assert (await there.leaves())[-1].reason is Reason.LEFT


@ON_SQLITE
@aio
async def test_what_others_are_not_shown_moves_too_and_stays_so(stage: Staging) -> None:
    play = await stage()
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    mine = await identity(alice)
    signed = mine.by(mine.self_signing, alice.device_keys())
    await alice.gets("POST", "/keys/signatures/upload", {alice.user_id: {alice.device_id: signed}})
    await (await alice.another()).publish()
    await ghosts.by_sql(play.node("tehran"), alice.user_id)
    await play.move(alice)
    await caught_up(play)
    answer = await bob.query(alice)
    assert set(answer["device_keys"][alice.user_id]) == {alice.device_id}
    await Stranger(play.deployment, "paris").check(answer, alice.user_id)
    assert len((await alice.query(alice))["device_keys"][alice.user_id]) == 3
