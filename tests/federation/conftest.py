"""Fixtures of federation."""

from tests.federation.towns import either_world, world
from tests.network import network

__all__ = ["either_world", "network", "world"]
