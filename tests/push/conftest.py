"""Fixtures of the tests of push."""

from tests.push.stage import put, stage
from tests.rooms.play import cast, play

__all__ = ["cast", "play", "put", "stage"]
