"""Fixtures: two nodes in two jurisdictions between which everything flows, devices that encrypt, and other servers."""

from tests.e2ee.play import cast, play
from tests.network import network

__all__ = ["cast", "network", "play"]
