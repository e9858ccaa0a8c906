"""A monitor and a verifier that believe nothing but what they can check: what they see, and which lies they notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from homeserver.__main__ import main
from homeserver.command_line import monitoring
from homeserver.command_line.fetching import Unfetched
from homeserver.control import commands
from homeserver.monitor import keeping
from homeserver.monitor.seen import Report, Seen
from homeserver.protocol.checkpoints import Head
from homeserver.protocol.key_log import Leaf
from tests.deployment import Deploy, Deployment
from tests.e2ee.play import Device, Identity
from tests.e2ee.test_cross_signing import confirm
from tests.support import ON_SQLITE, aio
from tests.transparency import ghosts
from tests.transparency.pages import Pages, served
from tests.transparency.stranger import LOGS
from tests.transparency.test_ghosts import at, cast
from tests.transparency.test_key_log import caught_up
from tests.transparency.verifying import verify

NOW = 1_700_000_000


async def watch(deployment: Deployment, alice: Device) -> Seen:
    """What Alice's monitor begins with."""
    answer = await deployment.asked("GET", f"{LOGS}/me", token=alice.user.token)
    assert answer.json["user_id"] == alice.user_id
    return Seen(alice.user_id, answer.json["opening"])


async def proof(deployment: Deployment, seen: Seen) -> dict[str, Any]:
    """What is said of Alice to who has no token."""
    body = {"user_id": seen.user_id, "opening": seen.opening}
    answer = await deployment.asked("POST", f"{LOGS}/proof", body)
    assert answer.status == 200
    return answer.json


def again(seen: Seen) -> Seen:
    """As it is kept between two looks."""
    return Seen.read(seen.write())


def look(seen: Seen, pages: Pages, answer: dict[str, Any], now: int = NOW) -> Report:
    """One look of a monitor that remembers what it has seen before, and forgets this one."""
    return keeping.look(again(seen), pages.fetch, answer, now)


@aio
async def test_a_monitor_sees_all_changes(deployment: Deployment) -> None:
    alice, _, bob = await cast(deployment)
    seen = await watch(deployment, alice)
    pages, answer = await served(deployment), await proof(deployment, seen)
    assert "device_keys" not in answer
    report = keeping.look(seen, pages.fetch, answer, NOW)
    assert report.faults == []
    assert [each["reason"] for each in report.changes] == ["device_keys", "cross_signing"]
    assert report.devices == [alice.device_id]
    await confirm(alice, Identity(alice.user_id).upload())
    second = await alice.another()
    await second.publish()
    for reader in (alice, bob):  # the last leaf is not in the tree yet, and the monitor is told that it will be
        report = look(seen, await served(deployment), await reader.query(alice))
        assert (report.faults, len(report.changes)) == ([], 2)
    late = again(seen)
    keeping.look(late, (await served(deployment)).fetch, await alice.query(alice), NOW)
    assert "is not in the tree" in str(look(late, pages, answer, NOW + 4000).faults)
    await caught_up(deployment)
    seen = late
    for told in (await proof(deployment, seen), await alice.query(alice), await bob.query(alice)):
        report = keeping.look(seen, (await served(deployment)).fetch, told, NOW)
        assert report.faults == []
        assert [each["reason"] for each in report.changes[2:]] == ["identity_reset", "device_keys"]
        assert report.devices == sorted([alice.device_id, second.device_id])
    assert seen.promised == []
    assert {log["origin"].rpartition("/")[2]: log["size"] for log in report.logs} == {"tehran": 5, "paris": 0}


@ON_SQLITE
@aio
async def test_only_who_has_the_opening_is_told(deployment: Deployment) -> None:
    alice, _, bob = await cast(deployment)
    seen, other = await watch(deployment, alice), await watch(deployment, bob)
    for user_id, opening in (
        (alice.user_id, other.opening),
        (alice.user_id, ""),
        (alice.user_id, "é"),
        ("@nobody:example.org", seen.opening),
        ("@" + "a" * 300 + ":example.org", seen.opening),
    ):
        answer = await deployment.asked("POST", f"{LOGS}/proof", {"user_id": user_id, "opening": opening})
        assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
    assert (await deployment.asked("GET", f"{LOGS}/me")).status == 401


