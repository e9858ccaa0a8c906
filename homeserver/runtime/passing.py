"""What is kept for a while for somebody who may or may not come for it: bounded in number and in time.

All of one kind is kept equally long, so that what was put first ends first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import ClassVar, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Passing(Generic[K, V]):
    """A mapping of which each entry ends; beyond ``most`` the oldest goes. ``now`` is in monotonic seconds."""

    most: ClassVar[int] = 10_000

    def __init__(self) -> None:
        self._held: OrderedDict[K, tuple[V, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def put(self, key: K, value: V, now: float, seconds: float) -> None:
        """Keep something for so many seconds from now, which are the same for all of it."""
        self._held.pop(key, None)
        self._forget_ended(now)
        while len(self._held) >= self.most:
            self._held.popitem(last=False)
        self._held[key] = (value, now + seconds)

    def get(self, key: K, now: float) -> V | None:
        """What is kept; None when it has ended, was taken or never was."""
        self._forget_ended(now)
        entry = self._held.get(key)
        return None if entry is None else entry[0]

    def pop(self, key: K, now: float) -> V | None:
        """`get`, once."""
        self._forget_ended(now)
        entry = self._held.pop(key, None)
        return None if entry is None else entry[0]

    def _forget_ended(self, now: float) -> None:
        while self._held:
            key, (_, ends) = next(iter(self._held.items()))
            if ends > now:
                return
            del self._held[key]
