"""Fixtures of the tests of end-to-end encryption."""

from tests.e2ee.play import cast, play

__all__ = ["cast", "play"]
