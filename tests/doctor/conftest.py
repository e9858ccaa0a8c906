"""Fixtures of the tests of the doctor."""

from tests.e2ee.play import cast, play

__all__ = ["cast", "play"]
