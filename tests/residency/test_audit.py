"""The audit: nothing is found where everything is in its place; what is planted is found, each piece of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from urllib.parse import quote

import pytest

from config.load import policy_from_text
from homeserver.media import shelves
from homeserver.residency.proofs import auditing
from homeserver.residency.proofs.audit import Fault
from homeserver.residency.proofs.logs import slips
from homeserver.storage import users
from homeserver.storage.engine import Transaction
from homeserver.storage.nodes import Node
from homeserver.storage.tables import TABLES
from tests.deployment import POLICY, User
from tests.e2ee.play import Cast, KeyPlay
from tests.federation.meetings import enter
from tests.media.transfers import uploaded
from tests.network import Network
from tests.rooms.play import Play
from tests.rooms.test_outage import cut_off
from tests.storage.test_tables import SAMPLE, columns, insert, schema
from tests.support import Databases, aio

__all__ = ["schema"]

RESIDENT = [table for table in TABLES.values() if table.resident]


async def found(play: Play) -> set[tuple[str, str, Fault, str | None]]:
    """What an audit of all nodes finds."""
    report = await auditing.run(play.server)
    assert report.nodes == ("tehran", "paris")
    return {(each.node, each.where, each.fault, each.user_id) for each in report.findings}


async def a_day(play: KeyPlay) -> tuple[User, User, str]:
    """Somebody of each node, and a room of both with a message, a receipt and a file."""
    alice, bob = (await play.device("alice")).user, (await play.device("bob", "paris")).user
    room_id = await play.room_of(alice, bob)
    event_id = await play.send(alice, room_id, "hello")
    await play.settle()
    await play.ask(bob, "POST", f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}", {})
    await uploaded(alice, b"ciphertext")
    await play.settle()
    return alice, bob, room_id


async def plant(node: Node, work: Callable[[Transaction, int], Awaitable[None]], user_id: str) -> None:
    """Put rows of somebody into a node by hand, as if they were a resident of it."""

    async def write(tx: Transaction) -> None:
        await work(tx, await users.settle(tx, user_id))

    await node.write(write)


@aio
async def test_nothing_is_found_after_a_day(play: KeyPlay) -> None:
    await a_day(play)
    assert await found(play) == set()


@aio
async def test_nothing_is_found_after_a_day_with_another_server(network: Network) -> None:
    here, there = await network.found("here.test"), await network.found("there.test")
    alice, carol, bob = await here.user("alice"), await here.user("carol", "paris"), await there.user("bob", "paris")
    room_id = await here.create(alice, preset="public_chat")
    await enter(there, bob, room_id, "here.test")
    await here.change(carol, room_id, "join")
    await there.send(bob, room_id, "hello")
    await network.settle()
    assert await found(here) == await found(there) == set()


@aio
async def test_each_row_of_somebody_pinned_elsewhere_is_found(play: KeyPlay, schema: sqlite3.Connection) -> None:
    alice, _, _ = await a_day(play)

    async def rows(tx: Transaction, user_nid: int) -> None:
        for table in RESIDENT:
            row = {name: SAMPLE[kind] for name, kind in columns(schema, table.name).items()}
            await insert(tx, table, {**row, table.owner or "": user_nid})

    await plant(play.node("paris"), rows, alice.user_id)
    expected = {"residents", *(table.name for table in RESIDENT)}
    assert {each for each in await found(play) if each[2] is Fault.PINNED_ELSEWHERE} == {
        ("paris", name, Fault.PINNED_ELSEWHERE, alice.user_id) for name in expected
    }


@aio
async def test_rows_of_nobody_are_found(play: KeyPlay) -> None:
    async def forgotten(tx: Transaction, user_nid: int) -> None:
        await tx.run("INSERT INTO forgotten_rooms (user_nid, room_nid) VALUES (?, 1)", user_nid)

    await plant(play.node("tehran"), forgotten, "@ghost:example.org")
    assert await found(play) == {
        ("tehran", name, Fault.NO_OWNER, "@ghost:example.org") for name in ("residents", "forgotten_rooms")
    }


@aio
async def test_copies_that_nothing_justifies_are_found(play: KeyPlay) -> None:
    _, _, room_id = await a_day(play)
    eve = await play.user("eve")

    async def write(tx: Transaction) -> None:
        users.intern(tx, [eve.user_id])
        nid = await users.nid(tx, eve.user_id)
        (room_nid,) = await tx.one("SELECT room_nid FROM rooms WHERE room_id = ?", room_id) or (0,)
        assert nid is not None
        event = "INSERT INTO events (event_nid, event_id, room_nid, pos, depth, ts, type, sender_nid, client, rest)"
        kind = "m.room.encrypted"
        await tx.run(event + " VALUES (900, '$a', ?, 900, 1, 1, ?, ?, ?, ?)", room_nid, kind, nid, b"{}", b"{}")
        await tx.run(event + " VALUES (901, '$b', 77, 901, 1, 1, ?, ?, ?, ?)", kind, nid, b"{}", b"{}")
        receipt = "INSERT INTO receipts (room_nid, user_nid, thread_id, event_id, event_pos, ts, pos)"
        await tx.run(receipt + " VALUES (?, ?, '', '$a', 1, 1, 902)", room_nid, nid)
        await tx.run("INSERT INTO device_keys (user_nid, device_id, keys) VALUES (?, 'D', ?)", nid, b"{}")
        await tx.run("INSERT INTO threads (room_nid, root_id, latest_pos) VALUES (77, '$b', 901)")
        await tx.run("INSERT INTO openings (event_nid) VALUES (987654)")

    await play.node("paris").write(write)
    assert await found(play) == {
        ("paris", "events", Fault.STRANGER, eve.user_id),
        ("paris", "events", Fault.NO_ROOM, None),
        ("paris", "receipts", Fault.STRANGER, eve.user_id),
        ("paris", "device_keys", Fault.NO_COPY, eve.user_id),
        ("paris", "threads", Fault.NO_ROOM, None),
        ("paris", "openings", Fault.NO_EVENT, None),
    }


@aio
async def test_files_of_others_are_found(play: KeyPlay) -> None:
    alice, _, _ = await a_day(play)
    media_id = await uploaded(alice, b"a secret")
    (mine,) = (path for path in play.node("tehran").media.rglob(f"{media_id}*") if path.is_file())
    paris = play.node("paris").media
    (paris / "ab").mkdir(parents=True)
    (paris / "ab" / mine.name).write_bytes(mine.read_bytes())
    (paris / "notes.txt").write_text("of a visitor")
    (paris / shelves.DRAFTS).mkdir(exist_ok=True)
    (paris / shelves.DRAFTS / "half").write_bytes(b"an upload that goes on")
    assert await found(play) == {
        ("paris", f"media/ab/{mine.name}", Fault.FOREIGN_FILE, None),
        ("paris", "media/notes.txt", Fault.NO_ROW, None),
    }


@aio
async def test_what_an_earlier_policy_let_come_is_told_and_no_violation(play: KeyPlay) -> None:
    alice, bob, _ = await a_day(play)
    play.server.policy.now = policy_from_text(POLICY, "residency.toml", play.server.name)
    report = await auditing.run(play.server)
    assert {(each.node, each.fault, each.user_id) for each in report.findings} == {
        ("paris", Fault.NO_FLOW, alice.user_id),
        ("tehran", Fault.NO_FLOW, bob.user_id),
    }
    assert report.violations == 0


@aio
async def test_a_node_that_is_down_is_said(cast: Cast, engines: Databases) -> None:
    for name in ("tehran", "paris"):
        await engines.make_breakable(name)
    play = await cast()
    await a_day(play)
    await cut_off(play, engines, "paris")
    report = await auditing.run(play.server)
    assert (report.nodes, report.nodes_down) == (("tehran",), ("paris",))


@aio
async def test_it_is_asked_for_by_word_and_told_in_the_metrics(play: KeyPlay) -> None:
    await a_day(play)
    (play.node("paris").media / "x").mkdir(parents=True)
    (play.node("paris").media / "x" / "notes.txt").write_text("of a visitor")
    path = "/_domicile/v1/control/residency-audit"
    assert (await play.deployment.asked("POST", path, {"node": "tehran"})).json["violations"] == 0
    answer = (await play.deployment.asked("POST", path, {})).json
    assert [(each["where"], each["violation"]) for each in answer["findings"]] == [("media/x/notes.txt", True)]
    assert (await play.deployment.asked("POST", path, {"node": "rome"})).errcode == "M_INVALID_PARAM"
    assert play.server.nodes.directory.memory(auditing.Audits).misplaced == {("tehran",): 0.0, ("paris",): 1.0}


@pytest.mark.parametrize(
    ("line", "shows"),
    [
        ("GET from 203.0.113.9 refused", "an IP address"),
        ("peer=[2001:db8::1]:443", "an IP address"),
        ("letter to parisa@example.org", "an e-mail address"),
        ("code for +989121234567", "a phone number"),
        ("/sync?access_token=syt_abcdefgh", "an access token"),
        ("Authorization: Bearer abcdefghijkl", "an access token"),
        ("2026-11-22 04:07:43 [info] ready address=127.0.0.1:8008 pos=+12", None),
        ("version 1.2.3 of @user:example.org in !room:example.org", None),
    ],
)
def test_what_a_log_may_not_show(line: str, shows: str | None) -> None:
    assert [each.shows for each in slips(["fine", line])] == ([shows] if shows else [])
