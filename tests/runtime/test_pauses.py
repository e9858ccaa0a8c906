"""Pauses grow, end somewhere, and are not all the same."""

from __future__ import annotations

from homeserver.runtime import pauses


def test_each_is_twice_as_long_up_to_the_longest() -> None:
    assert [pauses.after(failures, 2.0, 20.0) for failures in range(1, 7)] == [2.0, 4.0, 8.0, 16.0, 20.0, 20.0]


def test_there_is_one_after_however_many_failures() -> None:
    assert pauses.after(100_000, 1.0, 300.0) == 300.0


def test_those_who_failed_together_do_not_all_come_back_together() -> None:
    made = {pauses.spread(100.0) for _ in range(200)}
    assert len(made) > 100
    assert all(100.0 * pauses.LEAST_SPREAD <= each <= 100.0 for each in made)
