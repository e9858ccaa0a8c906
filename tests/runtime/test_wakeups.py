"""Nobody sleeps through a wake-up, and nobody is left behind in the tables."""

from __future__ import annotations

import asyncio

from homeserver.runtime.clock import FakeClock
from homeserver.runtime.wakeups import Wakeups
from tests.support import aio


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@aio
async def test_a_wake_between_looking_and_waiting_is_not_lost() -> None:
    wakeups = Wakeups(FakeClock())
    with wakeups.listen(["a", "b"]) as listener:
        wakeups.wake("b")
        assert await listener.wait() == {"b"}


@aio
async def test_all_who_listen_to_a_key_are_woken_and_nobody_else() -> None:
    wakeups = Wakeups(FakeClock())
    ours = [asyncio.create_task(wakeups.wait([("room", 1), ("user", n)])) for n in range(100)]
    other = asyncio.create_task(wakeups.wait([("room", 2)]))
    await settle()
    assert wakeups.count == 101
    wakeups.wake(("room", 1))
    assert await asyncio.gather(*ours) == [{("room", 1)}] * 100
    assert not other.done()
    other.cancel()
    await asyncio.wait([other])
    assert wakeups.listeners == {}
    assert wakeups.count == 0


@aio
async def test_several_wakes_are_answered_together_and_then_forgotten() -> None:
    clock = FakeClock()
    wakeups = Wakeups(clock)
    with wakeups.listen(["a", "b", "c"]) as listener:
        waiting = asyncio.create_task(listener.wait())
        await settle()
        wakeups.wake("a")
        wakeups.wake("b")
        assert await waiting == {"a", "b"}
        again = asyncio.create_task(listener.wait(5))
        await clock.advance(5)
        assert await again == set()
        wakeups.wake("c")
        assert await listener.wait() == {"c"}


@aio
async def test_the_wait_ends_at_its_limit_and_not_before() -> None:
    clock = FakeClock()
    wakeups = Wakeups(clock)
    waiting = asyncio.create_task(wakeups.wait(["a"], clock.monotonic() + 30))
    await clock.advance(29.9)
    assert not waiting.done()
    await clock.advance(0.2)
    assert await waiting == set()
    assert clock.waiting == 0
    assert await wakeups.wait(["a"], clock.monotonic() - 1) == set()


@aio
async def test_a_wake_leaves_no_timer_behind() -> None:
    clock = FakeClock()
    wakeups = Wakeups(clock)
    waiting = asyncio.create_task(wakeups.wait(["a"], 30))
    await settle()
    assert clock.waiting == 1
    wakeups.wake("a")
    assert await waiting == {"a"}
    assert clock.waiting == 0


@aio
async def test_stopping_lets_everybody_go() -> None:
    wakeups = Wakeups(FakeClock())
    waiting = [asyncio.create_task(wakeups.wait([key])) for key in "abc"]
    await settle()
    wakeups.stop()
    assert await asyncio.gather(*waiting) == [set(), set(), set()]
    assert await wakeups.wait(["a"]) == set()


@aio
async def test_who_waits_in_a_loop_can_be_ended_when_all_stops() -> None:
    wakeups = Wakeups(FakeClock())
    rounds = 0

    async def follow() -> None:
        nonlocal rounds
        with wakeups.listen(["a"]) as listener:
            while rounds < 1000:
                await listener.wait()
                rounds += 1

    following = asyncio.create_task(follow())
    await settle()
    wakeups.stop()
    await settle()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert following.cancelled()
    assert rounds < 1000


@aio
async def test_a_listener_may_wake_others_from_its_own_turn() -> None:
    wakeups = Wakeups(FakeClock())

    async def relay(key: int) -> None:
        await wakeups.wait([key])
        wakeups.wake(key + 1)

    chain = [asyncio.create_task(relay(key)) for key in range(5)]
    await settle()
    wakeups.wake(0)
    await asyncio.gather(*chain)
