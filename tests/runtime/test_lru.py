"""A memory that is bounded in weight, and counts what it is asked for."""

from __future__ import annotations

from homeserver.runtime.lru import Lru


def test_what_was_used_longest_ago_makes_room() -> None:
    held: Lru[str, str] = Lru(10, len)
    held["a"], held["b"] = "12345", "12345"
    assert held.get("a") == "12345"
    held["c"] = "1"
    assert ("a" in held, "b" in held, "c" in held, held.weight) == (True, False, True, 6)
    held["a"] = "1"
    assert held.weight == 2, "weighed anew"
    held["d"] = "far more than there is room for"
    assert (len(held), held.weight) == (1, 31), "the newest is kept whatever it weighs"
    held.clear()
    assert (len(held), held.weight) == (0, 0)


def test_what_is_asked_for_is_counted() -> None:
    held: Lru[str, str] = Lru(10)
    held["a"] = "x"
    held.get("a")
    held.get("b")
    held.find(["a", "b", "c"])
    assert (held.hits, held.misses) == (2, 3)
