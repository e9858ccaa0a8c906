"""What users can look up of where their data is, and where their rooms are held."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import pytest

from config.load import policy_from_text
from homeserver.endpoints import residency_pages
from homeserver.pages.languages import LANGUAGES, SOURCE, language
from homeserver.residency import consents
from homeserver.storage import holdings, migrate
from homeserver.storage.engine import Transaction
from homeserver.storage.tables import TABLES
from tests.deployment import NAME, PASSWORD, SETTINGS, User
from tests.e2ee.play import Device
from tests.endpoints.visiting import Browser
from tests.network import Network
from tests.residency.asking import ASKING, agree, asked
from tests.rooms.play import CLIENT, Cast, Play
from tests.support import Databases, aio

ME = "/_domicile/v1/residency/me"
PAGE = residency_pages.WHERE


def room_path(room_id: str) -> str:
    return f"/_domicile/v1/rooms/{quote(room_id)}/residency"


async def me(user: User) -> dict[str, Any]:
    answer = await user.asks("GET", ME)
    assert answer.status == 200, answer
    return answer.json


async def grown(play: Play) -> None:
    """Let what was counted grow old."""
    await play.deployment.clock.advance(61)


# by endpoint --------------------------------------------------------------------------------


@aio
async def test_a_user_sees_where_everything_is(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    await play.send(alice, await play.create(alice), "at home")
    found = await me(alice)
    assert (found["user_id"], found["node"]) == (alice.user_id, "tehran")
    assert found["jurisdiction"] == {"code": "IR", "name": "Iran (IR)"}
    assert (found["pin"]["how"], found["pin"]["ts"]) == ("admin", play.deployment.clock.now_ms())
    here, there = found["stored"]
    assert (here["node"], here["jurisdiction"]["code"], here["available"]) == ("tehran", "IR", True)
    assert here["classes"]["account"]["rows"] >= 3
    assert here["classes"]["events"]["bytes"] > 1000
    assert (there["node"], there["available"], there["classes"]) == ("paris", True, {})
    assert found["rooms"]["servers"] == []
    assert [(each["node"], each["rooms"]) for each in found["rooms"]["nodes"]] == [("tehran", 1)]
    await play.room_of(alice, bob)
    await grown(play)
    after = await me(alice)
    assert set(after["stored"][1]["classes"]) == {"events"}
    assert after["stored"][0]["classes"]["events"]["rows"] > here["classes"]["events"]["rows"]
    nodes = {each["node"]: (each["jurisdiction"]["code"], each["rooms"]) for each in after["rooms"]["nodes"]}
    assert nodes == {"tehran": ("IR", 2), "paris": ("FR", 1)}
    assert (await me(bob))["stored"][0]["node"] == "paris"


@aio
async def test_files_are_counted_by_what_they_hold(play: Play) -> None:
    alice = await play.user("alice")
    headers = {"Authorization": f"Bearer {alice.token}", "Content-Type": "application/octet-stream"}
    for size in (1000, 234):
        body = bytes(size)
        response = await play.deployment.site.call("POST", "/_matrix/media/v3/upload", headers=headers, body=body)
        assert response.status == 200
    here = (await me(alice))["stored"][0]
    assert here["files"] == {"number": 2, "bytes": 1234}
    assert here["classes"]["media"]["rows"] == 2


@aio
async def test_messages_to_devices_and_keys_are_counted(play: Play) -> None:
    alice = Device(await play.user("alice"))
    await alice.publish(one_time_keys=alice.one_time_keys("1", "2", "3"))
    await alice.send("1", {alice.user.user_id: {"*": {"body": "x" * 500}}})
    classes = (await me(alice.user))["stored"][0]["classes"]
    assert classes["keys"]["rows"] >= 4
    assert classes["mailbox"]["rows"] == 1
    assert classes["mailbox"]["bytes"] > 500


@aio
async def test_a_node_that_is_down_is_said_to_be(cast: Cast, engines: Databases) -> None:
    await engines.make_breakable("paris")
    play = await cast()
    alice = await play.user("alice")
    await engines.take_away("paris")
    here, there = (await me(alice))["stored"]
    assert here["available"] is True
    assert (there["node"], there["available"]) == ("paris", False)
    assert "classes" not in there


@aio
async def test_what_was_counted_is_good_for_a_minute(play: Play) -> None:
    alice = await play.user("alice")
    before = await me(alice)
    await play.create(alice)
    assert (await me(alice))["stored"] == before["stored"]
    await grown(play)
    assert (await me(alice))["stored"] != before["stored"]


@aio
async def test_nobody_sees_it_of_others(play: Play) -> None:
    assert (await play.deployment.asked("GET", ME)).errcode == "M_MISSING_TOKEN"
    alice, eve = await play.user("alice"), await play.user("eve")
    room_id = await play.create(alice)
    for reader, path in ((eve, room_path(room_id)), (eve, room_path("!none:example.org")), (alice, room_path("x"))):
        answer = await reader.asks("GET", path)
        assert (answer.status, answer.json) == (403, {"errcode": "M_FORBIDDEN", "error": "You are not in that room"})
    await play.change(alice, room_id, "leave")
    assert (await alice.asks("GET", room_path(room_id))).status == 403


@aio
async def test_consents_are_shown(cast: Cast) -> None:
    play = await cast(policy=ASKING)
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    answer = await alice.asks("POST", f"{CLIENT}/createRoom", {"invite": [bob.user_id]})
    await agree(alice, asked(answer, "FR"))
    (given,) = (await me(alice))["consents"]
    assert (given["from"], given["to"], given["holds"], given["withdrawn_ts"]) == ("IR", "FR", True, None)
    assert len(given["shown_sha256"]) == 64
    less = ASKING.replace('classes = ["*"]', 'classes = ["events", "keys"]')
    play.server.policy.now = policy_from_text(less, "residency.toml", NAME)
    assert (await me(alice))["consents"][0]["holds"] is True
    assert (await me(bob))["consents"] == []


# rooms --------------------------------------------------------------------------------------


@aio
async def test_where_a_room_is_held_and_what_is_seen(cast: Cast) -> None:
    narrow = ASKING.replace('classes = ["*"]', 'classes = ["events", "keys"]', 1).replace(
        "[[flows]]", "[[flows]]\nconsent = false"
    )
    play = await cast(policy=narrow)
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol", "paris")
    room_id = await play.create(alice, name="Hall")
    answer = (await alice.asks("GET", room_path(room_id))).json
    assert answer["jurisdictions"] == [{"code": "IR", "name": "Iran (IR)", "members": 1}]
    assert answer["leak_budget"] == []
    for guest in (bob, carol):
        await play.change(alice, room_id, "invite", user_id=guest.user_id)
        await play.change(guest, room_id, "join")
    await play.settle()
    ours, theirs = [(await user.asks("GET", room_path(room_id))).json for user in (alice, bob)]
    assert ours == theirs
    assert ours["home"] == {"node": "tehran", "jurisdiction": {"code": "IR", "name": "Iran (IR)"}}
    assert [(each["code"], each["members"]) for each in ours["jurisdictions"]] == [("FR", 2), ("IR", 1)]
    assert [(each["node"], each["members"]) for each in ours["nodes"]] == [("paris", 2), ("tehran", 1)]
    budget = {(each["from"], each["to"]): each for each in ours["leak_budget"]}
    assert set(budget) == {("IR", "FR"), ("FR", "IR")}
    out, back = budget["IR", "FR"], budget["FR", "IR"]
    assert out["classes"] == ["keys", "events"]
    assert {"membership", "timing", "reactions", "room_name", "devices"} <= set(out["visible"])
    assert not {"room_topic", "profile", "typing", "presence", "messages"} & set(out["visible"])
    assert out["sealed"] == ["messages"]
    assert {"profile", "typing", "presence", "file_sizes"} <= set(back["visible"])
    assert back["sealed"] == ["messages", "files"]


@aio
async def test_what_an_unencrypted_room_shows(cast: Cast) -> None:
    settings = 'conformance_mode = true\n[[listeners]]\naddress = "127.0.0.1"\nport = 8008\nresources = ["client"]\n'
    top, _, rest = SETTINGS.partition("[registration]")
    play = await cast(settings=f"{top}{settings}[registration]{rest}")
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    answer = (await alice.asks("GET", room_path(room_id))).json
    assert answer["encrypted"] is False
    assert {"messages", "files"} <= set(answer["leak_budget"][0]["visible"])
    assert answer["leak_budget"][0]["sealed"] == []


@aio
async def test_reactions_that_are_not_taken_are_not_seen(cast: Cast) -> None:
    play = await cast(settings=SETTINGS + '[encryption]\nallow_in_clear = ["m.room.redaction"]\n')
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    answer = (await alice.asks("GET", room_path(await play.room_of(alice, bob)))).json
    assert "reactions" not in answer["leak_budget"][0]["visible"]


@aio
async def test_other_servers_in_a_room(network: Network) -> None:
    a, b = await network.found("a.test"), await network.found("b.test")
    alice, bob = await a.user("alice"), await b.user("bob")
    room_id = await a.create(alice, invite=[bob.user_id])
    await b.change(bob, room_id, "join")
    await network.settle()
    answer = (await alice.asks("GET", room_path(room_id))).json
    unknown = {"code": "unknown", "name": "places unknown to the policy"}
    assert answer["servers"] == [{"server": "b.test", "jurisdiction": unknown, "members": 1}]
    assert [each["code"] for each in answer["jurisdictions"]] == ["IR", "unknown"]
    assert (await me(alice))["rooms"]["servers"] == [{"server": "b.test", "jurisdiction": unknown, "rooms": 1}]


# the page -----------------------------------------------------------------------------------


@aio
async def test_the_page_says_it_in_the_readers_language(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    browser = Browser(play.deployment, headers={"Accept-Language": "fa"})
    overview = await browser.sign_in("alice", PASSWORD)
    assert f"https://matrix.example.org{PAGE}" in overview.links
    page = await browser.get(PAGE)
    assert '<html lang="fa" dir="rtl">' in page.text
    assert "ایران (IR)" in page.text
    assert "فرانسه (FR)" in page.text
    assert "چیزی از شما اینجا نیست" in page.text
    assert "مدیر" in page.text
    assert "هیچ اتاق شما عضوی در جای دیگر ندارد" in page.text
    await play.room_of(alice, bob)
    await grown(play)
    page = await browser.get(PAGE)
    assert "چیزی از شما اینجا نیست" not in page.text
    assert "چه کسانی در اتاق هستند" in page.text


@aio
async def test_a_node_is_named_with_its_jurisdiction_only(play: Play) -> None:
    await play.user("alice")
    browser = Browser(play.deployment)
    await browser.sign_in("alice", PASSWORD)
    page = await browser.get(PAGE)
    for node, place in (("tehran", "Iran (IR)"), ("paris", "France (FR)")):
        *parts, _ = page.text.split(f">{node}<")
        assert parts
        for part in parts:
            assert place in part[-100:]


@aio
async def test_who_is_not_signed_in_is_sent_to_do_so(play: Play) -> None:
    page = await Browser(play.deployment).get(PAGE)
    assert page.path.startswith("/_domicile/login")


@aio
async def test_a_consent_is_taken_back_on_the_page(cast: Cast) -> None:
    play = await cast(policy=ASKING)
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    body = {"invite": [bob.user_id]}
    await agree(alice, asked(await alice.asks("POST", f"{CLIENT}/createRoom", body), "FR"))
    room_id = await play.create(alice, **body)
    await agree(bob, asked(await bob.asks("POST", f"{CLIENT}/rooms/{quote(room_id)}/join", {}), "IR", source="FR"))
    await play.change(bob, room_id, "join")
    browser = Browser(play.deployment, headers={"Accept-Language": "en"})
    await browser.sign_in("alice", PASSWORD)
    page = await browser.get(PAGE)
    assert "Rooms may reach France (FR)." in page.text
    stranger = await Browser(play.deployment, cookies=dict(browser.cookies)).ask(
        "POST", PAGE, {"do": "withdraw", "target": "FR"}
    )
    assert stranger.status == 403
    page = await browser.send(page)
    assert (page.status, "is taken back" in page.text, "Taken back on" in page.text) == (200, True, True)
    assert page.forms == []
    asked(await alice.asks("POST", f"{CLIENT}/createRoom", body), "FR")
    await play.send(alice, room_id, "what crosses already goes on")
    await play.settle()
    assert await play.texts(bob, room_id) == ["what crosses already goes on"]
    node = play.node("tehran")
    assert [each.withdrawn_ts is None for each in await consents.of_user(node, (await alice.caller()).user_nid)] == [
        False
    ]


@aio
async def test_signed_out_nothing_is_taken_back(cast: Cast) -> None:
    play = await cast(policy=ASKING)
    browser = Browser(play.deployment)
    page = await browser.get("/_domicile/login")
    fields = {"form_token": page.forms[0][2]["form_token"], "do": "withdraw", "target": "FR"}
    assert (await browser.ask("POST", PAGE, fields)).status == 403


@pytest.mark.parametrize("code", [code for code in LANGUAGES if code != SOURCE])
def test_every_class_has_a_name_in_each_language(code: str) -> None:
    assert {*residency_pages.KEPT.values(), *residency_pages.WHY.values()} - language(code).texts.keys() == set()


def test_sizes_and_numbers() -> None:
    english = language("en")
    assert [english.size(size) for size in (0, 1023, 1024, 5 * 1024**2, 2048 * 1024**3)] == [
        "0 byte",
        "1,023 byte",
        "1 kB",
        "5 MB",
        "2,048 GB",
    ]
    assert (english.number(1234567), language("fr").day(0)) == ("1,234,567", "1 janvier 1970")


# how it is counted --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema() -> Iterator[sqlite3.Connection]:
    """A node's database as the migrations make it."""
    connection = sqlite3.connect(":memory:")
    for migration in migrate.load(files("homeserver.storage") / "schema" / "node"):
        for statement in migrate.statements(migration.sql, "sqlite"):
            connection.execute(statement)
    yield connection
    connection.close()


