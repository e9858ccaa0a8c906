"""Fixtures of the matrix: SQLite alone, since what is asked of the policy does not depend on the database."""

from pathlib import Path

import pytest

from tests.network import network
from tests.support import Databases

__all__ = ["network"]


@pytest.fixture
def engines(tmp_path: Path) -> Databases:
    """What is asked of the policy does not depend on the database."""
    return Databases("sqlite", tmp_path)
