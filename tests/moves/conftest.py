"""Fixtures of the tests of moving users."""

from tests.moves.play import stage

__all__ = ["stage"]
