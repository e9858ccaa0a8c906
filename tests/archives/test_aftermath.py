"""What does not come back with an archive: sessions, closed accounts, what was to be sent later; and older schemas."""

from __future__ import annotations

from pathlib import Path

import pytest

from homeserver.accounts import deactivation
from homeserver.accounts.devices import KEYS_CHANGED
from homeserver.archives import restoring
from homeserver.archives.backing_up import node_migrations
from homeserver.archives.reading import Archive
from homeserver.archives.restoring import Place
from homeserver.archives.writing import Writer
from homeserver.e2ee import publication
from homeserver.places import migrations
from homeserver.protocol.errors import NodeUnavailable
from homeserver.rooms import chores
from homeserver.storage import aftermath, archive, closed_accounts, erasures
from homeserver.storage.directory import Directory
from homeserver.storage.engine import Transaction
from tests.archives.play import House
from tests.e2ee.play import Device
from tests.rooms.play import Play
from tests.rooms.test_delayed_events import later as send_later
from tests.support import Databases, aio


async def later(tx: Transaction) -> int:
    row = await tx.one("SELECT COUNT(*) FROM delayed_events")
    assert row is not None
    return int(row[0])


async def holds(play: Play, localpart: str) -> list[bool]:
    return list((await closed_accounts.among(play.server.nodes.directory, [localpart])).values())


@aio
async def test_sessions_end_and_closed_accounts_stay_closed(house: House) -> None:
    play = house.play
    alice, carol, bob = await play.user("alice"), await play.user("carol"), await play.user("bob", "paris")
    room = await play.room_of(bob, alice, carol)
    tablet = (await play.deployment.login(alice, refresh_token=True)).json
    await play.send(carol, room, "hers")
    await play.settle()
    await house.back_up()
    await deactivation.deactivate(play.server, carol.user_id, erase=True)
    await house.do_chores()
    answer = await house.lose_and_restore(keep_sessions=False)
    assert answer["sessions_ended"] == 3
    assert answer["closed_again"] == 1
    play = house.play

    refused = await house.still(alice).asks("GET", "/_matrix/client/v3/account/whoami")
    assert (refused.status, refused.json["soft_logout"]) == (401, True), "its client keeps its keys, and asks who it is"
    renewed = {"refresh_token": tablet["refresh_token"]}
    refused = await play.deployment.asked("POST", "/_matrix/client/v3/refresh", renewed)
    assert (refused.status, refused.json["soft_logout"]) == (401, True)
    back = await play.deployment.login(alice, device_id=alice.device_id)
    assert back.json["device_id"] == alice.device_id
    assert (await house.still(bob).asks("GET", "/_matrix/client/v3/account/whoami")).status == 200

    assert (await play.deployment.login(carol)).errcode in ("M_FORBIDDEN", "M_USER_DEACTIVATED")
    gone = await house.still(carol).asks("GET", "/_matrix/client/v3/account/whoami")
    assert "soft_logout" not in gone.json
    for node in ("tehran", "paris"):
        replica = await play.replica(node, room)
        assert replica.now.membership(carol.user_id) == "leave"
        assert carol.user_id in await play.node(node).read(erasures.all_of_them)
    assert await house.play.node("tehran").read(chores_waiting) == 0


async def chores_waiting(tx: Transaction) -> int:
    row = await tx.one("SELECT COUNT(*) FROM chores WHERE kind = ?", deactivation.DEACTIVATED)
    assert row is not None
    return int(row[0])


@aio
async def test_a_closed_account_is_noted_even_if_the_directory_was_not_to_be_had(house: House) -> None:
    play = house.play
    alice = await play.user("alice")
    engine = play.server.nodes.directory.engine
    with pytest.MonkeyPatch.context() as patch:

        async def down(*args: object) -> None:
            raise NodeUnavailable("directory")

        patch.setattr(engine, "write", down)
        with pytest.raises(NodeUnavailable):
            await deactivation.deactivate(play.server, alice.user_id)
    assert await holds(play, "alice") == []
    await chores.leave_rooms(play.server)
    assert await holds(play, "alice") == [False]
    await deactivation.deactivate(play.server, alice.user_id, erase=True)
    await chores.leave_rooms(play.server)
    assert await holds(play, "alice") == [True], "who asks for it later is erased"


