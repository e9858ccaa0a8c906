"""The residency matrix between two nodes of one deployment: every hook, tried in every column."""

from __future__ import annotations

import pytest

from tests.matrix.asked import Spy
from tests.matrix.nodes import gather
from tests.matrix.tables import NODES, Table
from tests.matrix.world import hold
from tests.network import Network
from tests.support import aio


@pytest.mark.parametrize("table", NODES, ids=[table.about for table in NODES])
@aio
async def test_what_may_not_cross_does_not(network: Network, monkeypatch: pytest.MonkeyPatch, table: Table) -> None:
    await hold(await gather(network, Spy(monkeypatch), monkeypatch), table.rows)
