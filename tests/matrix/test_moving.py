"""A user who moves across a border: of rooms that they have left, what they may still read comes along by a flow."""

from __future__ import annotations

import pytest

from config.load import policy_from_text
from tests.deployment import NAME, POLICY
from tests.matrix.rows import OUT, sealed
from tests.matrix.world import both_ways
from tests.moves.play import Staging, stage
from tests.support import aio

__all__ = ["stage"]


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed flow", "denied flow"])
@aio
async def test_rooms_that_were_left(stage: Staging, allowed: bool) -> None:
    play = await stage(policy=POLICY + both_ways("IR", "FR"))
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    await play.send(bob, room_id, "kestrel")
    await play.change(alice, room_id, "leave")
    text = POLICY + both_ways("IR", "FR", None if allowed else (OUT, "events"))
    play.server.policy.now = policy_from_text(text, "residency.toml", NAME)
    await play.move(alice)
    rests = b"".join(each.read_bytes() for each in (play.node("paris").media.parent).rglob("*") if each.is_file())
    assert (sealed("kestrel") in rests) is allowed
