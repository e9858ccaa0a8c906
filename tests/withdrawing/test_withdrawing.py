"""Leaving a jurisdiction: announced, exported or moved, closed, erased; in that order, whoever is killed in between."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from config.placement import Attributes
from config.policy import Policy
from config.residency import NodePlace
from homeserver.accounts import deactivation, registration
from homeserver.accounts.registration import NewAccount
from homeserver.context import Server
from homeserver.doctor import examining
from homeserver.protocol import canonical, move_receipts, policy_chain
from homeserver.protocol.errors import Conflict, Forbidden, NodeUnavailable, Refusal, UserInUse
from homeserver.protocol.key_log import Kind
from homeserver.protocol.signing import SigningKey, VerifyKey, verify_json
from homeserver.residency.changes import approving
from homeserver.residency.proofs import evidence as gathered
from homeserver.residency.withdrawing import announcing, closing, erasing
from homeserver.rooms import chores
from homeserver.storage import destroying, withdrawals
from homeserver.storage.engine import Transaction
from homeserver.storage.nodes import Node
from homeserver.transparency import sequencing
from tests.deployment import FLOWING, PASSWORD, SETTINGS, User
from tests.e2ee.play import Device
from tests.endpoints.visiting import Browser
from tests.media.transfers import uploaded
from tests.moves.play import Stage, Staging
from tests.residency.evidence import resigned, verified
from tests.residency.planned import applied, following, founded, planned
from tests.support import ON_SQLITE, Databases, aio
from tests.transparency.stranger import LOGS, Stranger

PARIS = """[nodes.paris]
jurisdiction = "FR"
database = "sqlite:paris/node.db"
media = "file:paris/media"
"""
PIN = """[[pins]]
token = "fr-*"
node = "paris"
"""
HERE = f'data_dir = "."\n{SETTINGS}'
"""The data is where tests have it."""
ANN = SigningKey("approver", b"a" * 32)
FAR = 4_000_000_000_000
"""Milliseconds since 1970 of a day to come."""


class Letting:
    """Lets nodes go, as a server does that was started; ``address`` is where the test has its databases."""

    serving = True

    def __init__(self, databases: Databases) -> None:
        self._databases = databases

    def faults(self, policy: Policy) -> list[str]:
        """See `Places.faults`."""
        return []

    def address(self, place: NodePlace) -> str:
        """See `Places.address`."""
        return self._databases.url(place.name)

    async def open(self, server: Server, place: NodePlace) -> Node:
        """See `Places.open`."""
        raise AssertionError("no node comes")

    async def close(self, server: Server, name: str) -> None:
        """See `Places.close`."""
        await server.nodes.remove(name).engine.close()


def letting(play: Stage, engines: Databases) -> Stage:
    """The same deployment, from which nodes can go."""
    play.server = play.deployment.server = replace(play.server, places=Letting(engines))
    return play


async def cast(play: Stage) -> tuple[Device, Device, Device, str]:
    """Alice in Tehran, Bob and Carol in Paris; a room of Alice and Bob that Paris orders, and a file of Bob's."""
    await founded(play.server, FLOWING)
    alice, bob, carol = (
        await play.device("alice"),
        await play.device("bob", "paris"),
        await play.device("carol", "paris"),
    )
    room_id = await play.room_of(bob.user, alice.user)
    await play.send(bob.user, room_id, "hello")
    await uploaded(bob.user, b"ciphertext")
    await play.settle()
    return alice, bob, carol, room_id


async def announced(play: Stage) -> dict[str, Any]:
    """Have it announced that France is left."""
    wish = {"jurisdiction": "FR", "until": FAR}
    seen = await play.command("residency-withdraw", dry_run=True, **wish)
    assert seen["obstacles"] == []
    return await play.command("residency-withdraw", plan=seen["digest"], **wish)


async def its_day_has_come(play: Stage) -> None:
    """Have the day come until which people have time."""

    async def earlier(tx: Transaction) -> None:
        await tx.run("UPDATE withdrawals SET ends_ts = 1")

    await play.server.nodes.directory.engine.write(earlier)


async def closed(play: Stage) -> None:
    """Have the accounts closed that are left."""
    answer = await play.command("residency-withdraw-close", jurisdiction="FR")
    while not answer["done"]:
        answer = await play.command("residency-withdraw-progress")


