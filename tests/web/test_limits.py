"""Rate limits by a clock that stands still."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.sections.rate_limits import RateLimit, RateLimits
from homeserver.protocol.errors import LimitExceeded
from homeserver.web.limits import Bucket, Limit, Limits


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def limits(per_second: float, burst: int, time: Time, capacity: int = 1000) -> Limits:
    return Limits({"message": Bucket(per_second, burst)}, time, capacity=capacity)


def passes(of: Limits, who: str = "@a:x") -> bool:
    try:
        of.charge(Limit.MESSAGE, who)
    except LimitExceeded:
        return False
    return True


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    time = Time()
    of = limits(2, 5, time)
    assert [passes(of) for _ in range(7)] == [True] * 5 + [False] * 2
    time.now = 0.5
    assert [passes(of) for _ in range(2)] == [True, False]
    time.now = 100
    assert [passes(of) for _ in range(6)] == [True] * 5 + [False]


def test_a_refusal_says_when_to_come_back_and_costs_nothing() -> None:
    time = Time()
    of = limits(0.5, 2, time)
    assert passes(of)
    assert passes(of)
    for _ in range(10):
        with pytest.raises(LimitExceeded) as refusal:
            of.charge(Limit.MESSAGE, "@a:x")
        assert refusal.value.retry_after_ms == 2000
    time.now = 1.999
    assert not passes(of)
    time.now = 2.0
    assert passes(of)


def test_everybody_has_their_own_bucket_for_each_class() -> None:
    time = Time()
    of = Limits({"message": Bucket(1, 1), "join": Bucket(1, 1)}, time)
    assert passes(of, "@a:x")
    assert passes(of, "@b:x")
    assert not passes(of, "@a:x")
    of.charge(Limit.JOIN, "@a:x")
    for _ in range(100):
        of.charge(Limit.INVITE, "@a:x")  # has no bucket


@given(st.floats(0.1, 100), st.integers(1, 50), st.lists(st.floats(0, 5), max_size=200))
def test_no_more_passes_than_burst_and_rate_allow(per_second: float, burst: int, pauses: list[float]) -> None:
    time = Time()
    of = limits(per_second, burst, time)
    passed = 0
    for pause in pauses:
        time.now += pause
        passed += passes(of)
        assert passed <= burst + time.now * per_second + 1e-6


def test_memory_is_bounded_and_who_used_least_is_forgotten_first() -> None:
    time = Time()
    of = limits(1, 10, time, capacity=100)
    for _ in range(10):
        assert passes(of, "flooder")
    for number in range(10_000):
        passes(of, f"@{number}:x")
        assert len(of) <= 100
    assert not passes(of, "flooder")
    time.now = 1000
    for number in range(101):
        passes(of, f"@new{number}:x")
    assert len(of) <= 101
    time.now = 2000
    assert passes(of, "flooder")


def test_an_address_is_held_as_a_tag_that_only_this_process_can_make() -> None:
    of, other = limits(1, 1, Time()), limits(1, 1, Time())
    tag = of.tag("192.0.2.7")
    assert len(tag) == 8
    assert of.tag("192.0.2.7") == tag
    assert of.tag("192.0.2.8") != tag
    assert other.tag("192.0.2.7") != tag


def test_an_ipv6_network_counts_as_one_client() -> None:
    of = limits(1, 1, Time())
    assert of.tag("2001:db8:1:2::3") == of.tag("2001:db8:1:2:ffff::9") == of.tag("2001:db8:1:2::3%eth0")
    assert of.tag("2001:db8:1:2::3") != of.tag("2001:db8:1:3::3")
    assert of.tag("::ffff:192.0.2.7") == of.tag("192.0.2.7")
    assert of.tag("no:address") != of.tag("")


@pytest.mark.parametrize(("per_second", "burst"), [(0, 1), (-1, 1), (float("nan"), 1), (1, 0)])
def test_a_bucket_lets_something_through(per_second: float, burst: int) -> None:
    with pytest.raises(ValueError, match="bucket"):
        Bucket(per_second, burst)


def test_each_class_is_a_setting_and_each_setting_a_class() -> None:
    settings = {entry.name for entry in dataclasses.fields(RateLimits) if entry.name != "enabled"}
    assert settings == {limit.value for limit in Limit if limit is not Limit.NONE}
    assert isinstance(RateLimits().message, RateLimit)
    with pytest.raises(ValueError, match="nonsense"):
        Limits({"nonsense": Bucket(1, 1)}, Time())
