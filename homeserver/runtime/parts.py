"""Long lists, a part at a time: as much as one statement, request or transaction takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


def in_parts(values: Iterable[T], most: int) -> Iterator[list[T]]:
    """The values in their order, at most ``most`` at a time; nothing for none."""
    whole = list(values)
    for start in range(0, len(whole), most):
        yield whole[start : start + most]
