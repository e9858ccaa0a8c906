"""A week in which two nodes, or two servers, cannot reach each other, while both sides go on and the policy changes:
after it, all that may flow has flowed once, and nothing else has.

DOMICILE_TEST_CUT: how many events each side sends meanwhile.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from config.load import policy_from_text
from federation import inbound, leftovers
from homeserver.residency import isolation
from homeserver.runtime.lru import Lru
from homeserver.storage import received
from homeserver.storage import rooms as stored_rooms
from homeserver.storage.engine import Transaction
from tests.deployment import POLICY, Deploy, User
from tests.e2ee.play import Cast, Device, message
from tests.e2ee.test_to_device import contents
from tests.federation.meetings import enter
from tests.matrix.rows import sealed
from tests.network import Network
from tests.residency.test_isolation import all_arrived
from tests.rooms.play import Play, text_of
from tests.support import ON_SQLITE, aio

EVENTS = int(os.environ.get("DOMICILE_TEST_CUT", "120"))
AT_ONCE = 100
DAY = 24 * 3600.0
DAYS = 7

pytestmark = ON_SQLITE


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test with many events may take long."""
    monkeypatch.setattr("tests.support.TIMEOUT", 60.0 + EVENTS * 0.05)


def flows(*allowed: tuple[str, str, Sequence[str]]) -> str:
    """Flows between jurisdictions: (from, to, classes)."""
    head = '[[flows]]\nfrom = "{}"\nto = ["{}"]\nconsent = false\nclasses = {}\n'
    return "".join(head.format(source, target, orjson.dumps(classes).decode()) for source, target, classes in allowed)


EVERYTHING = ("*",)
BUT_RECEIPTS = ("events", "keys", "media", "profile")


Said = list[tuple[str, str]]
"""Texts, each with the room in which it was said."""


