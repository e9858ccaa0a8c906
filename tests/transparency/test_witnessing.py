"""A deployment as a witness: what it signs of the logs of others, what it keeps, and what it says of those that lie."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from typing import Any

import pytest

from homeserver.control import commands
from homeserver.protocol import checkpoints, log_alarms, signed_notes, witnessing
from homeserver.protocol.errors import InvalidParam
from homeserver.protocol.log_alarms import Kind, Side
from homeserver.protocol.signed_notes import NamedKey
from homeserver.protocol.witnessing import Submission
from homeserver.runtime.clock import FakeClock
from homeserver.storage import witnessed_logs
from homeserver.storage.engine import Transaction
from homeserver.transparency import stating
from tests.deployment import Deploy, Deployment
from tests.support import ON_SQLITE, aio
from tests.transparency.logs_of_others import ORIGIN, Log, Witness, leaves, wired
from tests.transparency.test_key_log import caught_up

AT = "/_domicile/v1/witness"
NAME = f"example.org{AT}"


async def gives(deployment: Deployment, command: str, **arguments: Any) -> dict[str, Any]:
    """What a command answers."""
    return await commands.perform(deployment.server, command, arguments)


async def witness(deployment: Deployment, log: Log) -> NamedKey:
    """Witness a log; returns the key that is signed with."""
    await gives(deployment, "log-witness-add", log=log.origin, key=log.key.write())
    return NamedKey.read((await gives(deployment, "log-witness-list"))["key"])


async def asked(deployment: Deployment, submission: Submission) -> tuple[int, bytes, str]:
    """Submit a checkpoint; status, body and content type."""
    answer = await deployment.site.call("POST", f"{AT}/add-checkpoint", body=submission.write(), address="192.0.2.1")
    assert isinstance(answer.body, bytes)
    return answer.status, answer.body, answer.content_type


async def signed(deployment: Deployment, submission: Submission, key: NamedKey) -> int:
    """Submit a checkpoint that is to be signed; returns the time in the signature."""
    status, body, _ = await asked(deployment, submission)
    assert status == 200, body
    note = submission.note.with_signatures(signed_notes.read_signatures(body))
    return checkpoints.witnesses(note, [key])[key]


async def held(deployment: Deployment, origin: str = ORIGIN) -> bytes:
    """What anybody is shown of a log."""
    path = f"{AT}/{witnessing.place_of(origin)}/checkpoint"
    answer = await deployment.site.call("GET", path, address="192.0.2.1")
    assert answer.status == 200
    assert isinstance(answer.body, bytes)
    return answer.body


@aio
async def test_what_goes_on_is_signed_and_shown(deploy: Deploy) -> None:
    deployment, log = await deploy(), Log(leaves(20))
    key = await witness(deployment, log)
    assert key.name == NAME
    old = 0
    for size in (3, 8, 8, 20):
        assert await signed(deployment, log.submission(old, size), key) == deployment.clock.now_ms() // 1000
        note = signed_notes.read(await held(deployment))
        assert checkpoints.opened(note, log.key).head == log.head(size)
        assert checkpoints.witnesses(note, [key])
        old = size
        deployment = await deploy()  # and it is known after a restart
    overview = await deployment.asked("GET", AT)
    (shown,) = overview.json["logs"]
    assert (shown["origin"], shown["size"], b64decode(shown["root"])) == (ORIGIN, 20, log.head(20).root)
    assert overview.json["key"] == key.write()
    assert (await deployment.asked("GET", "/_domicile/v1/key-log")).json["witness"]["key"] == key.write()
    assert (await deployment.asked("GET", f"{AT}/{'0' * 64}/checkpoint")).status == 404


@ON_SQLITE
@aio
async def test_what_does_not_is_refused_as_is_specified(deployment: Deployment) -> None:
    log, other = Log(leaves(20)), Log(leaves(20), "other.example/log")
    key = await witness(deployment, log)
    await signed(deployment, log.submission(0, 7), key)
    before = await held(deployment)
    assert (await asked(deployment, other.submission(0, 7)))[0] == 404
    assert await asked(deployment, log.submission(3, 20)) == (409, b"7\n", "text/x.tlog.size")
    assert await asked(deployment, log.submission(0, 5)) == (409, b"7\n", "text/x.tlog.size")
    assert (await asked(deployment, Submission(9, (), log.note(8))))[0] == 400
    assert (await asked(deployment, Submission(7, (bytes(32),), log.note(20))))[0] == 422
    stranger = Log(log.leaves)
    stranger.signer = Witness("x").signer
    assert (await asked(deployment, stranger.submission(7, 20)))[0] == 403
    answer = await deployment.site.call("POST", f"{AT}/add-checkpoint", body=b"nothing", address="192.0.2.1")
    assert answer.status == 400
    assert await held(deployment) == before
    assert (await gives(deployment, "log-alarms"))["alarms"] == []  # anybody may have sent that
    (shown,) = (await gives(deployment, "log-witness-list"))["logs"]
    assert shown["refused_since"] == deployment.clock.now_ms() // 1000
    await signed(deployment, log.submission(7, 20), key)
    assert (await gives(deployment, "log-witness-list"))["logs"][0]["refusal"] is None


@aio
async def test_of_two_at_once_one_is_signed(deployment: Deployment) -> None:
    log = Log(leaves(30))
    fork = Log([*log.leaves[:7], *leaves(23, "other")])
    key = await witness(deployment, log)
    await signed(deployment, log.submission(0, 7), key)
    found = await asyncio.gather(
        *(asked(deployment, each) for each in (log.submission(7, 20), fork.submission(7, 20), log.submission(7, 25)))
    )
    assert sorted(status for status, _, _ in found) == [200, 409, 409]
    note = signed_notes.read(await held(deployment))
    (line,) = [body for status, body, _ in found if status == 200]
    assert note.signatures[-1].write().encode() == line


@ON_SQLITE
@aio
async def test_a_clock_that_was_set_back_does_not_show(deploy: Deploy) -> None:
    deployment, log = await deploy(), Log(leaves(20))
    key = await witness(deployment, log)
    first = await signed(deployment, log.submission(0, 7), key)
    await deployment.clock.advance(30)
    assert await signed(deployment, log.submission(7, 7), key) == first  # the same once more, and nothing is written
    await deployment.clock.advance(60)
    assert await signed(deployment, log.submission(7, 7), key) == first + 90
    back = await deploy(clock=FakeClock(1_600_000_000_000))
    assert await signed(back, log.submission(7, 7), key) == first + 90
    assert await signed(back, log.submission(7, 9), key) == first + 90


async def _kill(*_: object) -> bool:
    raise InterruptedError


@aio
async def test_it_is_written_down_before_it_is_answered(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment, log = await deploy(), Log(leaves(20))
    key = await witness(deployment, log)
    await signed(deployment, log.submission(0, 7), key)
    with monkeypatch.context() as patch:  # killed before it was written: nothing is answered
        patch.setattr(witnessed_logs, "advance", _kill)
        status, body, _ = await asked(deployment, log.submission(7, 15))
        assert (status, b"cosignature" in body or b"\xe2\x80\x94" in body) == (500, False)
    deployment.observed.faults.clear()
    assert await asked(deployment, log.submission(5, 15)) == (409, b"7\n", "text/x.tlog.size")
    real = deployment.server.nodes.directory.engine.write
    with monkeypatch.context() as patch:  # killed behind it: the log hears nothing, and asks again

        async def written(*arguments: Any) -> None:
            await real(*arguments)
            raise InterruptedError

        patch.setattr(deployment.server.nodes.directory.engine, "write", written)
        assert (await asked(deployment, log.submission(7, 15)))[0] == 500
    deployment.observed.faults.clear()
    again = await deploy()
    assert await asked(again, log.submission(7, 15)) == (409, b"15\n", "text/x.tlog.size")
    assert await signed(again, log.submission(15, 15), key)
    fork = Log([*log.leaves[:7], *leaves(13, "other")])
    assert (await asked(again, fork.submission(15, 20)))[0] == 422


def _fork(kind: str, log: Log) -> Log:
    told = log.leaves[:]
    if kind == "removed":
        del told[3]
    elif kind == "reordered":
        told[3], told[4] = told[4], told[3]
    else:
        told.insert(2, b"long ago")
    return Log([*told, *leaves(5, "later")])


@ON_SQLITE
@pytest.mark.parametrize("kind", ["removed", "reordered", "back-dated"])
@aio
async def test_another_history_is_an_alarm(deploy: Deploy, kind: str) -> None:
    deployment, log = await deploy(), Log(leaves(20))
    key = await witness(deployment, log)
    await signed(deployment, log.submission(0, 7), key)
    before = await held(deployment)
    lie = _fork(kind, log)
    assert (await asked(deployment, lie.submission(7, 12)))[0] == 422
    assert (await asked(deployment, lie.submission(7, 7)))[0] == 409
    (alarm,) = (await deployment.asked("GET", "/_domicile/v1/key-log")).json["alarms"]
    assert (alarm["number"], alarm["kind"], alarm["side"]) == (1, Kind.TWO_HISTORIES, Side.WITNESS)
    link = log_alarms.read((await _links(deployment))[0])
    log_alarms.check(link)  # to anybody who has the key of the log
    assert link.key == log.key.write()
    assert link.held.encode() == before
    again = await deploy()
    status, body, _ = await asked(again, log.submission(7, 20))  # the true one as well: who can tell
    assert status == 403
    assert b"contradicted itself" in body
    assert await held(again) == before
    with pytest.raises(InvalidParam, match="Say why"):
        await gives(again, "log-alarm-end", number=1, reason=" ")
    with pytest.raises(InvalidParam, match="No alarm 2"):
        await gives(again, "log-alarm-end", number=2, reason="because")
    await gives(again, "log-alarm-end", number=1, reason="their disk was lost")
    await signed(again, log.submission(7, 20), key)
    (alarm,) = (await again.asked("GET", "/_domicile/v1/key-log")).json["alarms"]
    assert alarm["ended"]["reason"] == "their disk was lost"  # and it is there for ever


async def _links(deployment: Deployment) -> list[bytes]:
    return await deployment.server.nodes.directory.engine.read(_all_links)


async def _all_links(tx: Transaction) -> list[bytes]:
    return [bytes(row[0]) for row in await tx.all("SELECT link FROM log_alarms ORDER BY number")]


@aio
async def test_an_alarm_cannot_be_deleted_unseen(deployment: Deployment) -> None:
    server, log = deployment.server, Log(leaves(20))
    key = await witness(deployment, log)
    await signed(deployment, log.submission(0, 7), key)
    await asked(deployment, _fork("removed", log).submission(7, 12))
    await gives(deployment, "log-witness-remove", origin=ORIGIN)
    assert len((await gives(deployment, "log-alarms"))["alarms"]) == 1
    for node in server.nodes:
        await stating.catch_up(server, node)
        await stating.catch_up(server, node)  # twice is as once
    await caught_up(deployment)
    assert await stating.faults(server) == []
    await server.nodes.directory.engine.write(_delete_alarms)
    expected = [f"the key log of {name} states the alarm 1, which is gone" for name in ("tehran", "paris")]
    assert (await gives(deployment, "log-status"))["alarm_faults"] == expected
    assert (await deployment.asked("GET", "/_domicile/v1/key-log")).json["alarm_faults"] == expected
    with pytest.raises(InvalidParam):
        await gives(deployment, "log-alarm-end", number=1, reason=" ")
    with pytest.raises(InvalidParam):
        await gives(deployment, "log-alarm-end", number=2, reason="why")
    await gives(deployment, "log-alarm-end", number=1, reason="the directory came back from a backup")
    found = await gives(deployment, "log-alarms")
    assert found["faults"] == []
    assert [(each["kind"], each["ends"], each["ended"]["reason"]) for each in found["alarms"]] == [
        (Kind.LOST, 1, "the directory came back from a backup")
    ]
    for node in server.nodes:
        await stating.catch_up(server, node)
    await server.nodes.directory.engine.write(_delete_alarms)  # and that cannot be deleted either
    assert len((await gives(deployment, "log-status"))["alarm_faults"]) == 4


async def _delete_alarms(tx: Transaction) -> None:
    await tx.run("DELETE FROM log_alarms")


@ON_SQLITE
@aio
async def test_a_log_that_was_removed_goes_on_from_where_it_was(deployment: Deployment) -> None:
    log = Log(leaves(20))
    key = await witness(deployment, log)
    await signed(deployment, log.submission(0, 7), key)
    await gives(deployment, "log-witness-remove", origin=ORIGIN)
    assert (await asked(deployment, log.submission(7, 9)))[0] == 404
    assert b"\n7\n" in await held(deployment)  # for ever
    with pytest.raises(InvalidParam, match="is not witnessed here"):
        await gives(deployment, "log-witness-remove", origin=ORIGIN)
    log.signer, before = Witness("x").signer, log.signer
    with pytest.raises(InvalidParam, match="with another key"):
        await witness(deployment, log)
    log.signer = before
    await witness(deployment, log)
    assert (await asked(deployment, log.submission(0, 3)))[0] == 409
    await signed(deployment, log.submission(7, 9), key)


@ON_SQLITE
@aio
async def test_which_logs_can_be_witnessed(deployment: Deployment) -> None:
    log = Log(leaves(3))
    for wrong, key in (
        ("other.example/log", log.key.write()),
        (ORIGIN, "nothing"),
        (ORIGIN, log.key.write()[:-4] + "AAA="),
        ("w.example", Witness("w.example").key.write()),
        ("example.org/x", Log([], "example.org/x").key.write()),
    ):
        with pytest.raises(InvalidParam):
            await gives(deployment, "log-witness-add", log=wrong, key=key)
    there = Witness("there")
    wires = wired(deployment, log=there)
    for note, fault in ((b"", "status 404"), (b"x", "another key"), (Log([], "a/b").note(0).write(), "another key")):
        there.note = note
        with pytest.raises(InvalidParam, match=fault):
            await gives(deployment, "log-witness-add", log="https://log.example/zurich", key=log.key.write())
    there.note = log.note(3).write()
    answer = await gives(deployment, "log-witness-add", log="https://log.example/zurich/", key=log.key.write())
    assert answer == {"origin": ORIGIN}
    assert wires.asked[-1] == ("log.example", "GET", "/zurich/checkpoint")
    wires.cut.add("log.example")
    with pytest.raises(InvalidParam, match="cannot be reached"):
        await gives(deployment, "log-witness-add", log="https://log.example/zurich", key=log.key.write())


@aio
async def test_two_alarms_at_once_are_two_links(deployment: Deployment) -> None:
    logs = [Log(leaves(20), f"{name}.example/log") for name in ("one", "two", "three")]
    for log in logs:
        await signed(deployment, log.submission(0, 7), await witness(deployment, log))
    forks = [Log(_fork("removed", log).leaves, log.origin) for log in logs]
    found = await asyncio.gather(*(asked(deployment, fork.submission(7, 12)) for fork in (*forks, *forks)))
    assert {status for status, _, _ in found} == {422}
    alarms = (await gives(deployment, "log-alarms"))["alarms"]
    assert sorted(each["origin"] for each in alarms) == sorted(log.origin for log in logs)
    assert [each["number"] for each in alarms] == [1, 2, 3]
    assert await stating.faults(deployment.server) == []
