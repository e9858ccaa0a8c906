"""An archive means the same on both engines: what was written on one is read on the other, to the last row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from homeserver.archives.backing_up import Backups, _rows, node_migrations
from homeserver.archives.reading import Archive
from homeserver.archives.sealing import Damaged, make_key, private_key, public_key
from homeserver.archives.writing import Writer
from homeserver.storage import archive, users
from homeserver.storage.engine import Transaction
from homeserver.storage.tables import TABLES
from tests.support import Databases, aio

MIGRATIONS = node_migrations()
LAYOUTS = archive.layouts(MIGRATIONS)
EVENT = (
    "INSERT INTO events (event_id, room_nid, pos, depth, ts, type, sender_nid, client, rest)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def test_every_table_is_archived() -> None:
    assert {layout.table for layout in LAYOUTS} == TABLES.keys() - {"migrations"}


async def fill(tx: Transaction) -> None:
    await tx.run("INSERT INTO users (user_id) VALUES (?)", "@alice:domicile.test")
    await tx.run("INSERT INTO residents (user_nid) VALUES (?)", 1)
    await tx.run("INSERT INTO rooms (room_id, version) VALUES (?, ?)", "!r:domicile.test", "12")
    await tx.run("INSERT INTO devices (user_nid, device_id, created_ts) VALUES (?, ?, ?)", 1, "Gerät ✈", 2**60)
    await tx.run("INSERT INTO to_device (pos, user_nid, device_nid, message) VALUES (?, ?, ?, ?)", 7, 1, 1, b"{}")
    rows = [(f"${n}", 1, n - 3, n, n, "m.\nroom", 1, bytes([n % 256, 0, 255]), b"") for n in range(1, 1203)]
    await tx.many(EVENT, rows)
    await tx.run("UPDATE stream SET position = ? WHERE id = 1", 1300)


async def everything(tx: Transaction) -> dict[str, list[bytes]]:
    return {layout.table: [part async for part, _ in archive.parts(tx, layout)] for layout in LAYOUTS}


async def put_back(tx: Transaction, source: Archive, engine: str) -> None:
    await archive.clear(tx, LAYOUTS)
    by_name = {layout.table: layout for layout in LAYOUTS}
    for table, part in source.rows():
        await archive.put(tx, by_name[table], archive.rows_of(by_name[table], part))
    await archive.count_on(tx, LAYOUTS, engine)


@aio
async def test_rows_are_the_same_wherever_they_are_put_back(engines: Databases, tmp_path: Path) -> None:
    other = Databases("sqlite", tmp_path / "other")
    kind = "sqlite" if engines.kind == "sqlite" else "postgresql"
    here, there = engines.engine("tehran", MIGRATIONS), other.engine("tehran", MIGRATIONS)
    back = engines.engine("back", MIGRATIONS)
    for engine in (here, there, back):
        await engine.open(create=True)
    await here.write(fill)
    before = await here.read(everything)
    private, public = make_key()
    for number, (source, target, named) in enumerate(((here, there, "sqlite"), (there, back, kind))):
        file = tmp_path / f"{number}"
        writer = Writer(file, public_key(public))
        found: dict[str, Any] = await source.read(_rows, writer, Backups())
        found.pop("media")
        writer.finish(found)
        assert found["rows"]["events"] == 1202
        with pytest.raises(Damaged, match="sealed"):
            Archive(file).verified()
        opened = Archive(file, private_key(private))
        assert opened.verified()["position"] == 1300
        await target.write(put_back, opened, named)
        assert await target.read(everything) == before
    # Row ids go on behind those that are there.
    assert await back.write(users.settle, "@bob:domicile.test") == 2
    await there.close()


@aio
async def test_positions_and_letters_after_a_restore(engines: Databases) -> None:
    engine = engines.engine("tehran", MIGRATIONS)
    await engine.open(create=True)
    await engine.write(fill)
    await engine.write(archive.settle, "tehran", archive.gap(60), frozenset())
    came = 1300 + archive.gap(60)

    async def look(tx: Transaction) -> list[Any]:
        return [
            await tx.one("SELECT position FROM stream"),
            await tx.all("SELECT pos FROM to_device"),
            await tx.all("SELECT pos, epoch, node_pos FROM carried_letters"),
            await tx.all("SELECT epoch, node, left_pos, came_pos FROM earlier_homes"),
        ]

    found = await engine.read(look)
    assert found == [(came + 1,), [(came + 1,)], [(came + 1, 0, 7)], [(0, "tehran", 1300, came)]]
    await engine.write(archive.settle, "tehran", archive.gap(60), frozenset([1]))
    assert (await engine.read(look))[1:] == [[], [], []], "who is gone is gone with all that is theirs"


def test_an_archive_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        Writer(tmp_path / "it", None)
    writer = Writer(tmp_path / "other", None)
    writer.rows("rows/users/1", b"[]\n")
    writer.give_up()
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_nothing_can_be_changed_unseen(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 8)
    writer = Writer(tmp_path / "it", None)
    writer.rows("rows/users/1", b"[1]\n" * 300)
    assert writer.copy("media/x", source)
    assert not writer.copy("media/y", tmp_path / "gone")
    writer.finish({"position": 7})
    whole = (tmp_path / "it").read_bytes()
    assert Archive(tmp_path / "it").verified()["position"] == 7
    places = [whole.index(name) + 512 for name in (b"rows/users/1", b"media/x", b"SHA256SUMS")]
    for at in (*places, whole.index(b'"position": 7') + 12):
        changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        for broken in (whole[:at], whole[: at - at % 512], changed):
            (tmp_path / "it").write_bytes(broken)
            with pytest.raises(Damaged):
                Archive(tmp_path / "it").verified()
