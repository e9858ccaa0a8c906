"""Fixtures of the tests of synchronisation."""

from tests.rooms.play import cast, play

__all__ = ["cast", "play"]
