"""Long loops that let others run."""

from __future__ import annotations

import asyncio
import itertools

from homeserver.runtime.breath import BREATH, unhurried
from tests.support import aio


@aio
async def test_others_run_in_between() -> None:
    turns = itertools.count()

    async def other() -> None:
        while True:
            next(turns)
            await asyncio.sleep(0)

    running = asyncio.ensure_future(other())
    assert [item async for item in unhurried(range(10 * BREATH))] == list(range(10 * BREATH))
    running.cancel()
    assert next(turns) >= 10
