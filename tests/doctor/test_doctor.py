"""The doctor finds nothing where everything is sound, and each thing that is made unsound."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from homeserver.control import commands
from homeserver.doctor import routes
from homeserver.storage import aftermath, soundness
from homeserver.storage.directory import Kind
from homeserver.storage.engine import Transaction
from tests.e2ee.play import Device
from tests.media.transfers import uploaded
from tests.rooms.play import Play
from tests.support import Databases, aio


async def found(play: Play) -> set[tuple[str | None, str, int]]:
    """What the doctor finds: node, what, how much."""
    answer = await commands.perform(play.server, "doctor", {})
    assert all(each["remedy"] for each in answer["findings"])
    return {(each["node"], each["what"], each["count"]) for each in answer["findings"]}


UNSOUND = {
    "state groups whose parent is not there": "UPDATE state_groups SET parent_nid = 999999 WHERE depth = 1 AND"
    " group_nid = (SELECT MIN(group_nid) FROM state_groups WHERE depth = 1)",
    "entries of the current state without their event": "UPDATE current_state SET event_nid = 999999"
    " WHERE type = 'm.room.power_levels'",
    "rooms whose state group is not there": "UPDATE rooms SET state_group = 999999",
    "positions in outbox that the node has not given out yet": "INSERT INTO outbox (pos, destination, kind)"
    " VALUES (99999999, 'nowhere', 'none')",
    "messages to devices that are not there": "INSERT INTO to_device (pos, user_nid, device_nid, message)"
    " SELECT 1, user_nid, 999999, CAST('x' AS BLOB) FROM residents",
    "state groups that stand at a wrong depth above their parent": "UPDATE state_groups SET depth = 7 WHERE depth = 1"
    " AND group_nid = (SELECT MIN(group_nid) FROM state_groups WHERE depth = 1)",
}


class _Undone(Exception):
    """Ends a transaction that is not to be kept."""


async def spoilt(play: Play, sql: str) -> list[str]:
    """What is unsound in a transaction in which something was spoilt, which is then undone."""
    seen: list[str] = []

    async def spoil(tx: Transaction) -> None:
        await tx.run(sql)
        seen.extend(what for what, _ in await soundness.unsound(tx))
        raise _Undone

    with pytest.raises(_Undone):
        await play.node("tehran").write(spoil)
    return seen


@aio
async def test_what_is_sound_and_what_is_not(play: Play, engines: Databases) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room = await play.room_of(alice, bob)
    await play.send(alice, room, "hello")
    await Device(alice).publish()
    uri = await uploaded(alice, b"ciphertext")
    await play.settle()
    assert await found(play) == set()
    for what, sql in UNSOUND.items():
        blob = "CAST('x' AS BLOB)" if engines.kind == "sqlite" else "'x'::bytea"
        assert what in await spoilt(play, sql.replace("CAST('x' AS BLOB)", blob)), what

    node = play.node("tehran")
    (file,) = (path for path in node.media.rglob("*-*") if path.is_file())
    (file.parent / "strange").write_bytes(b"")
    assert ("tehran", "files of which no row speaks", 1) in await found(play)
    (file.parent / "strange").unlink()
    file.rename(file.with_suffix(".away"))
    assert ("tehran", "media without their file", 1) in await found(play)
    file.with_suffix(".away").rename(file)
    assert uri

    directory = play.server.nodes.directory
    await directory.release(Kind.USER, "alice")
    await directory.reroute(Kind.ROOM, room, "paris")
    await directory.claim(Kind.THREEPID, "email nobody@example.org", "tehran")
    assert await found(play) == {
        ("tehran", "users to which no route leads", 1),
        ("tehran", "rooms whose route leads to another node", 1),
        ("paris", "routes of rooms that lead to nothing here", 1),
        ("tehran", "routes of phone numbers and addresses that lead to nothing here", 1),
    }
    assert await routes.rebuild(play.server) == {"user": 1, "room": 1}
    assert await directory.ask(Kind.USER, "alice") == "tehran"
    await directory.release(Kind.THREEPID, "email nobody@example.org")

    async def ask(tx: Transaction) -> None:
        await aftermath.ask_others(tx, ["paris"], 7)

    await node.write(ask)
    assert await found(play) == {("tehran", "nodes that have yet to tell what this one has forgotten", 1)}


@aio
async def test_a_damaged_file_is_noticed(tmp_path: Path) -> None:
    engine = Databases("sqlite", tmp_path).engine("tehran")
    await engine.open(create=True)

    async def fill(tx: Transaction) -> None:
        await tx.run("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
        await tx.run("CREATE INDEX t_b ON t (b)")
        await tx.many("INSERT INTO t (b) VALUES (?)", [(f"text {n}",) for n in range(2000)])

    await engine.write(fill)
    assert await engine.read(soundness.damage) == []
    await engine.close()
    path = tmp_path / "tehran" / "node.db"
    whole = await asyncio.to_thread(path.read_bytes)
    at = whole.rindex(b"text 1500")
    path.write_bytes(whole[:at] + b"TEXT" + whole[at + 4 :])
    engine = Databases("sqlite", tmp_path).engine("tehran")
    await engine.open()
    assert await engine.read(soundness.damage) != []
    await engine.close()