@aio
async def test_nothing_is_sent_that_was_to_be_sent_later(house: House) -> None:
    play = house.play
    alice = await play.user("alice")
    room = await play.create(alice)
    await send_later(alice, room, "tea", 5_000, "1")
    await house.back_up()
    assert await play.node("tehran").read(later) == 1
    assert (await house.lose_and_restore())["delayed_events_dropped"] == 1
    assert await house.play.node("tehran").read(later) == 0


@aio
async def test_others_forget_devices_that_did_not_come_back(house: House) -> None:
    play = house.play
    alice, bob = Device(await play.user("alice")), Device(await play.user("bob", "paris"))
    await play.room_of(bob.user, alice.user)
    await alice.publish()
    await house.back_up()
    await (await alice.another()).publish()
    await play.settle()
    assert len((await bob.query(alice))["device_keys"][alice.user_id]) == 2
    since = (await bob.sync())["next_batch"]
    await house.lose_and_restore()
    bob = Device(house.still(bob.user))
    await publication.told(house.play.server, house.play.node("tehran"))
    assert set((await bob.query(alice))["device_keys"][alice.user_id]) == {alice.device_id}
    assert alice.user_id in (await bob.sync(since))["device_lists"]["changed"]


@aio
async def test_rows_of_an_older_version_are_brought_to_this_one(engines: Databases, tmp_path: Path) -> None:
    known = node_migrations()[:6]
    source = Databases("sqlite", tmp_path / "old").engine("tehran", known)
    await source.open(create=True)

    async def fill(tx: Transaction) -> None:
        await tx.run("INSERT INTO users (user_id) VALUES ('@alice:example.org')")
        await tx.run("INSERT INTO residents (user_nid) VALUES (1)")
        await tx.run("INSERT INTO media (media_id, user_nid, content_type, created_ts) VALUES ('m', 1, 'a/b', 5)")
        await tx.run("INSERT INTO accounts (user_nid, created_ts) VALUES (1, 5)")
        await tx.run("INSERT INTO devices (user_nid, device_id, created_ts) VALUES (1, 'D', 5)")
        await tx.run("INSERT INTO device_keys (user_nid, device_id, keys) VALUES (1, 'D', CAST('{}' AS BLOB))")
        await tx.run("UPDATE stream SET position = 40")

    await source.write(fill)
    writer = Writer(tmp_path / "it", None)
    schema = [list(row) for row in await source.read(archive.ledger)]

    async def write(tx: Transaction) -> None:
        for layout in archive.layouts(known):
            async for part, _ in archive.parts(tx, layout):
                writer.rows(f"rows/{layout.table}/1.jsonl.gz", part)

    await source.read(write)
    await source.close()
    names = {"deployment": "example.org", "node": "tehran", "jurisdiction": "IR"}
    writer.finish({**names, "time": 0, "schema": schema, "rows": {}})
    kind = "sqlite" if engines.kind == "sqlite" else "postgresql"
    directory = Directory(await engines.open("directory", migrations("directory")), b"d" * 32)
    await closed_accounts.note(directory, "alice", erased=True)
    folder = tmp_path / "media"
    place = Place("example.org", "tehran", "IR", kind, folder, lambda which: engines.engine("tehran", which), ["paris"])
    await restoring.restore(Archive(tmp_path / "it"), place, directory, 1000)
    engine = await engines.open("tehran", node_migrations())

    async def look(tx: Transaction) -> list[tuple[object, ...] | None]:
        return [
            await tx.one("SELECT media_id, asked_ts FROM media"),
            await tx.one("SELECT MAX(number) FROM migrations"),
            await tx.one("SELECT left_pos FROM earlier_homes"),
            await tx.one("SELECT deactivated_ts FROM accounts"),
            *await tx.all("SELECT kind, user_nid FROM chores ORDER BY kind"),
        ]

    asked = [(deactivation.DEACTIVATED, 1), (KEYS_CHANGED, 1), (aftermath.REUNION, None)]
    assert await engine.read(look) == [("m", None), (len(node_migrations()),), (40,), (1000,), *sorted(asked)]
    (told,) = await engine.read(aftermath.reunions)
    assert (told.node, told.since) == ("paris", 40 + archive.gap(1))
