"""Records never leave the node that made them: not with a user who moves, not with an archive; and they go with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from homeserver.archives.backing_up import Backups, _rows
from homeserver.archives.reading import Archive
from homeserver.archives.writing import Writer
from homeserver.residency.withdrawing import announcing, closing
from homeserver.sealing import writing
from homeserver.storage.tables import TABLES, UNARCHIVED
from tests.deployment import FLOWING, Deploy
from tests.moves.play import Staging
from tests.residency.planned import founded
from tests.sealing.play import KEYS, SEALING, asks, custodians, epochs_of, noticing_all, opened, rows
from tests.support import ON_SQLITE, Databases, aio

EVERYWHERE = FLOWING + custodians(*KEYS) + custodians(*KEYS, code="FR")


@aio
async def test_who_moves_leaves_them_to_be_erased(stage: Staging, engines: Databases) -> None:
    play = await stage(policy=EVERYWHERE)
    noticing_all(play.deployment)
    tehran, paris = play.node("tehran"), play.node("paris")
    nasrin, sara = await play.user("nasrin"), await play.user("sara")
    await asks(nasrin)
    await asks(sara)
    await writing.keep_sealed(play.server)
    found = await rows(tehran, f"SELECT box FROM sessions WHERE user_nid = {(await nasrin.caller()).user_nid}")
    traces = [row[0][20:80] for row in found if isinstance(row[0], bytes)]
    assert len(traces) == 1
    await asks(nasrin, address="203.0.113.9")  # waits when they go
    await play.move(nasrin)
    await writing.keep_sealed(play.server)
    assert len(await opened(tehran, sara.user_id)) == 1
    assert await opened(tehran, nasrin.user_id) == await opened(paris, nasrin.user_id) == []
    assert await rows(paris, "SELECT * FROM device_days") == await rows(paris, "SELECT * FROM sessions") == []
    assert len(await rows(tehran, "SELECT * FROM device_days")) == 1
    if engines.kind == "sqlite":
        kept = [path for path in engines.directory.rglob("*") if path.is_file() and traces[0] in path.read_bytes()]
        assert kept == []
    await asks(nasrin)
    await writing.keep_sealed(play.server)
    (record,) = await opened(paris, nasrin.user_id)
    assert record.user_id == nasrin.user_id
    assert [len(await epochs_of(node)) for node in (tehran, paris)] == [1, 1]


@ON_SQLITE
@aio
async def test_an_archive_has_none_of_it(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await deploy(policy=SEALING)
    noticing_all(deployment)
    await asks(await deployment.user("nima"))
    await writing.keep_sealed(deployment.server)
    writer = Writer(tmp_path / "archive", None)
    found = await deployment.node("tehran").read(_rows, writer, Backups())
    found.pop("media")
    writer.finish(found)
    assert found["rows"].keys() == TABLES.keys() - UNARCHIVED - {"migrations"}
    assert {"epochs", "sessions", "device_days"} == UNARCHIVED
    assert {table for table, _ in Archive(tmp_path / "archive").rows()} & UNARCHIVED == set()


@ON_SQLITE
@aio
async def test_epochs_are_destroyed_when_a_jurisdiction_is_left(
    stage: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = await stage(policy=EVERYWHERE)
    await founded(play.server, EVERYWHERE)
    noticing_all(play.deployment)
    paris = play.node("paris")
    claire = await play.user("claire", "paris")
    await asks(claire)
    await writing.keep_sealed(play.server)
    assert len(await opened(paris, claire.user_id)) == 1
    wish = {"jurisdiction": "FR", "until": 4_000_000_000_000}
    seen = await play.command("residency-withdraw", dry_run=True, **wish)
    await play.command("residency-withdraw", plan=seen["digest"], **wish)

    async def stop(*_: object) -> None:
        raise RuntimeError("killed when the first step was done")

    there = await announcing.going_on(play.server, "FR")
    with monkeypatch.context() as patch:
        patch.setattr(closing, "_close_accounts", stop)
        with pytest.raises(RuntimeError, match="first step"):
            await closing._one(play.server, there, closing.Closing())
    (epoch,) = await epochs_of(paris)
    assert not epoch.can_be_opened
    assert epoch.destroyed_ts is not None
    assert await rows(paris, "SELECT * FROM sessions") == []
    await asks(claire, agent="Another/1")
    await writing.keep_sealed(play.server)
    assert len(await epochs_of(paris)) == 2
    await closing._one(play.server, there, closing.Closing())
    assert [each.can_be_opened for each in await epochs_of(paris)] == [False, False]
