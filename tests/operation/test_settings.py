"""Settings hold: what is set is what happens."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.runtime.clock import SystemClock
from homeserver.runtime.open_files import RESERVED
from homeserver.storage.connect import Sizes, engine_for
from homeserver.storage.engine import Transaction
from tests.deployment import SETTINGS, Deploy
from tests.operation.product import Product
from tests.support import Databases, aio

LIMITED = SETTINGS + '[limits]\npage_size = 3\nsync_timeout = "1ms"\n'


@aio
async def test_no_page_is_longer_than_the_page_size(deploy: Deploy) -> None:
    deployment = await deploy(settings=LIMITED, clock=SystemClock())
    alice = await deployment.user("alice")
    rooms = [(await alice.asks("POST", "/_matrix/client/v3/createRoom", {"visibility": "public"})) for _ in range(4)]
    room = quote(rooms[0].json["room_id"])
    page = await alice.asks("GET", f"/_matrix/client/v3/rooms/{room}/messages", dir="b", limit="50")
    assert len(page.json["chunk"]) == 3
    wanted = '{"room":{"timeline":{"limit":50}}}'
    synced = await alice.asks("GET", "/_matrix/client/v3/sync", filter=wanted)
    timelines = [each["timeline"]["events"] for each in synced.json["rooms"]["join"].values()]
    assert [len(timeline) for timeline in timelines] == [3, 3, 3, 3]
    first = await deployment.asked("GET", "/_matrix/client/v3/publicRooms", limit="50", token=alice.token)
    assert len(first.json["chunk"]) == 3
    rest = await deployment.asked(
        "GET", "/_matrix/client/v3/publicRooms", since=first.json["next_batch"], token=alice.token
    )
    assert len(rest.json["chunk"]) == 1


@aio
async def test_no_sync_waits_longer_than_the_sync_timeout(deploy: Deploy) -> None:
    """It ends before the test does, though the client would wait for an hour."""
    deployment = await deploy(settings=LIMITED, clock=SystemClock())
    alice = await deployment.user("alice")
    since: Any = (await alice.asks("GET", "/_matrix/client/v3/sync")).json["next_batch"]
    for _ in range(3):
        answer = await alice.asks("GET", "/_matrix/client/v3/sync", since=since, timeout="3600000")
        since = answer.json["next_batch"]


@aio
async def test_the_sizes_of_a_database(engines: Databases) -> None:
    """As many readers as were asked for, each with as many pages in memory."""
    sizes = Sizes(readers=2, cache=3 * 2**20, connections=3)
    engine = engine_for("tehran", engines.url("tehran"), (), root=engines.directory, clock=SystemClock(), sizes=sizes)
    await engine.open(create=True)
    try:
        held: list[int] = []

        async def read(tx: Transaction, more: int) -> None:
            if engines.kind == "sqlite":
                row = await tx.one("PRAGMA cache_size")
                assert row == (-3 * 1024,)
            else:
                await tx.one("SELECT 1")
            held.append(more)

        await engine.read(read, 1)
        await engine.read(read, 2)
        assert held == [1, 2]
    finally:
        await engine.close()


@pytest.mark.parametrize("readers", [1, 4])
def test_a_server_opens_no_more_connections_than_it_may(tmp_path: Path, readers: int) -> None:
    """Each is a file that the process holds open; the database's own functions see how many."""
    product = Product(tmp_path)
    product.add(f"\n[storage]\nreaders = {readers}\n")
    with product:
        users = [product.user(f"user{number}", "tehran") for number in range(3)]
        for user in users * 5:
            user.client("GET", "/sync?timeout=0")
        opened = [path.readlink() for path in Path(f"/proc/{product.pid}/fd").iterdir()]
        held = [path for path in opened if path == product.node_folder("tehran") / "node.db"]
        assert 2 <= len(held) <= readers + 1


def test_a_server_may_open_the_files_that_its_connections_are(tmp_path: Path) -> None:
    """Whatever the shell allows that starts it: 1024 on Debian."""
    product = Product(tmp_path)
    product.add("\n[limits]\nconnections = 100\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
    try:
        product.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        allowed, _ = resource.prlimit(product.pid, resource.RLIMIT_NOFILE)
    finally:
        product.stop()
    assert allowed == 100 + RESERVED
