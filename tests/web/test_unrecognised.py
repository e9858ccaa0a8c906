"""Bodies of whom nobody knows yet who sends them: bounded all in all, and for each address."""

from __future__ import annotations

import asyncio

import pytest

from homeserver.web.connections import Patience
from homeserver.web.incoming import Incoming
from homeserver.web.messages import Request
from homeserver.web.unrecognised import LONGEST, SMALL, Share, Unrecognised
from tests.support import aio
from tests.web.stage import request, stage

LARGE = SMALL + 1
SEND = "/_matrix/client/v3/rooms/!r:domicile.test/send/m.room.encrypted/"


def test_all_in_all_and_for_each_address() -> None:
    refused: list[None] = []
    held = Unrecognised(8 * LARGE, refused=lambda: refused.append(None))
    shares = [Share(held, str(number), LARGE) for number in range(5)]
    assert shares[0].take(2 * LARGE)
    assert not shares[0].take(1), "a quarter for one address"
    assert all(share.take(LARGE) for share in shares[1:])
    assert shares[1].take(LARGE)
    assert not shares[2].take(1), "an eighth is for small bodies"
    small = Share(held, "5", 100)
    assert small.take(100)
    assert Share(held, "0", 100).take(100), "one who holds large bodies may send small ones"
    assert len(refused) == 2
    for share in (*shares, small):
        share.give_back()
        share.give_back()
    assert held.held == 100
    assert len(held._by_address) == 1


def test_the_largest_body_always_fits() -> None:
    held = Unrecognised(10, 1000)
    assert Share(held, "a", None).take(1000)


@aio
async def test_a_body_too_many_is_refused_and_harms_nobody() -> None:
    async with stage() as at:
        at.connections.unrecognised = held = Unrecognised(4 * LARGE)
        slow, large, small = [await at.client() for _ in range(3)]
        begun = request("POST", "/echo", b"x" * LARGE)
        await slow.send(begun[:-1000])
        await at.until(lambda: held.held == LARGE - 1000)
        await large.send(begun)
        answer = await large.answer()
        assert (answer.status, answer.headers["retry-after"]) == (429, "5")
        await small.send(request("POST", "/echo", b"small"))
        assert (await small.answer()).body == b"small"
        await slow.send(begun[-1000:])
        assert (await slow.answer()).body == b"x" * LARGE
        assert held.held == 0


@aio
async def test_what_is_not_held_any_more_is_free_again() -> None:
    async with stage() as at:
        at.connections.unrecognised = held = Unrecognised(100 * LARGE)
        for size, sent in ((LARGE, 2000), (1000, 10), (1000, 999)):
            gone = await at.client()
            whole = request("POST", "/echo", b"x" * size)
            await gone.send(whole[: len(whole) - size + sent])
            await at.until(lambda sent=sent: held.held == sent)
            gone.writer.transport.abort()
            await at.until(lambda: held.held == 0)


@pytest.mark.parametrize(("token", "status"), [(b"alice", 200), (b"nobody", 401)])
@aio
async def test_who_is_recognised_holds_nothing(token: bytes, status: int) -> None:
    async with stage() as at:
        held = Unrecognised(1000)
        at.props.go.set()
        incoming = Incoming(100, 7, share=Share(held, "192.0.2.1", 7))
        made = Request("PUT", SEND + "1", {b"authorization": b"Bearer " + token}, "192.0.2.1", incoming)
        found, made.args = at.site.table.match("PUT", made.path)
        incoming.feed(b'{"a":1')
        assert held.held == 6
        answering = asyncio.ensure_future(at.site.answer(made, found))
        await at.until(lambda: not held.held)
        incoming.feed(b"}")
        incoming.end()
        assert (await answering).status == status
        assert held.held == 0


@pytest.mark.parametrize("size", [LARGE, SMALL])
@aio
async def test_a_body_of_somebody_unknown_is_not_waited_for_for_ever(size: int) -> None:
    async with stage(patience=Patience(receive=10 * LONGEST)) as at:
        at.connections.unrecognised = held = Unrecognised(100 * LARGE)
        slow = await at.client()
        await slow.send(request("POST", "/echo", b"x" * size)[:-1000])
        await at.until(lambda: held.held == size - 1000)
        await at.clock.advance(LONGEST - 2)
        assert held.held == size - 1000
        await at.clock.advance(4)
        assert (await slow.answer()).status == 408
        assert held.held == 0
