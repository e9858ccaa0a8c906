"""Bodies of requests of whom nobody knows yet who sends them: how many bytes of them are held, all in all.

A signature covers the body, so that all of it is held before it is known whether anybody need have it. That much is
bounded over all connections, and for each address, so that nobody can take it all; what is more is refused, and may
come again a little later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

SMALL: Final = 64 * 1024
"""A body of at most so many bytes may use what is kept free for such: whoever holds large ones harms no login."""
AGAIN_MS: Final = 5_000
"""When (milliseconds) a body that was refused may come again. One that is honest is held for far less."""
LONGEST: Final = 300.0
"""Seconds in which a body must be here whose sender is not recognised: 16 MiB, the most that a server may send, come
in as many over a line of half a megabit."""


class Unrecognised:
    """The bytes that are held: at most ``most``, of which an eighth is for small bodies only.

    One address may hold a quarter, but at least ``largest``, the largest body; and an eighth more of small ones.
    ``refused()`` is called for each body that is refused.
    """

    def __init__(self, most: int, largest: int = 0, refused: Callable[[], object] | None = None) -> None:
        self.held = 0
        most = max(most, 2 * largest)
        self._spare = most // 8
        self._most = most
        self._of_one = max(most // 4, largest)
        self._refused = refused
        self._by_address: dict[str, int] = {}

    def take(self, address: str, size: int, *, small: bool) -> bool:
        """Hold so many bytes more for an address; False if that would be too many."""
        mine = self._by_address.get(address, 0) + size
        spare = self._spare
        if self.held + size > self._most - (0 if small else spare) or mine > self._of_one + (spare if small else 0):
            if self._refused is not None:
                self._refused()
            return False
        self.held += size
        self._by_address[address] = mine
        return True

    def give_back(self, address: str, size: int) -> None:
        """Hold so many bytes less."""
        self.held -= size
        left = self._by_address[address] - size
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]


class Share:
    """What one body holds. ``declared`` is its length, None if nobody has said it."""

    __slots__ = ("_address", "_of", "_small", "_taken")

    def __init__(self, of: Unrecognised, address: str, declared: int | None) -> None:
        self._of = of
        self._address = address
        self._small = declared is not None and declared <= SMALL
        self._taken = 0

    def take(self, size: int) -> bool:
        """Hold so many bytes more; False if that would be too many."""
        if not self._of.take(self._address, size, small=self._small):
            return False
        self._taken += size
        return True

    def give_back(self) -> None:
        """Hold nothing any more."""
        if self._taken:
            self._of.give_back(self._address, self._taken)
            self._taken = 0
