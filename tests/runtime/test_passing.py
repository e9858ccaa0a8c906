"""What is kept for a while ends, is taken once, and makes room."""

from __future__ import annotations

from homeserver.runtime.passing import Passing


class Few(Passing[str, int]):
    most = 2


def test_what_is_kept_ends() -> None:
    held = Few()
    held.put("a", 1, 100.0, 10.0)
    held.put("b", 2, 105.0, 10.0)
    assert (held.get("a", 109.9), held.get("b", 109.9), held.get("c", 109.9)) == (1, 2, None)
    assert (held.get("a", 110.0), held.get("b", 110.0), len(held)) == (None, 2, 1)
    assert held.pop("b", 115.0) is None


def test_what_is_taken_is_gone() -> None:
    held = Few()
    held.put("a", 1, 100.0, 10.0)
    assert (held.pop("a", 101.0), held.pop("a", 101.0), held.get("a", 101.0)) == (1, None, None)


def test_the_oldest_makes_room() -> None:
    held = Few()
    held.put("a", 1, 100.0, 10.0)
    held.put("b", 1, 101.0, 10.0)
    held.put("b", 2, 101.5, 10.0)
    assert (held.get("a", 101.5), held.get("b", 101.5)) == (1, 2), "nobody goes for what is put again"
    held.put("a", 3, 102.0, 10.0)
    held.put("c", 4, 104.0, 10.0)
    assert (held.get("a", 104.0), held.get("b", 104.0), held.get("c", 104.0)) == (3, None, 4)
    assert (held.get("a", 111.5), held.get("c", 112.0)) == (3, 4), "what is put again is kept from then on"
