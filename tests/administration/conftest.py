"""A deployment with people who have roles, on SQLite: where a log rests is the same on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.administration.office import Office
from tests.deployment import start
from tests.support import Databases, finish


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """See `Office`; a test fails when anything was answered with a 500."""
    databases = Databases("sqlite", tmp_path)
    made = finish(Office.opened(start(databases)))
    yield made
    finish(databases.close())
    assert made.deployment.observed.faults == []