async def without_paris(play: Stage) -> None:
    """Put a policy in force that does not have the node, and let it go."""
    made = await planned(play.server, following(FLOWING, (PARIS, ""), (PIN, "")))
    assert made.obstacles == []
    await applied(play.server, made.digest, made.after.text)


async def state_of(play: Stage) -> str:
    """How far it is, as anybody is told."""
    answer = await play.deployment.asked("GET", "/_domicile/v1/residency/withdrawals")
    (found,) = answer.json["withdrawals"]
    return str(found["state"])


# all of it --------------------------------------------------------------------------------------


@aio
async def test_a_jurisdiction_is_left_in_order(stage: Staging, engines: Databases, tmp_path: Path) -> None:
    play = letting(await stage(settings=HERE), engines)
    server = play.server
    alice, bob, carol, room_id = await cast(play)
    made = await announced(play)
    assert made["account"]["announced"] == {"paris": {"residents": 2, "accounts": 2, "files": 1, "bytes": 10}}
    assert await state_of(play) == "announced"
    for whose, expected in (
        (bob, {"state": "announced", "announced_ts": made["announced_ts"], "ends_ts": FAR}),
        (alice, None),
    ):
        answer = await whose.user.asks("GET", "/_domicile/v1/residency/me")
        assert answer.json["withdrawal"] == expected
    assert (await play.refusal("residency-withdraw-close", jurisdiction="FR")).status == 409
    await play.move(carol, "tehran")

    await its_day_has_come(play)
    assert "first" in (await play.refusal("residency-withdraw-erase", jurisdiction="FR")).message
    await closed(play)
    assert await state_of(play) == "closed"
    assert (await play.deployment.login(bob.user)).status == 403
    assert await play.rows_of("paris", bob) == {}
    await play.settle()
    member = await play.ask(alice.user, "GET", f"/rooms/{quote(room_id)}/state/m.room.member/{quote(bob.user_id)}")
    assert member["membership"] == "leave", "the rooms know"
    assert "plan" in (await play.refusal("residency-withdraw-erase", jurisdiction="FR")).message

    await without_paris(play)
    media = engines.directory / "paris" / "media"
    assert any(path.is_file() for path in media.rglob("*"))
    receipt = (await play.command("residency-withdraw-erase", jurisdiction="FR"))["receipt"].encode()
    assert not media.exists()
    await nothing_is_left(engines)
    said = checked(play, receipt)
    assert said["nodes"]["paris"]["accounts_closed"] == 1
    assert said["nodes"]["paris"]["accounts_announced"] == 2
    assert said["nodes"]["paris"]["erased"]["files"] >= 1
    assert said["policy_serial"] == 2
    last = said["nodes"]["paris"]["key_log"]
    (ended,) = (await play.deployment.asked("GET", LOGS)).json["ended"]
    assert last.splitlines()[:3] == [ended["origin"], str(ended["size"]), ended["root"]], "the last head of the key log"
    assert ended["reason"] == "this deployment has left FR"
    await sequencing.catch_up(server, play.node("tehran"))
    (stated,) = await Stranger(play.deployment).statements(Kind.WITHDRAWAL)
    assert (stated.number, stated.digest) == (1, move_receipts.digest(receipt))
    assert await state_of(play) == "done"
    assert [found for found in await examining.examine(server) if "route" in found.what] == []
    assert await server.nodes.of_user(bob.user_id) is None
    assert (await alice.user.asks("GET", f"/_matrix/client/v3/profile/{quote(bob.user_id)}")).status == 404
    assert (await bob.user.asks("GET", "/_matrix/client/v3/account/whoami")).errcode == "M_UNKNOWN_TOKEN"
    with pytest.raises(UserInUse):
        await registration.register(server, NewAccount(localpart="bob", password=PASSWORD, attributes=Attributes()))
    assert (await carol.user.asks("GET", "/_domicile/v1/residency/me")).json["node"] == "tehran"
    assert await play.send(alice.user, room_id, "are you there?"), "rooms that Paris ordered go on"
    again = await play.refusal("residency-withdraw-erase", jurisdiction="FR")
    assert again.status == 409
    bundle = await gathered.make(server)
    public = server.identity.residency_key.verify_key.base64
    status, words = verified(tmp_path, bundle.bundle, public)
    assert (status, "FR was left: nodes paris" in words) == (0, True), words
    forged = bundle.bundle.replace(b'"accounts_closed":1', b'"accounts_closed":7')
    assert (
        "the receipt of leaving FR is not signed by paris"
        in verified(tmp_path, resigned(play, forged, lambda _: None), public)[1]
    )


