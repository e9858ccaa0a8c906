"""Fixtures of the tests of archives."""

from tests.archives.play import house

__all__ = ["house"]
