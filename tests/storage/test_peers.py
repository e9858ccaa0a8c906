"""What waits for other servers: by stretches of positions, for each from its own cursor on."""

from __future__ import annotations

from importlib.resources import files

from homeserver.storage import events, migrate, peers, rooms, users
from homeserver.storage.engine import Engine, Transaction
from homeserver.storage.events import NewEvent, Verdict
from homeserver.storage.peers import FAR, NewEdu, PeerRow
from tests.support import Databases, aio

MIGRATIONS = migrate.load(files("homeserver.storage") / "schema" / "node")
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
