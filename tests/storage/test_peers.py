"""What waits for other servers: by stretches of positions, for each from its own cursor on."""

from __future__ import annotations

from importlib.resources import files

from homeserver.storage import events, key_audiences, migrate, peers, rooms, users
from homeserver.storage.engine import Engine, Transaction
from homeserver.storage.events import NewEvent, Verdict
from homeserver.storage.peers import NewEdu, PeerRow
from tests.support import Databases, aio

MIGRATIONS = migrate.load(files("homeserver.storage") / "schema" / "node")
FAR = 2**62
"""Beyond every position."""
US, ROOM, SERVER = "@us:here.test", "!r:here.test", "there.test"


async def furnished(engines: Databases) -> Engine:
    """A node with a resident and a room, in which events stand at the positions 10, 20, … 90."""
    engine = await engines.open("tehran", MIGRATIONS)

    async def furnish(tx: Transaction) -> None:
        await users.settle(tx, US)
        room_nid = await rooms.create(tx, ROOM, "12", "tehran")
        assert room_nid == 1
        events.insert(tx, [event(pos, to_peers=pos != 50) for pos in range(10, 100, 10)])

    await engine.write(furnish)
    return engine


def event(pos: int, *, to_peers: bool) -> NewEvent:
    rest = b'{"auth_events":[],"depth":1,"hashes":{},"prev_events":[],"signatures":{}}'
    return NewEvent(
        pos, f"$e{pos}", 1, pos, pos, 0, "m.x", None, US, None, Verdict.ACCEPTED, b"{", rest, None, to_peers
    )


async def positions(engine: Engine, server: str = SERVER, after: int = 0, limit: int = 100) -> list[int]:
    return [one.pos for one in await engine.read(peers.waiting, server, after, FAR, limit)]


@aio
async def test_an_event_is_for_the_servers_that_take_part_at_its_position(engines: Databases) -> None:
    engine = await furnished(engines)

    async def move(tx: Transaction) -> None:
        peers.enter(tx, [(SERVER, 1, 20), ("other.test", 1, 0)])
        peers.leave(tx, [(SERVER, 1, 40)])
        peers.enter(tx, [(SERVER, 1, 70)])
        peers.reach(tx, [("outside.test", 1, 60)])

    await engine.write(move)
    assert await positions(engine) == [30, 40, 80, 90]
    assert await positions(engine, after=30, limit=2) == [40, 80]
    assert await positions(engine, "other.test") == [10, 20, 30, 40, 60, 70, 80, 90]
    assert await positions(engine, "outside.test") == [60]
    assert await engine.read(peers.present, 1) == {SERVER, "other.test"}


@aio
async def test_a_replica_that_is_planted_anew_knows_who_takes_part_now(engines: Databases) -> None:
    engine = await furnished(engines)

    async def move(tx: Transaction) -> None:
        peers.enter(tx, [(SERVER, 1, 0), ("gone.test", 1, 0)])
        peers.replace(tx, 1, 40, [SERVER, "new.test"])

    await engine.write(move)
    assert await positions(engine) == [10, 20, 30, 40, 60, 70, 80, 90]
    assert await positions(engine, "gone.test") == [10, 20, 30, 40]
    assert await positions(engine, "new.test") == [60, 70, 80, 90]


@aio
async def test_a_cursor_never_goes_back_and_what_is_behind_it_is_forgotten(engines: Databases) -> None:
    engine = await furnished(engines)

    async def move(tx: Transaction) -> None:
        peers.enter(tx, [(SERVER, 1, 0)])
        peers.leave(tx, [(SERVER, 1, 30)])
        peers.put_edus(tx, 101, [NewEdu(SERVER, US, "keys", "m.x", b"{}"), NewEdu(SERVER, US, "keys", "m.y", b"{}")])

    await engine.write(move)
    assert [row.server for row in await engine.read(peers.unsent)] == [SERVER]
    assert await positions(engine) == [10, 20, 30, 101, 102]
    await engine.write(peers.put, [PeerRow(SERVER, 101, 0, 0)])
    await engine.write(peers.put, [PeerRow(SERVER, 0, 3, 7)])
    assert await engine.read(peers.find, SERVER) == PeerRow(SERVER, 101, 3, 7)
    assert await positions(engine) == [102]
    assert [row.sent_pos for row in await engine.read(peers.unsent)] == [101]
    await engine.write(peers.put, [PeerRow(SERVER, 102, 0, 0)])
    assert await engine.read(peers.unsent) == []


@aio
async def test_of_what_is_given_up_the_newest_of_each_stretch_is_left(engines: Databases) -> None:
    engine = await furnished(engines)

    async def move(tx: Transaction) -> None:
        peers.enter(tx, [(SERVER, 1, 0)])
        peers.leave(tx, [(SERVER, 1, 30)])
        peers.enter(tx, [(SERVER, 1, 50)])
        peers.enter(tx, [("other.test", 1, 0)])

    await engine.write(move)

    async def left(server: str, after: int, upto: int) -> list[int]:
        return [each.pos for each in await engine.read(peers.newest, server, after, upto)]

    assert await left(SERVER, 0, 85) == [30, 80]
    assert await left(SERVER, 30, 85) == [80]
    assert await left(SERVER, 0, 45) == [30]
    assert await left(SERVER, 80, 85) == []
    assert await left("other.test", 0, 50) == [40]


@aio
async def test_what_is_given_up_is_so_once(engines: Databases) -> None:
    engine = await furnished(engines)

    async def queue(tx: Transaction) -> None:
        key_audiences.note_change(tx, 1, 90)
        edus = [NewEdu(SERVER, US, "keys", kind, b"{}") for kind in (peers.DIRECT, "m.x", peers.DIRECT)]
        peers.put_edus(tx, 101, [*edus, NewEdu("other.test", US, "keys", peers.DIRECT, b"{}")])

    await engine.write(queue)
    assert await engine.write(peers.give_up, SERVER, 102) is None, "it was never tried"
    await engine.write(peers.put, [PeerRow(SERVER, 40, 44, 0)])
    assert await engine.write(peers.give_up, SERVER, 40) is None, "it has that"
    assert await engine.write(peers.give_up, SERVER, 102) == 1
    assert await engine.write(peers.give_up, SERVER, 102) is None
    assert await engine.read(peers.find, SERVER) == PeerRow(SERVER, 40, 44, 0, 102)
    assert await engine.write(peers.give_up, SERVER, 103) == 1
    assert [each.pos for each in await engine.read(peers.edus_at, "other.test", 0, FAR)] == [104]
    await engine.write(peers.put, [PeerRow(SERVER, 110, 0, 0)])
    assert await engine.read(peers.find, SERVER) == PeerRow(SERVER, 110, 0, 0, 103)
    assert await engine.read(peers.owed) == {SERVER}
    assert await engine.read(peers.changed_meanwhile, SERVER, 10) == [], "they share no room"


@aio
async def test_what_is_older_than_a_moment_is_known_to_the_hour(engines: Databases) -> None:
    engine = await furnished(engines)
    marks = [await engine.write(peers.mark, ts, ts // 10, ts - 300) for ts in range(1000, 2000, 100)]
    assert marks == [0, 0, 0, 100, 110, 120, 130, 140, 150, 160]

    async def count(tx: Transaction) -> int:
        row = await tx.one("SELECT COUNT(*) FROM peer_marks")
        assert row is not None
        return int(row[0])

    assert await engine.read(count) == 4
    assert await engine.write(peers.mark, 9000, 900, 8700) == 190