def _leaf(raw: bytes, **changed: Any) -> bytes:
    return replace(Leaf.read(raw), **changed).write()


LIES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str, str]] = {
    "removed": (lambda all_: [*all_[:2], *all_[3:]], "does not follow on", "does not follow on"),
    "reordered": (lambda all_: [*all_[:2], all_[3], all_[2]], "does not follow on", "does not follow on"),
    "back-dated": (lambda all_: [*all_[:3], _leaf(all_[3], time=5)], "older than the one before", "older than the one"),
    "another digest": (
        lambda all_: [*all_[:3], _leaf(all_[3], digest=bytes(32))],
        "the one that is served",
        "digests are not",
    ),
    "the last is missing": (lambda all_: all_[:3], "and 3 are served", "of leaf 3, which is not signed yet"),
    "no leaf": (lambda all_: [*all_[:2], b"{}", *all_[3:]], "leaf 2: that is no leaf", "leaf 2 is none"),
}


@ON_SQLITE
@aio
async def test_lies_are_noticed(deployment: Deployment, tmp_path: Path) -> None:
    alice, _, _ = await cast(deployment)
    await (await alice.another()).publish()
    await caught_up(deployment)
    seen, answer = await watch(deployment, alice), await alice.query(alice)
    honest = await served(deployment)
    assert keeping.look(again(seen), honest.fetch, answer, NOW).faults == []
    entries = honest.logs["tehran"]
    assert len(entries) == 4
    (tmp_path / "answer.json").write_bytes(orjson.dumps(answer))
    arguments = ["--user", alice.user_id, "--opening", seen.opening, "--keys", str(tmp_path / "answer.json")]
    assert verify(honest.save(tmp_path / "honest"), honest, *arguments)[0] == 0
    for name, (lie, by_monitor, by_script) in LIES.items():
        forged = await served(deployment)
        forged.forge(lie(entries))
        told = again(seen)
        faults = [*look(seen, forged, {}).faults, *keeping.look(told, forged.fetch, answer, NOW).faults]
        faults += keeping.look(told, forged.fetch, {}, NOW + keeping.PATIENCE + 1).faults
        assert by_monitor in str(faults), (name, faults)
        status, words = verify(forged.save(tmp_path / name), forged, *arguments)
        assert (status, by_script in words) == (3 if "not signed yet" in by_script else 1, True), (name, words)
    late = await served(deployment)
    late.forge(entries[:3])
    told = again(seen)
    assert keeping.look(told, late.fetch, answer, NOW).faults == []  # more witnesses have signed the one before
    assert keeping.look(again(told), honest.fetch, answer, NOW + 60).faults == []
    late.forge([*entries[:3], _leaf(entries[3], digest=bytes(32))])
    assert "is another than the one" in str(keeping.look(again(told), late.fetch, {}, NOW + 60).faults)
    cut = await served(deployment)  # the leaves are not those of the checkpoint
    cut.forge(entries, head=Head(4, bytes(32)))
    assert "there are two histories" in str(keeping.look(again(seen), cut.fetch, answer, NOW).faults)
    assert "not those that the checkpoint is of" in verify(cut.save(tmp_path / "cut"), cut)[1]


