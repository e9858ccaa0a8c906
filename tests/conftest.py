"""Fixtures of the whole suite, and its word on which databases it ran on."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.deployment import deploy, deployment
from tests.support import POSTGRES, engines, finish, schemas_of

__all__ = ["deploy", "deployment", "engines"]

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")  # a busy machine proves nothing


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that `waits` here, and not within the event loop, where pytest-twisted would run it."""
    if not getattr(pyfuncitem.function, "waits", False):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    return True


@pytest.fixture(scope="session", autouse=True)
def _leaves_nothing() -> Iterator[None]:
    """Drop what tests handed on to one another on the PostgreSQL server."""
    yield
    if url := os.environ.get(POSTGRES):
        finish(schemas_of(url).drop_all())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly when half of the storage tests did not run."""
    if not os.environ.get(POSTGRES):
        terminalreporter.section("PostgreSQL SKIPPED", sep="!", red=True, bold=True)
        terminalreporter.line(f"The tests ran on SQLite only: {POSTGRES} is not set.")
        terminalreporter.line("scripts/postgres start prints the address of a server to test on.")
