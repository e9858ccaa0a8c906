"""Fixtures of the rooms' tests."""

from tests.rooms.play import cast, play

__all__ = ["cast", "play"]