@ON_SQLITE
@aio
async def test_what_was_seen_cannot_be_taken_back(deployment: Deployment, tmp_path: Path) -> None:
    alice, _, _ = await cast(deployment)
    seen = await watch(deployment, alice)
    pages, answer = await served(deployment), await proof(deployment, seen)
    assert keeping.look(seen, pages.fetch, answer, NOW).faults == []
    entries, older = pages.logs["tehran"], pages.checkpoint()
    (tmp_path / "older").write_bytes(older)
    since = ["--since", str(tmp_path / "older")]
    assert verify(pages.save(tmp_path / "same"), pages, *since)[0] == 0
    pages.forge(entries[:2])
    assert "it was set back" in str(look(seen, pages, answer).faults)
    assert "it was set back" in verify(pages.save(tmp_path / "back"), pages, *since)[1]
    bobs = entries[1]
    pages.forge([entries[0], _leaf(bobs, digest=bytes(32)), entries[2], _leaf(entries[2], previous=2)])
    assert "there are two histories" in str(look(seen, pages, answer).faults)
    assert "there are two histories" in verify(pages.save(tmp_path / "fork"), pages, *since)[1]
    longer = await served(deployment)  # the same, and more of it: that is how it should be
    longer.forge([*entries, _leaf(bobs, previous=1)])
    assert look(seen, longer, answer).faults == []
    assert verify(longer.save(tmp_path / "longer"), longer, *since)[0] == 0
    gone = await served(deployment)
    gone.about["logs"] = [each for each in gone.about["logs"] if each["node"] != "paris"]
    gone.put("tehran", older, entries)
    assert "paris: the log is gone" in str(look(seen, gone, answer).faults)
    alarmed = await served(deployment)
    told = {"number": 1, "kind": "set_back", "origin": alarmed.said()["origin"]}
    for side, ended, faults in (("log", None, 1), ("witness", None, 0), ("log", {"reason": "because"}, 0)):
        alarmed.about["alarms"] = [{**told, "side": side, "ended": ended}]
        alarmed.put("tehran", older, entries)
        assert len(look(seen, alarmed, answer).faults) == faults
    other = await served(deployment)
    next(each for each in other.about["logs"] if each["node"] == "tehran")["vrf"] = other.said()["key"]
    other.put("tehran", older, entries)
    assert "its keys are others than before" in str(look(seen, other, answer).faults)


@ON_SQLITE
@aio
async def test_two_histories_are_seen_by_the_checkpoint_beside_the_keys(deployment: Deployment) -> None:
    """One history for the user who asks, and another for everybody who reads the log."""
    alice, _, _ = await cast(deployment)
    seen, answer = await watch(deployment, alice), await alice.query(alice)
    pages = await served(deployment)
    entries = pages.logs["tehran"]
    pages.forge([entries[0], _leaf(entries[1], digest=bytes(32)), entries[2]])
    assert "another than the one that is served" in str(look(seen, pages, answer).faults)


@ON_SQLITE
@aio
async def test_a_log_that_was_ended_is_a_fault_once(deployment: Deployment) -> None:
    alice, _, _ = await cast(deployment)
    seen = await watch(deployment, alice)
    assert keeping.look(seen, (await served(deployment)).fetch, await proof(deployment, seen), NOW).faults == []
    await commands.perform(deployment.server, "log-begin-anew", {"node": "tehran", "reason": "from a backup"})
    await caught_up(deployment)
    pages, answer = await served(deployment), await proof(deployment, seen)
    report = keeping.look(seen, pages.fetch, answer, NOW)
    assert "the log was ended at 3 leaves, and had 3" in str(report.faults)
    assert "from a backup" in str(report.faults)
    report = keeping.look(seen, pages.fetch, answer, NOW)
    assert (report.faults, len(report.notes)) == ([], 1)
    assert [each["reason"] for each in report.changes] == ["device_keys", "cross_signing", "found"]


@ON_SQLITE
@aio
async def test_ghosts_are_seen(deploy: Deploy) -> None:
    deployment = await deploy()
    alice, _, bob = await cast(deployment)
    seen = await watch(deployment, alice)
    await ghosts.by_sql(deployment.node("tehran"), alice.user_id)
    deployment = await deploy()
    await caught_up(deployment)
    pages = await served(deployment)
    faults = look(seen, pages, await at(deployment, alice).query(alice)).faults
    assert "the device GHOST is shown, and the log does not speak of it" in str(faults)
    assert look(seen, pages, await at(deployment, bob).query(alice)).faults == []
    ghost = await ghosts.by_admin(deployment, alice.user_id)
    await caught_up(deployment)
    report = look(seen, await served(deployment), await proof(deployment, seen))
    assert [each["reason"] for each in report.changes[-2:]] == ["device_removed", "device_keys"]
    assert report.devices == [ghost.device_id]


