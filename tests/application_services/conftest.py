"""Fixtures of the tests of application services."""

from tests.application_services.stage import set_up
from tests.network import network

__all__ = ["network", "set_up"]
