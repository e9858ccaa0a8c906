"""The residency matrix between our server and another one: every hook, tried in every column."""

from __future__ import annotations

import pytest

from tests.matrix.asked import Spy
from tests.matrix.servers import meet
from tests.matrix.tables import OTHERS, SERVERS, Table
from tests.matrix.world import hold
from tests.network import Network
from tests.support import aio


@pytest.mark.parametrize("table", [*SERVERS, *OTHERS], ids=[table.about for table in [*SERVERS, *OTHERS]])
@aio
async def test_what_may_not_cross_does_not(network: Network, monkeypatch: pytest.MonkeyPatch, table: Table) -> None:
    await hold(await meet(network, Spy(monkeypatch)), table.rows)