def checked(play: Stage, receipt: bytes) -> dict[str, Any]:
    """What a receipt says, once it is proved with the residency key alone."""
    said = orjson.loads(receipt)
    assert canonical.encode(said) == receipt
    public = play.server.identity.residency_key.verify_key
    (certificate,) = said["keys"]
    verify_json(certificate, "example.org", {public.key_id: public})
    assert certificate["node"] == "paris"
    key = VerifyKey.from_base64(move_receipts.key_id_of("paris"), certificate["key"])
    verify_json(said, "paris", {key.key_id: key})
    return dict(said)


async def nothing_is_left(engines: Databases) -> None:
    """Neither a file nor a table of Paris's database is there."""
    if engines.kind == "sqlite":
        assert [path for path in (engines.directory / "paris").rglob("*") if path.is_file()] == []
        return
    engine = engines.engine("paris")
    rows = await peeked(engines.url("paris"))
    assert rows == []
    await engine.close()


async def peeked(url: str) -> list[Any]:
    """The names of the tables that are in a schema of PostgreSQL."""
    import psycopg

    async with await psycopg.AsyncConnection.connect(url) as session:
        sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
        return await (await session.execute(sql)).fetchall()


# between announcement and end ---------------------------------------------------------------------


@ON_SQLITE
@aio
async def test_nobody_comes_any_more(stage: Staging) -> None:
    play = await stage()
    alice, _, _, _ = await cast(play)
    await announced(play)
    with pytest.raises(Forbidden, match="No accounts are made in France"):
        await play.user("dave", "paris")
    refused = await play.refusal("residency-move", user="alice", to="paris")
    assert "paris is about to go" in refused.message
    play.server.policy.withdrawn = frozenset()
    await announcing.load(play.server)
    assert play.server.policy.leaving == {"paris"}, "a server that starts knows it too"
    made = NewAccount(localpart="eve", password=PASSWORD, attributes=Attributes(token="fr-1"))
    with pytest.raises(Forbidden):
        await registration.register(play.server, made)
    await play.command("residency-withdraw-call-off", jurisdiction="FR")
    assert play.server.policy.leaving == frozenset()
    await play.user("dave", "paris")
    assert (await play.refusal("residency-withdraw-call-off", jurisdiction="FR")).status == 409
    assert (await alice.user.asks("GET", "/_domicile/v1/residency/me")).json["withdrawal"] is None


@ON_SQLITE
@aio
async def test_what_was_read_is_what_is_announced(stage: Staging) -> None:
    play = await stage()
    await founded(play.server, FLOWING)
    wish: dict[str, Any] = {"jurisdiction": "FR", "until": FAR}
    seen = await play.command("residency-withdraw", dry_run=True, **wish)
    for number in range(4):
        await play.user(f"u{number}", "paris")
    for wrong in (
        {**wish, "plan": seen["digest"]},
        {**wish, "plan": "x"},
        {**wish, "until": FAR + 1, "plan": seen["digest"]},
    ):
        assert "look again" in (await play.refusal("residency-withdraw", **wrong)).message
    for wrong in ({**wish, "until": 5}, {**wish, "jurisdiction": "DE"}, {**wish, "until": "soon"}):
        assert (await play.refusal("residency-withdraw", dry_run=True, **wrong)).status == 400
    await announced(play)
    again = await play.command("residency-withdraw", dry_run=True, **wish)
    assert "FR is being left already" in again["obstacles"][0]
    assert (await play.refusal("residency-withdraw", plan=again["digest"], **wish)).status == 409


