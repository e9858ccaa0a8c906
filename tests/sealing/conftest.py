"""Fixtures of the tests of sealed sessions."""

from tests.moves.play import stage

__all__ = ["stage"]
