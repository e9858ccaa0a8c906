"""Fixtures of the tests of leaving a jurisdiction."""

from tests.moves.play import stage

__all__ = ["stage"]