@ON_SQLITE
@aio
async def test_approvals_are_needed_where_the_policy_asks_for_them(stage: Staging) -> None:
    play = await stage()
    server = play.server
    approver = (
        f'[changes]\nplan = true\napprovals = 1\napprovers = [{{ name = "ann", key = "{ANN.verify_key.base64}" }}]\n'
    )
    await founded(server, FLOWING + approver)
    wish: dict[str, Any] = {"jurisdiction": "FR", "until": FAR}
    seen = await play.command("residency-withdraw", dry_run=True, **wish)
    assert seen["approvals"] == {"needed": 1, "given": []}
    assert (await play.refusal("residency-withdraw", plan=seen["digest"], **wish)).status == 403
    await approving.approve(server, seen["digest"], policy_chain.approve(server.name, seen["digest"], "ann", ANN))
    made = await play.command("residency-withdraw", plan=seen["digest"], **wish)
    assert made["account"]["approvals"] == ["ann"]


@ON_SQLITE
@aio
async def test_the_last_jurisdiction_cannot_be_left(stage: Staging) -> None:
    one = FLOWING.replace(PARIS, "").replace(PIN, "")
    play = await stage(policy=one)
    await founded(play.server, one)
    seen = await play.command("residency-withdraw", dry_run=True, jurisdiction="IR", until=FAR)
    assert "there would be nothing left" in seen["obstacles"][0]


@ON_SQLITE
@aio
async def test_people_take_their_data_away(stage: Staging) -> None:
    play = await stage()
    alice, bob, _, room_id = await cast(play)
    await play.ask(bob.user, "PUT", f"/user/{quote(bob.user_id)}/account_data/org.example.note", {"text": "mine"})
    answer = await bob.user.asks("GET", "/_domicile/v1/residency/export")
    assert answer.status == 200
    tables = answer.json["tables"]
    assert {"type": "org.example.note", "content": {"text": "mine"}, "room_id": None} in [
        {"type": row["type"], "content": row["content"], "room_id": row["room_nid"]} for row in tables["account_data"]
    ]
    assert [row["device_id"] for row in tables["devices"]] == [bob.user.device_id]
    assert answer.json["rooms"] == [
        {"room_id": room_id, "membership": "join", "version": answer.json["rooms"][0]["version"]}
    ]
    assert len(answer.json["files"]) == 1
    text = orjson.dumps(answer.json).decode()
    assert "password_hash" not in text
    assert "token" not in tables
    assert "alice" not in orjson.dumps(tables["profiles"]).decode()
    await announced(play)
    assert (await Browser(play.deployment).get("/_domicile/residency/export")).path.startswith("/_domicile/login")
    browser = Browser(play.deployment, headers={"Accept-Language": "en"})
    await browser.sign_in("bob", PASSWORD)
    page = await browser.get("/_domicile/residency")
    assert "This service leaves France (FR)" in page.text
    assert "/_domicile/residency/export" in page.text
    file = await browser.get("/_domicile/residency/export")
    assert "attachment" in file.headers["content-disposition"]
    assert orjson.loads(file.text)["files"] == answer.json["files"]
    theirs = await alice.user.asks("GET", "/_domicile/v1/residency/export")
    assert bob.user.device_id not in orjson.dumps(theirs.json["tables"]["devices"]).decode()


# killed in between --------------------------------------------------------------------------------


class Killed(Exception):
    """The process is no more."""


def fused(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, blown: list[str]) -> None:
    """Have a function fail once before it does anything, and once after it has done all."""
    real: Callable[..., Awaitable[Any]] = getattr(place, name)
    is_async = name != "destroy_folder"

    def cut(when: str) -> None:
        fuse = f"{when} {name}"
        if fuse not in blown:
            blown.append(fuse)
            raise Killed(fuse)

    async def awaited(*args: Any, **kwargs: Any) -> Any:
        cut("before")
        found = await real(*args, **kwargs)
        cut("after")
        return found

    def called(*args: Any, **kwargs: Any) -> Any:
        cut("before")
        found = real(*args, **kwargs)
        cut("after")
        return found

    monkeypatch.setattr(place, name, awaited if is_async else called)


