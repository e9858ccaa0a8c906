"""Lets the tests here wait by `tests.support.finish`, as fixtures do, so that a test can repeat itself as it likes."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is marked so here, and not within the event loop, where pytest-twisted would run it."""
    if not getattr(pyfuncitem.function, "waits", False):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    return True