async def talk(play: Play, talks: Sequence[tuple[User, str]], word: str, day: int, in_all: int = EVENTS) -> Said:
    """Send what is said on a day of the week, each sender in turn in their room."""
    numbers = range(in_all * day // DAYS, in_all * (day + 1) // DAYS)
    said = [(*talks[number % len(talks)], f"{word}{number}") for number in numbers]
    for start in range(0, len(said), AT_ONCE):
        await asyncio.gather(*(play.send(*each) for each in said[start : start + AT_ONCE]))
    return [(room, text) for _, room, text in said]


async def heard(play: Play, node: str, *room_ids: str) -> Said:
    """The messages in the timelines of rooms, as a node's database has them, each as often as it does; sorted."""
    return await play.node(node).read(_heard, room_ids)


async def _heard(tx: Transaction, room_ids: Sequence[str]) -> Said:
    found = []
    for room_id in room_ids:
        room = await stored_rooms.find(tx, room_id)
        assert room is not None
        rows = await tx.all(
            "SELECT client FROM events WHERE room_nid = ? AND type = 'm.room.encrypted' AND pos IS NOT NULL"
            " AND verdict = 0",
            room.room_nid,
        )
        found += [(room_id, text_of(orjson.loads(row[0] + b"}"))) for row in rows]
    return sorted(found)


# two nodes ----------------------------------------------------------------------------------


@aio
async def test_two_nodes_of_which_one_is_cut_off_for_a_week(cast: Cast) -> None:
    before = flows(("IR", "FR", EVERYTHING), ("FR", "IR", EVERYTHING))
    after = flows(("IR", "FR", EVERYTHING), ("FR", "IR", BUT_RECEIPTS))
    play = await cast(policy=POLICY + before)
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    rooms = [await play.room_of(alice.user, bob.user), await play.room_of(bob.user, alice.user)]
    quiet = await play.room_of(alice.user, bob.user)
    await play.send(alice.user, quiet, "a word")
    await play.settle()
    await isolation.declare(play.server, "IR", "the links are cut")
    for device in (alice, bob):
        await read(play, device.user, quiet)
    here: Said = []
    there: Said = []
    letters: dict[str, list[dict[str, Any]]] = {alice.user_id: [], bob.user_id: []}
    for day in range(DAYS):
        here += await talk(play, [(alice.user, room) for room in rooms], "ir", day)
        there += await talk(play, [(bob.user, room) for room in rooms], "fr", day)
        for sender, receiver in ((alice, bob), (bob, alice)):
            letter = message(f"{sender.user_id} {day}")
            assert (await sender.send(f"t{day}", {receiver.user_id: {receiver.device_id: letter}})).status == 200
            letters[receiver.user_id].append(letter)
            await read(play, sender.user, rooms[0])
        await play.ask(alice.user, "PUT", f"/rooms/{quote(rooms[0])}/state/org.example.day/", {"day": day})
        await play.deployment.clock.advance(DAY)
        await play.settle()
        assert await heard(play, "tehran", *rooms) == sorted(here)
        assert await heard(play, "paris", *rooms) == sorted(there)
    assert contents(await alice.sync()) == contents(await bob.sync()) == []
    play.server.policy.now = policy_from_text(POLICY + after, "residency.toml", play.server.name)
    await isolation.release(play.server, "IR")
    await all_arrived(play)
    for room in rooms:
        assert await play.state_of("tehran", room) == await play.state_of("paris", room)
        assert set((await play.replica("tehran", room)).now.tips) == set((await play.replica("paris", room)).now.tips)
    for node in ("tehran", "paris"):
        assert await heard(play, node, *rooms) == sorted(here + there)
    assert contents(await alice.sync()) == letters[alice.user_id]
    assert contents(await bob.sync()) == letters[bob.user_id]
    for room in (rooms[0], quiet):
        assert await readers(play, "paris", room) == {alice.user_id, bob.user_id}
        assert await readers(play, "tehran", room) == {alice.user_id}, "receipts do not leave France any more"
    await play.send(bob.user, rooms[0], "after")
    await play.settle()
    assert await newest(play, alice.user, rooms[0]) == "after"


async def newest(play: Play, user: User, room_id: str) -> str:
    """The newest message that a user sees."""
    page = await play.ask(user, "GET", f"/rooms/{quote(room_id)}/messages", dir="b", limit="1")
    return text_of(page["chunk"][0])


async def read(play: Play, user: User, room_id: str) -> None:
    """Say that a user has read the newest message that they see."""
    page = await play.ask(user, "GET", f"/rooms/{quote(room_id)}/messages", dir="b", limit="1")
    event_id = page["chunk"][0]["event_id"]
    await play.ask(user, "POST", f"/rooms/{quote(room_id)}/receipt/m.read/{quote(event_id)}", {})


async def readers(play: Play, node: str, room_id: str) -> set[str]:
    """Whose receipts a node has."""

    async def look(tx: Transaction) -> set[str]:
        room = await stored_rooms.find(tx, room_id)
        assert room is not None
        rows = await tx.all(
            "SELECT u.user_id FROM receipts c JOIN users u ON u.user_nid = c.user_nid WHERE c.room_nid = ?",
            room.room_nid,
        )
        return {row[0] for row in rows}

    return await play.node(node).read(look)


# two servers --------------------------------------------------------------------------------

GERMANY = """
[jurisdictions.DE]
name = "Germany"
[[peers]]
server = "two.test"
jurisdiction = "DE"
"""


@aio
async def test_two_servers_that_do_not_reach_each_other_for_a_week(network: Network) -> None:
    open_to_all = flows(*((a, b, EVERYTHING) for place in ("IR", "FR") for a, b in ((place, "DE"), ("DE", place))))
    less = flows(
        ("IR", "DE", EVERYTHING), ("DE", "IR", EVERYTHING), ("FR", "DE", ("profile",)), ("DE", "FR", EVERYTHING)
    )
    one = await network.found("one.test", policy=POLICY + GERMANY + open_to_all)
    two = await network.found("two.test")
    alice, claire = Device(await one.user("alice")), Device(await one.user("claire", "paris"))
    bob = Device(await two.user("bob"))
    iranian, french = [await one.create(each.user, preset="public_chat") for each in (alice, claire)]
    for room in (iranian, french):
        await enter(two, bob.user, room, "one.test")
    await network.settle()
    said: dict[str, Said] = {"ir": [], "fr": [], "de": []}
    letters: dict[str, list[dict[str, Any]]] = {"ir": [message("taken, and not known to be")], "fr": [], "de": []}
    network.lose_answers("one.test", "two.test")
    await alice.send("first", {bob.user_id: {bob.device_id: letters["ir"][0]}})
    await network.settle()
    assert contents(await bob.sync()) == letters["ir"]
    network.cut("one.test", "two.test")
    for day in range(DAYS):
        for word, device, room in (("ir", alice, iranian), ("fr", claire, french)):
            said[word] += await talk(one, [(device.user, room)], word, day, EVENTS // 2)
        said["de"] += await talk(two, [(bob.user, iranian), (bob.user, french)], "de", day)
        for word, sender, receiver in (("ir", alice, bob), ("fr", claire, bob), ("de", bob, alice)):
            letter = message(f"{word} {day}")
            assert (await sender.send(f"t{day}", {receiver.user_id: {receiver.device_id: letter}})).status == 200
            letters[word].append(letter)
        await one.ask(alice.user, "PUT", f"/rooms/{quote(iranian)}/state/org.example.day/", {"day": day})
        await network.clock.advance(DAY + 3600)
        await network.settle()
        for play in (one, two):
            await leftovers.tidy(play.server)
            await inbound.forget_old(play.server)
    assert await heard(two, "tehran", iranian, french) == sorted(said["de"])
    one.server.policy.now = policy_from_text(POLICY + GERMANY + less, "residency.toml", one.server.name)
    two.server.nodes.directory.memory(inbound.Inbound).answers = Lru(1)  # it has been restarted meanwhile
    network.mend("one.test", "two.test")
    for _ in range(2):  # a pause is of an hour at most; who hears of the other one tries again
        await network.clock.advance(3600)
        await network.settle()
    assert await heard(one, "tehran", iranian) == sorted(
        said["ir"] + [each for each in said["de"] if each[0] == iranian]
    )
    assert await heard(one, "paris", french) == sorted(said["fr"] + [each for each in said["de"] if each[0] == french])
    assert await heard(two, "tehran", iranian, french) == sorted(said["ir"] + said["de"])
    assert contents(await alice.sync()) == letters["de"]
    assert contents(await bob.sync()) == letters["ir"], "keys do not leave France any more"
    left = network.bytes_out("one.test")
    assert [text for _, text in said["fr"][:: max(1, len(said["fr"]) // 100)] if sealed(text) in left] == []
    assert sealed(said["ir"][-1][1]) in left
    assert await one.state_of("tehran", iranian) == await two.state_of("tehran", iranian)
    await one.send(alice.user, iranian, "after")
    await network.settle()
    assert await newest(two, bob.user, iranian) == "after"


@aio
async def test_that_a_letter_came_is_forgotten_of_who_has_been_back(deploy: Deploy) -> None:
    node = (await deploy()).node("tehran")
    day = round(DAY * 1000)
    for origin, days in (
        ("back.test", (1, 60)),
        ("just.back.test", (60, 100)),
        ("gone.test", (2,)),
        ("old.test", (9,)),
    ):
        for each in days:
            await node.write(received.take_message, origin, f"{each}", each * day)
    await node.write(received.forget, 50 * day, 99 * day, 5 * day)

    async def left(tx: Transaction) -> set[tuple[str, str]]:
        return {(row[0], row[1]) for row in await tx.all("SELECT origin, message_id FROM received_to_device")}

    assert await node.read(left) == {
        ("back.test", "60"),
        ("just.back.test", "60"),
        ("just.back.test", "100"),
        ("old.test", "9"),
    }
