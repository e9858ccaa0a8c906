"""Fixtures of federation."""

from tests.federation.towns import either_world, world

__all__ = ["either_world", "world"]
