"""Large objects of other servers: the same comes out as if they were read at once, and never all of it is there."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import AsyncIterator, Iterable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import parts, slices
from federation.slices import Malformed, Slices
from homeserver.runtime.clock import FakeClock
from homeserver.runtime.exchange import Fault, Unreachable
from tests.support import aio

LISTS = ("state", "auth_chain")
NASTY = st.sampled_from(['},{"', '"', "\\", '\\"},{', "]", "[{", "\u2028é", "},{"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**70) | NASTY | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NASTY | st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "state": st.lists(VALUES, max_size=8) | VALUES,
        "event": VALUES,
        "auth_chain": st.lists(VALUES, max_size=8),
        'x"},{': VALUES,
    },
)


def spelled(value: Any, luck: random.Random) -> bytes:
    """JSON as somebody may write it."""
    if luck.random() < 0.5 or not _plain(value):
        return _dumps(value)
    return orjson.dumps(value, option=orjson.OPT_INDENT_2)


def _plain(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


def _dumps(value: Any) -> bytes:
    import json

    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def read(pieces: Iterable[bytes]) -> dict[str, Any]:
    """What comes out, put together again."""
    reader, found = Slices(LISTS), dict[str, Any]()

    def take(given: Iterable[tuple[str, Any]]) -> None:
        for name, value in given:
            if name in LISTS and isinstance(value, list) and isinstance(found.get(name, []), list):
                found.setdefault(name, []).extend(value)
            else:
                assert name not in found
                found[name] = value

    for piece in pieces:
        take(reader.feed(piece))
    take(reader.end())
    return found


@given(OBJECTS, st.randoms(use_true_random=False), st.integers(1, 40))
def test_the_same_comes_out(value: dict[str, Any], luck: random.Random, step: int) -> None:
    body = spelled(value, luck)
    cuts = sorted(luck.randrange(len(body) + 1) for _ in range(luck.randrange(10)))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "STEP", step)
        assert read(pieces) == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"state"',
        b'{"state":',
        b'{"state":[',
        b'{"state":[{}',
        b'{"state":[{},',
        b'{"state":[{},]}',
        b'{"state":[,{}]}',
        b'{"state":[{}{}]}',
        b'{"state":[{}}',
        b'{"state":[{}]',
        b'{"state":[{}]]',
        b'{"state":[{"a":1]}',
        b'{"state":[{}],}',
        b'{"state":[{}] "a":1}',
        b'{"state":[],"state":[]}',
        b'{"a":1,"a":2}',
        b'{"a":}',
        b'{"a":1}{}',
        b'{"a":1} x',
        b'{"a" 1}',
        b"{a:1}",
        b'{"a":[}',
        b'{"a":"\xff"}',
        b'{"state":["\xff"]}',
        b'{"\xff":1}',
        b'{"state":[NaN]}',
        b'{"state":["},{"a":1}]}',
        b"{" + b",".join(b'"%d":1' % number for number in range(slices.MOST_NAMES + 1)) + b"}",
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_what_is_no_object(monkeypatch: pytest.MonkeyPatch, body: bytes, step: int) -> None:
    monkeypatch.setattr(slices, "STEP", step)
    with pytest.raises(Malformed):
        read([body[at : at + 3] for at in range(0, len(body), 3)])


@pytest.mark.parametrize(
    "start", [b'{"state":["', b'{"state":[[', b'{"event":"', b'{"', b'{"event":[', b'{"state":[{},{"a":["']
)
def test_a_value_is_not_waited_for_without_end(start: bytes) -> None:
    reader, fed = Slices(LISTS), 0

    def feed() -> None:
        nonlocal fed
        for piece in [start, *([b"[" * 10_000] * 1000)]:
            list(reader.feed(piece))
            fed += len(piece)

    with pytest.raises(Malformed):
        feed()
    assert fed <= slices.LONGEST + 2 * slices.STEP


def test_a_large_list_is_never_there_as_a_whole() -> None:
    event = orjson.dumps({"type": "m.room.member", "content": {"membership": "join", "x": ["y" * 20] * 20}, "n": [{}]})
    count = 40_000

    def pieces() -> Iterable[bytes]:
        yield b'{"event":{},"state":['
        for number in range(0, count, 20):
            yield (b"," if number else b"") + b",".join([event] * 20)
        yield b'],"auth_chain":[]}'

    reader, found, most_at_once = Slices(LISTS), 0, 0
    tracemalloc.start()
    try:
        for piece in pieces():
            for name, value in reader.feed(piece):
                found += len(value) if name == "state" else 0
                most_at_once = max(most_at_once, len(value))
        for name, value in reader.end():
            found += len(value) if name == "state" else 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == count
    assert most_at_once * len(event) <= 3 * slices.STEP
    assert peak < 4 * 2**20 < count * len(event)


@aio
async def test_an_answer_is_not_waited_for_without_end() -> None:
    """However little comes at a time, and however often."""
    clock = FakeClock()
    taken = 0

    async def drops() -> AsyncIterator[bytes]:
        while True:
            await clock.advance(10)
            yield b"x"

    async def take() -> None:
        nonlocal taken
        async for _ in parts._within(drops(), 60, clock):
            taken += 1

    with pytest.raises(Unreachable) as unreachable:
        await take()
    assert (taken, unreachable.value.fault) == (5, Fault.TIMEOUT)
