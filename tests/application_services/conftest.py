"""Fixtures of the tests of application services."""

from tests.application_services.stage import set_up

__all__ = ["set_up"]
