"""Fixtures of federation.

What two servers say to each other does not depend on their databases, and making six of them takes long: only the
modules that are about what is stored run on both engines, and all of them where DOMICILE_TEST_BOTH is set.
"""

import os
from pathlib import Path

import pytest

from tests.federation.towns import either_world, world
from tests.network import network

__all__ = ["either_world", "network", "world"]

ABOUT_STORAGE = (
    "adoption",
    "backfill",
    "federation_list",
    "outgoing_edus",
    "sender",
    "server_keys",
    "transactions",
    "user_keys",
)


def _adds_nothing(item: pytest.Item) -> bool:
    """Whether a test of federation is about PostgreSQL without being about what is stored."""
    if item.path.parent != Path(__file__).parent or not isinstance(item, pytest.Function):
        return False
    arguments = getattr(item, "callspec", None)
    on_postgres = arguments is not None and arguments.params.get("engines") == "postgres"
    return on_postgres and item.path.stem.removeprefix("test_") not in ABOUT_STORAGE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave PostgreSQL out where it adds nothing."""
    if not os.environ.get("DOMICILE_TEST_BOTH"):
        items[:] = [item for item in items if not _adds_nothing(item)]