def half_done(monkeypatch: pytest.MonkeyPatch, blown: set[str]) -> None:
    """Have each file be overwritten by half only, the first time."""
    real = destroying._overwrite

    def overwrite(path: Path) -> None:
        if path.name not in blown:
            blown.add(path.name)
            with path.open("r+b") as there:
                there.write(bytes(path.stat().st_size // 2 + 1))
            raise Killed(path.name)
        real(path)

    monkeypatch.setattr(destroying, "_overwrite", overwrite)


@aio
async def test_whoever_is_killed_it_goes_on(
    stage: Staging, engines: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = letting(await stage(settings=HERE), engines)
    _, bob, carol, _ = await cast(play)
    await announced(play)
    await its_day_has_come(play)
    blown: list[str] = []
    places: list[tuple[Any, str]] = [
        (deactivation, "deactivate"),
        (chores, "leave_rooms"),
        (closing, "erase_rows"),
        (closing, "purge"),
        (withdrawals, "note"),
        (withdrawals, "end"),
        (destroying, "destroy_folder"),
        (destroying, "destroy"),
    ]
    for place, name in places:
        fused(monkeypatch, place, name, blown)
    halves: set[str] = set()
    half_done(monkeypatch, halves)
    for _ in range(20):
        try:
            await closed(play)
            break
        except (Refusal, Killed):
            assert await state_of(play) in ("announced", "closing", "closed")
    assert await state_of(play) == "closed"
    for user in (bob, carol):
        assert await play.rows_of("paris", user) == {}
    await without_paris(play)
    media = [path for path in (play.server.settings.data_dir / "paris" / "media").rglob("*") if path.is_file()]
    there = {"files": len(media), "bytes": sum(path.stat().st_size for path in media)}
    receipt = b""
    for _ in range(20):
        try:
            receipt = (await play.command("residency-withdraw-erase", jurisdiction="FR"))["receipt"].encode()
            break
        except (Refusal, Killed):
            assert await state_of(play) in ("closed", "erasing", "done")
    assert await state_of(play) == "done"
    await nothing_is_left(engines)
    # A chore leaves the rooms too, and may have been quicker the second time.
    assert {*blown, "after leave_rooms"} == {f"{when} {name}" for when in ("before", "after") for _, name in places}
    assert {path.name for path in media} <= halves
    assert engines.kind != "sqlite" or any(".db" in name for name in halves)
    (kept,) = await play.server.nodes.directory.engine.read(withdrawals.every)
    assert kept.receipt is not None
    assert receipt in (b"", kept.receipt)
    said = checked(play, kept.receipt)["nodes"]["paris"]
    assert said["accounts_closed"] == 2
    assert there.items() <= said["erased"].items(), "what was destroyed before it was cut off counts too"
    assert play.server.policy.leaving == frozenset()


@ON_SQLITE
@aio
async def test_what_belongs_to_another_by_now_is_left_alone(stage: Staging, engines: Databases) -> None:
    play = letting(await stage(settings=HERE), engines)
    await founded(play.server, FLOWING)
    await announced(play)
    await its_day_has_come(play)
    await closed(play)
    await without_paris(play)
    stranger = engines.directory / "paris" / "media" / "family.jpg"
    stranger.parent.mkdir(exist_ok=True)
    stranger.write_bytes(b"not of this server")
    with pytest.raises(Conflict, match=r"holds family\.jpg too"):
        await erasing.erase(play.server, "FR")
    (engines.directory / "paris" / "node.db").unlink()
    for ending in ("-wal", "-shm"):
        (engines.directory / "paris" / f"node.db{ending}").unlink(missing_ok=True)
    with sqlite3.connect(engines.directory / "paris" / "node.db") as other:
        other.execute("CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT, digest TEXT)")
        other.execute("INSERT INTO migrations VALUES (0, 'lyon', '')")
    other.close()
    with pytest.raises(Conflict, match="belongs to lyon by now"):
        await erasing.erase(play.server, "FR")
    assert (engines.directory / "paris" / "node.db").exists()
    assert stranger.read_bytes() == b"not of this server"


@ON_SQLITE
@aio
async def test_a_node_that_is_down_is_waited_for(stage: Staging, engines: Databases) -> None:
    play = await stage()
    alice, bob, _, _ = await cast(play)
    await announced(play)
    await its_day_has_come(play)
    await engines.take_away("paris")
    await play.node("paris").engine.probe()
    assert "waits" in (await play.refusal("residency-withdraw-close", jurisdiction="FR")).message
    assert await state_of(play) == "closing"
    with pytest.raises(NodeUnavailable):
        await play.server.nodes["paris"].read(withdrawals.left)
    await engines.bring_back("paris")
    await play.node("paris").engine.probe()
    await closed(play)
    assert await state_of(play) == "closed"
    assert await play.rows_of("paris", bob) == {}
    assert isinstance(alice.user, User)