# as commands --------------------------------------------------------------------------------


@ON_SQLITE
@aio
async def test_the_command(deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, _, _ = await cast(deployment)
    seen, pages = await watch(deployment, alice), await served(deployment)
    own, told = await alice.query(alice), await proof(deployment, seen)

    def fetched(url: str, most: int, *, token: str | None = None, sent: bytes | None = None) -> bytes:
        path = url.removeprefix("https://h.example")
        if path.endswith("/keys/query"):
            return orjson.dumps(own) if token == "secret" else b"no"
        if path == f"{LOGS}/me":
            return orjson.dumps({"user_id": seen.user_id, "opening": seen.opening})
        if path == f"{LOGS}/proof":
            assert orjson.loads(sent or b"") == {"user_id": seen.user_id, "opening": seen.opening}
            return orjson.dumps(told)
        if path not in pages.pages:
            raise Unfetched(f"{path} answers with status 404")
        return pages.fetch(path, most)

    monkeypatch.setattr(monitoring, "fetched", fetched)
    (tmp_path / "token").write_text("secret\n")
    state = tmp_path / "alice.json"
    called = ["log", "monitor", alice.user_id, "--url", "https://h.example/", "--state", str(state)]
    run = CliRunner().invoke
    refused = run(main, called)
    assert (refused.exit_code, state.exists()) == (2, False)
    done = run(main, [*called, "--token-file", str(tmp_path / "token")])
    assert done.exit_code == 0, done.output
    assert "What is shown is what the logs say." in done.output
    assert "cross-signing keys were published" in done.output
    assert state.stat().st_mode & 0o777 == 0o600
    done = run(main, [*called, "--json"])  # by what was kept, without a token
    assert (done.exit_code, orjson.loads(done.stdout)["devices"]) == (0, [alice.device_id])
    ghost = Report(devices=[alice.device_id, "GHOST\x1b[1A\x1b[2K\n\u202e"])
    with monkeypatch.context() as patch:
        patch.setattr(keeping, "look", lambda *_: ghost)
        said = run(main, called).output
    assert f"Devices now: {alice.device_id}, GHOST\\x1b[1A\\x1b[2K\\n\\u202e\n" in said, "it hides itself"
    pages.forge(pages.logs["tehran"][:1])
    done = run(main, called)
    assert done.exit_code == 1
    assert "it was set back" in done.output
    assert run(main, [*called[:2], "@bob:example.org", *called[3:]]).exit_code == 2
    del pages.pages[LOGS]
    assert run(main, called).exit_code == 1


@ON_SQLITE
@aio
async def test_a_proof_that_came_with_a_copy_may_be_older(deployment: Deployment) -> None:
    alice, _, bob = await cast(deployment)
    seen, answer = await watch(deployment, alice), await alice.query(alice)
    await (await bob.another()).publish()  # the log goes on, and nothing of it is about her
    await caught_up(deployment)
    pages = await served(deployment)
    assert keeping.look(seen, pages.fetch, await alice.query(alice), NOW).faults == []
    told = answer[keeping.FIELD][pages.said()["origin"]]
    told["users"][alice.user_id]["checkpoint"] = told["checkpoint"]
    told["checkpoint"] = pages.checkpoint().decode()
    assert look(seen, pages, answer).faults == []
    del told["checkpoint"]
    assert look(seen, pages, answer).faults == []
    old = (await served(deployment)).logs["tehran"]
    lie = await served(deployment)
    lie.forge([*old[:2], _leaf(old[2], digest=bytes(32))])
    told["users"][alice.user_id]["checkpoint"] = lie.checkpoint().decode()
    assert "is another than the one that is served" in str(look(seen, pages, answer).faults)
