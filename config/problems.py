"""What is wrong with a configuration file, said so that a person can put it right.

A ``Fault`` knows where in the *document* the mistake is; a ``Problem`` knows where in the *file*.
All faults of all files are collected before anyone is told (``Faults``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KeyPath = tuple[str | int, ...]
"""The way to a value in a document: names of keys, and zero-based indices in arrays."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A mistake at a place of a document."""

    path: KeyPath
    message: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake at a line of a file. ``line`` counts from 1, 0 is the file as a whole; ``key`` is dotted, or ""."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (where, self.key, self.message) if part)


class Faults(Exception):
    """A configuration that cannot be used. Its text is one line for each problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def dotted(path: KeyPath) -> str:
    """The path as an operator reads it: ``flows[0].to[1]``; indices count from 0."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
