"""A mapping bounded in weight that forgets what was used longest ago."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lru(Generic[K, V]):
    """At most ``capacity`` in weight (entries, unless ``weigh`` says otherwise).

    One with a ``name`` is shown in the metrics, and weighs in bytes. ``hits`` and ``misses`` count what was asked for.
    """

    def __init__(self, capacity: int, weigh: Callable[[V], int] | None = None, name: str = "") -> None:
        self.capacity = capacity
        self.name = name
        self.weight = 0
        self.hits = 0
        self.misses = 0
        self._weigh = weigh
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: K) -> bool:
        return key in self._held

    def get(self, key: K) -> V | None:
        """The value, which counts as used now; None when it is not held."""
        entry = self._held.get(key)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        self._held.move_to_end(key)
        return entry[0]

    def find(self, keys: Iterable[K]) -> dict[K, V]:
        """`get` for many keys: those that are held.

        While half of the room is free nothing is about to go, and which was used last is not noted.
        """
        held, used, asked = self._held.get, self._held.move_to_end, 0
        crowded = self.weight * 2 > self.capacity
        found = {}
        for asked, key in enumerate(keys, 1):  # noqa: B007  # how many there were
            entry = held(key)
            if entry is not None:
                found[key] = entry[0]
                if crowded:
                    used(key)
        self.hits += len(found)
        self.misses += asked - len(found)
        return found

    def __setitem__(self, key: K, value: V) -> None:
        weight = 1 if self._weigh is None else self._weigh(value)
        self.pop(key)
        self._held[key] = (value, weight)
        self.weight += weight
        while self.weight > self.capacity and len(self._held) > 1:
            _, (_, gone) = self._held.popitem(last=False)
            self.weight -= gone

    def pop(self, key: K) -> V | None:
        """Forget one key; returns what it held."""
        entry = self._held.pop(key, None)
        if entry is None:
            return None
        self.weight -= entry[1]
        return entry[0]

    def values(self) -> Iterator[V]:
        """All values, without using them."""
        return (value for value, _ in self._held.values())

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
        self.weight = 0