def test_every_table_of_users_is_counted_or_said_why_not() -> None:
    owned = {table.name for table in TABLES.values() if table.owner is not None}
    assert {table.name for table, _ in holdings.counted()} | holdings.NOT_COUNTED.keys() == owned
    assert holdings.NOT_COUNTED.keys() <= owned


def test_nothing_is_read_from_end_to_end(schema: sqlite3.Connection) -> None:
    text = holdings.statement()
    steps = [row[3] for row in schema.execute(f"EXPLAIN QUERY PLAN {text}", [1] * text.count("?"))]
    assert [step for step in steps if step.startswith("SCAN") and "CONSTANT" not in step] == []
    assert len([step for step in steps if step.startswith("SEARCH")]) >= len(list(holdings.counted()))


@aio
async def test_rows_and_bytes_are_those_of_the_table(play: Play) -> None:
    alice = await play.user("alice")
    node = play.node("tehran")
    before, _ = await node.read(holdings.of_user, alice.user_id)
    nid = (await alice.caller()).user_nid

    async def add(tx: Transaction) -> None:
        await tx.run(
            "INSERT INTO consents (user_nid, source, target, classes, shown, language, policy_serial, given_ts)"
            " VALUES (?, 'IR', 'FR', 'events', ?, 'fa', 1, 5)",
            nid,
            b"x" * 32,
        )

    await node.write(add)
    after, _ = await node.read(holdings.of_user, alice.user_id)
    change = {b.table: (b.rows - a.rows, b.size - a.size) for a, b in zip(before, after, strict=True) if a != b}
    assert change == {"consents": (1, 4 * 8 + 2 + 2 + 6 + 32 + 2)}
