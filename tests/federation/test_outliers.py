"""Events that are held as state or authority only."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any

import pytest

from homeserver.protocol import events
from homeserver.rooms import outliers, state
from homeserver.runtime import breath
from homeserver.storage.events import Verdict
from tests.federation.forging import scene
from tests.network import Network
from tests.support import aio


@aio
async def test_others_are_served_while_much_is_read(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await scene(network)
    node, server = made.here.node("tehran"), made.here.server
    forged = [await made.forged(made.bob, "m.room.name", {"name": str(number)}, "") for number in range(12)]
    assert len((await outliers.keep(server, node, made.room_id, forged)).here) == 12
    monkeypatch.setattr(breath, "BREATH", 2)
    turns, parsed = itertools.count(), Counter[int]()
    turn = next(turns)
    parse = state.parse

    async def other() -> None:
        nonlocal turn
        while True:
            turn = next(turns)
            await asyncio.sleep(0)

    def counted(*args: Any) -> Any:
        parsed[turn] += 1
        return parse(*args)

    monkeypatch.setattr(state, "parse", counted)
    running = asyncio.ensure_future(other())
    await outliers.keep(server, node, made.room_id, forged)
    running.cancel()
    assert parsed.total() > 12
    assert max(parsed.values()) <= 2


@pytest.mark.parametrize("truly", [True, False])
@aio
async def test_who_cites_another_event_by_the_same_id_is_rejected(network: Network, truly: bool) -> None:
    """In rooms whose event ids are no hashes, an event says beside each id which event it means."""
    made = await scene(network, room_version="1")
    model = await made.forged(made.bob, "m.room.member", {"membership": "join", "displayname": "B"}, made.bob.user_id)
    room = await made.room()
    hashes = {each[0]: each[1]["sha256"] for each in (*model.server_fields["prev_events"],)}
    hashes |= {each[0]: each[1]["sha256"] for each in model.server_fields["auth_events"]}
    if not truly:
        hashes[state.creation(room).event_id] = "A" * 43
    event = events.build(
        room.rules,
        type=model.type,
        sender=model.sender,
        room_id=made.room_id,
        content=model.content,
        state_key=model.state_key,
        prev_events=model.prev_events,
        auth_events=model.auth_events,
        depth=model.depth,
        origin_server_ts=model.origin_server_ts,
        reference_hashes=hashes,
        event_id=model.event_id,
        server_name="there.test",
        key=made.there.server.identity.key,
    )
    await outliers.keep(made.here.server, made.here.node("tehran"), made.room_id, [event])
    assert await made.verdict(event) is (Verdict.ACCEPTED if truly else Verdict.REJECTED)
