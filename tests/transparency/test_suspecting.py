"""A witness that was shown something which it cannot judge asks the log: forks are alarms, and noise accuses nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from homeserver.protocol import checkpoints, log_alarms, merkle, tiles
from homeserver.protocol.branching import Fork
from homeserver.protocol.checkpoints import Checkpoint, Head
from homeserver.protocol.log_alarms import Kind, Side
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.witnessing import Submission
from homeserver.runtime.outbound import Place
from homeserver.storage import refused_checkpoints, signed_checkpoints, witnessed_logs
from homeserver.transparency import alarms, remote_logs, suspecting
from tests.deployment import Deploy, Deployment
from tests.support import ON_SQLITE, aio
from tests.transparency.logs_of_others import Log, Shelf, Wires, leaves, wired
from tests.transparency.test_witnessing import _links, asked, gives, held, signed, witness

ORIGIN = "log.example/zurich"


def forked(log: Log, at: int, size: int = 30) -> Log:
    """The log as it is for whoever is shown others leaves from there on."""
    return Log([*log.leaves[:at], *leaves(size - at, "other")], log.origin)


def unproved(log: Log, old: int, size: int) -> Submission:
    """A checkpoint that the log has signed, with no proof."""
    return Submission(old, (), log.note(size))


async def looked(deployment: Deployment) -> float | None:
    """Have everything looked into that may be."""
    return await suspecting.look_into_all(deployment.server)


async def told(deployment: Deployment, origin: str = ORIGIN) -> dict[str, Any]:
    """What the operator of the witness is told of a log."""
    logs = (await gives(deployment, "log-witness-list"))["logs"]
    return next(dict(each) for each in logs if each["origin"] == origin)


async def raised(deployment: Deployment) -> list[dict[str, Any]]:
    """All alarms; each must prove itself to everybody."""
    for link in await _links(deployment):
        if (read := log_alarms.read(link)).kind is not Kind.ENDED:
            log_alarms.check(read)
    found: list[dict[str, Any]] = (await gives(deployment, "log-alarms"))["alarms"]
    return found


async def begun(deployment: Deployment, size: int, at: int | None = None) -> tuple[Log, Shelf, Wires]:
    """Sign so many leaves of a log, which from then on shows itself; as forked ``at``, if that is said."""
    log = Log(leaves(30))
    await signed(deployment, log.submission(0, size), await witness(deployment, log))
    shelf = Shelf(log if at is None else forked(log, at))
    return log, shelf, wired(deployment, log=shelf)


@aio
async def test_a_fork_at_a_power_of_two_is_an_alarm(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = await deploy()
    log, shelf, wires = await begun(deployment, 8, at=5)
    status, body, _ = await asked(deployment, shelf.log.submission(8, 18))
    assert (status, orjson.loads(body)["errcode"]) == (422, "M_INVALID_PARAM")
    assert await raised(deployment) == []
    assert wires.asked == []  # whoever submits does not wait for the log
    assert (await told(deployment))["unexplained"] == 1
    assert await looked(deployment) is None
    (alarm,) = await raised(deployment)
    assert (alarm["kind"], alarm["side"], alarm["origin"]) == (Kind.TWO_HISTORIES, Side.WITNESS, ORIGIN)
    assert alarm["held"].encode() == await held(deployment)
    assert (await told(deployment))["unexplained"] == 0
    again = await deploy()
    for submission in (shelf.log.submission(8, 18), log.submission(8, 20)):
        assert (await asked(again, submission))[0] in (422, 403)
    wired(again, log=shelf)
    await looked(again)
    assert len(await raised(again)) == 1
    assert (await told(again))["size"] == 8
    with monkeypatch.context() as patch:  # whoever says it once more has nothing written
        patch.setattr(again.server.nodes.directory.engine, "write", _kill)
        assert (await asked(again, unproved(shelf.log, 0, 8)))[0] == 409


@ON_SQLITE
@aio
async def test_every_fork_is_an_alarm_and_no_honest_log(deployment: Deployment) -> None:
    """Whether the log comes with the proof of its fork, with noise, or with nothing."""
    hosts: dict[str, Shelf] = {}
    expected = set()
    for old, new, at in [(1, 2, 0), (1, 30, 0), (2, 3, 1), (4, 7, 3), (4, 5, 0), (8, 16, 7), (16, 17, 2), (16, 30, 15)]:
        for name in ("proved", "bare", "noisy", "honest", "cut"):
            host = f"{name}-{old}-{new}"
            log = Log(leaves(30), f"{host}.example/log")
            lie = log if name in ("honest", "cut") else forked(log, at)
            await signed(deployment, log.submission(0, old), await witness(deployment, log))
            hosts[host] = Shelf(lie)
            submission = lie.submission(old, new)
            proof = {
                "proved": submission.proof,
                "noisy": (bytes(32), *submission.proof[1:]),
                "honest": (*submission.proof, bytes(32)),
                "cut": submission.proof[:-1],
            }.get(name, ())
            assert (await asked(deployment, Submission(old, proof, submission.note)))[0] == 422
            if lie is not log:
                expected.add(log.origin)
    wired(deployment, **hosts)
    assert await looked(deployment) is None
    assert {each["origin"] for each in await raised(deployment)} == expected
    for host, shelf in hosts.items():
        if shelf.log.origin not in expected:
            old, new = (int(each) for each in host.split("-")[1:])
            assert (await asked(deployment, shelf.log.submission(old, new)))[0] == 200


@ON_SQLITE
@aio
async def test_a_smaller_one_of_another_history_is_an_alarm(deployment: Deployment) -> None:
    log, _, wires = await begun(deployment, 13)
    for size in (1, 8, 12):
        assert (await asked(deployment, unproved(log, 0, size)))[0] == 409
    assert await looked(deployment) is None
    assert await raised(deployment) == []  # an old one that somebody has kept
    asked_for = len(wires.asked)
    assert (await asked(deployment, unproved(log, 0, 8)))[0] == 409
    assert (await asked(deployment, unproved(log, 0, 20)))[0] == 409  # whoever is elsewhere may well come again
    await deployment.clock.advance(60)
    assert await looked(deployment) is None
    assert len(wires.asked) == asked_for  # it is known
    lie = forked(log, 7)
    assert (await asked(deployment, unproved(lie, 0, 8)))[0] == 409
    assert await looked(deployment) is None
    (alarm,) = await raised(deployment)
    assert alarm["shown"].encode() == lie.note(8).write()
    assert (await asked(deployment, log.submission(13, 20)))[0] == 403


@aio
async def test_a_smaller_one_is_held_against_what_was_signed_then(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signed_checkpoints, "MOST", 3)
    deployment, log = await deploy(), Log(leaves(30))
    key = await witness(deployment, log)
    for old, size in ((0, 3), (3, 3), (3, 5), (5, 8), (8, 13)):
        await signed(deployment, log.submission(old, size), key)
        await deployment.clock.advance(61)
    wires = wired(deployment)
    again = await deploy()
    for size in (5, 8):
        assert (await asked(again, unproved(log, 0, size)))[0] == 409
    assert (await told(again))["unexplained"] == 0  # they are known
    for size in (3, 7):
        assert (await asked(again, unproved(log, 0, size)))[0] == 409
    assert (await told(again))["unexplained"] == 2  # so many are remembered
    assert (await asked(again, unproved(forked(log, 3), 0, 8)))[0] == 409
    (alarm,) = await raised(again)
    assert alarm["held"].startswith(log.note(8).text)
    assert alarm["shown"].startswith(forked(log, 3).note(8).text)
    assert (await asked(again, log.submission(13, 20)))[0] == 403
    assert wires.asked == []


@ON_SQLITE
@aio
async def test_a_log_that_took_back_what_it_had_signed_is_caught_before_it_has_as_many(deployment: Deployment) -> None:
    """Its own tree is gone, in which it had more."""
    log = Log(leaves(30))
    key = await witness(deployment, log)
    for old, size in ((0, 3), (3, 8), (8, 20)):
        await signed(deployment, log.submission(old, size), key)
    for at, size, found in ((8, 8, 0), (9, 12, 0), (7, 12, 1)):
        shelf = Shelf(forked(log, at), size)
        wired(deployment, log=shelf)
        await asked(deployment, unproved(shelf.log, 0, 7))
        await deployment.clock.advance(1800)
        await looked(deployment)
        assert len(await raised(deployment)) == found  # of what is others only behind 8, nobody can tell yet


@ON_SQLITE
@aio
async def test_what_it_shows_to_everybody_is_held_against_it(deployment: Deployment) -> None:
    """It shows another history than it had signed, or somebody else is shown one, and has nothing but a checkpoint."""
    for at, shows, size in ((5, "lie", 18), (5, "truth", 18), (5, "lie", 3), (12, "truth", 13)):
        log = Log(leaves(30), f"x{at}-{shows}-{size}.example/log")
        await signed(deployment, log.submission(0, 8), await witness(deployment, log))
        lie = forked(log, at)
        wired(deployment, **{log.origin.partition(".")[0]: Shelf(lie if shows == "lie" else log)})
        before = len(await raised(deployment))
        assert (await asked(deployment, unproved(lie, 8 if size > 8 else 0, size)))[0] in (422, 409)
        await looked(deployment)
        assert [each["origin"] for each in (await raised(deployment))[before:]] == [log.origin]


@aio
async def test_it_is_looked_into_when_the_log_can_be_asked_again(deploy: Deploy) -> None:
    deployment = await deploy()
    _, shelf, wires = await begun(deployment, 8, at=5)
    wires.cut.add("log.example")
    await asked(deployment, shelf.log.submission(8, 18))
    clock, begin, times = deployment.clock, deployment.clock.monotonic(), 0
    while clock.monotonic() < begin + 6 * 3600:
        before = len(wires.asked)
        pause = await looked(deployment)
        times += len(wires.asked) > before
        assert pause is not None
        await clock.advance(pause)
    assert 15 <= times < 25  # at once, and never more seldom than every half hour
    assert len(wires.asked) < 5 * times
    assert "cannot be reached" in (await told(deployment))["refusal"]
    assert await raised(deployment) == []
    again = await deploy(clock=clock)
    wired(again, log=shelf)
    assert await looked(again) is None
    assert len(await raised(again)) == 1


@ON_SQLITE
@aio
async def test_nobody_can_have_the_log_asked_as_often_as_they_like(deployment: Deployment) -> None:
    log, shelf, wires = await begun(deployment, 8)
    for _ in range(10):
        for size in range(9, 31):
            await asked(deployment, unproved(log, 8, size))
            await looked(deployment)
    assert len(wires.asked) < 10
    shelf.lie = lambda path: (404, b"")
    await deployment.clock.advance(60)
    asked_for = len(wires.asked)
    await looked(deployment)
    assert asked_for < len(wires.asked) <= asked_for + remote_logs.REQUESTS
    waiting = await deployment.server.nodes.directory.engine.read(refused_checkpoints.waiting)
    assert [each.head.size for each in waiting[ORIGIN]] == list(range(30, 30 - refused_checkpoints.MOST, -1))


@ON_SQLITE
@aio
async def test_a_look_is_bounded_whatever_a_log_signs_and_shows(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, shelf, wires = await begun(deployment, 8)

    def anything(target: str) -> tuple[int, bytes] | None:
        tile = tiles.read_path(target.split("/")[2:]) if "/tile/" in target else None
        return None if tile is None else (200, bytes(tile.width * merkle.HASH_BYTES))

    shelf.lie = anything
    await asked(deployment, Submission(8, (bytes(32),), log.note(8)))
    assert (await told(deployment))["unexplained"] == 0  # that is what was signed
    for size in (2**62 + 12345, 2**63 - 1):
        note = checkpoints.signed(Checkpoint(ORIGIN, Head(size, bytes(32))), log.signer)
        assert (await asked(deployment, Submission(8, (), note)))[0] == 422
    assert await looked(deployment) is not None
    assert "the hashes are not those" in (await told(deployment))["refusal"]
    assert 16 < len(wires.asked) <= remote_logs.REQUESTS
    monkeypatch.setattr(remote_logs, "REQUESTS", 3)
    await deployment.clock.advance(1800)
    asked_for = len(wires.asked)
    await looked(deployment)
    assert len(wires.asked) == asked_for + 3
    assert "asked too often" in (await told(deployment))["refusal"]


@ON_SQLITE
@aio
async def test_what_was_found_before_a_log_falls_silent_stays_found(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, shelf, wires = await begun(deployment, 8)
    lie, real = forked(log, 5), wires.request
    shelf.size = 20
    for size in (12, 25):
        await asked(deployment, unproved(lie, 8, size))

    async def silent(method: str, place: Place, target: str, **named: Any) -> Any:
        if target == "/":
            raise TimeoutError  # as when the look has taken as long as it may
        return await real(method, place, target, **named)

    monkeypatch.setattr(wires, "request", silent)
    await looked(deployment)
    assert [each["shown"] for each in await raised(deployment)] == [lie.note(12).write().decode()]


def _lies(log: Log) -> list[tuple[str, Callable[[str], tuple[int, bytes] | None]]]:
    """What a log may show that has signed nothing but the truth, or whoever sits on the wire."""
    other = Shelf(forked(log, 3))
    stranger = checkpoints.signed(Checkpoint(ORIGIN, Head(30, bytes(32))), somebody())
    kept = Shelf(log)

    def of(path: str, status: int, body: bytes) -> Callable[[str], tuple[int, bytes] | None]:
        return lambda target: (status, body) if path in target else None

    def tiles_of_another(target: str) -> tuple[int, bytes] | None:
        return other.answer("GET", "/zurich" + target, b"") if "/tile/" in target else None

    def noise(target: str) -> tuple[int, bytes] | None:
        if "/tile/" not in target:
            return None
        status, body = kept.answer("GET", "/zurich" + target, b"")
        return status, bytes(len(body))

    def no_tiles(note: bytes) -> Callable[[str], tuple[int, bytes] | None]:
        return lambda target: (200, note) if target == "/checkpoint" else (404, b"")

    return [
        ("the hashes are not those", tiles_of_another),
        ("the hashes are not those", noise),
        ("another width", of("/tile/", 200, bytes(31))),
        ("does not show the tiles", of("/tile/", 404, b"")),
        ("status 302", of("/", 302, b"")),
        ("status 503", of("/", 503, b"{}")),
        ("does not show the tiles", no_tiles(stranger.write())),
        ("does not show the tiles", no_tiles(b"\xff")),
        ("does not show the tiles", no_tiles(log.note(0).write())),
    ]


def somebody() -> SigningKey:
    """Somebody else's key."""
    return SigningKey("log", b"e" * 32)


@ON_SQLITE
@aio
async def test_nothing_that_is_shown_is_believed(deployment: Deployment) -> None:
    log, shelf, _ = await begun(deployment, 8)
    for fault, lie in _lies(log):
        shelf.lie = lie
        await asked(deployment, unproved(log, 8, 18))
        await deployment.clock.advance(1800)
        assert await looked(deployment) is not None
        said = await told(deployment)
        assert said["unexplained"] == 1
        assert fault in said["refusal"]
        assert await raised(deployment) == []
    shelf.lie = lambda path: None
    await deployment.clock.advance(1800)
    assert await looked(deployment) is None
    assert await raised(deployment) == []
    await asked(deployment, log.submission(8, 18))
    assert (await told(deployment))["refusal"] is None


def confession(log: Log, lie: Log, old: int, new: int) -> dict[str, Any]:
    """The alarm that the log has raised about itself."""
    note = log.note(old).with_signatures([checkpoints.cosigned(log.note(old), "w.example", somebody(), 5)])
    fork = Fork(lie.head(old).root, tuple(lie.proof(old, new)))
    link = alarms.against(log.key.write(), note, lie.note(new), fork)
    return {**link.shown_json(), "side": "log", "number": 3, "witness": "w", "ended": None}


@ON_SQLITE
@aio
async def test_a_log_that_shows_nothing_more_tells_why(deployment: Deployment) -> None:
    log, shelf, _ = await begun(deployment, 8, at=5)
    true = confession(log, shelf.log, 8, 18)
    stopped: Callable[[str], tuple[int, bytes] | None] = lambda path: None if path == "/" else (503, b"{}")  # noqa: E731
    shelf.lie = stopped
    await asked(deployment, shelf.log.submission(8, 18))
    proofless: list[object] = [
        None,
        7,
        [None, 7, "x", [], {}],
        [{**true, "kind": "set_back"}],
        [{**true, "key": Log([], "else.example/log").key.write()}],
        [{**true, "other": true["proof"][0]}],
        [{**true, "proof": [1]}],
        [{**true, "held": {"a": 1}}],
        [{**true, "shown": log.note(18).write().decode()}],
        [{**true, "more": 1}],
        [{**true, "reason": "x" * remote_logs.LARGEST}],
    ]
    for no_proof in proofless:
        shelf.alarms = no_proof
        await deployment.clock.advance(1800)
        assert await looked(deployment) is not None
        assert await raised(deployment) == []
    shelf.alarms = [true, *[confession(log, log, 8, 18)] * remote_logs.ALARMS]
    await deployment.clock.advance(1800)
    assert await looked(deployment) is not None  # nobody reads as many
    shelf.alarms = [confession(log, log, 8, 18), true]
    await deployment.clock.advance(1800)
    assert await looked(deployment) is None
    (alarm,) = await raised(deployment)
    assert (alarm["side"], alarm["number"], alarm["witness"]) == (Side.WITNESS, 1, "")


@ON_SQLITE
@aio
async def test_what_was_explained_is_not_brought_up_again(deployment: Deployment) -> None:
    log, shelf, _ = await begun(deployment, 8)
    lie, shelf.size = forked(log, 5), 20
    await asked(deployment, unproved(lie, 8, 18))
    await looked(deployment)
    await gives(deployment, "log-alarm-end", number=1, reason="somebody ran a copy of the disk")
    assert (await asked(deployment, log.submission(8, 20)))[0] == 200
    shelf.size = 21  # other evidence of the same
    for submission in (unproved(lie, 0, 18), lie.submission(8, 18)):
        await asked(deployment, submission)
        await deployment.clock.advance(1800)
        assert await looked(deployment) is None
    assert len(await raised(deployment)) == 1
    assert (await told(deployment))["refusal"] is None
    assert (await asked(deployment, log.submission(20, 21)))[0] == 200
    for size in (18, 17):  # the one that is known does not hide the other
        await asked(deployment, unproved(lie, 0, size))
    await deployment.clock.advance(1800)
    await looked(deployment)
    assert [each["ended"] is None for each in await raised(deployment)] == [False, True]


async def _kill(*_: object) -> None:
    raise InterruptedError


@ON_SQLITE
@pytest.mark.parametrize("between", ["sound", "forget"])
@aio
async def test_cut_off_while_it_is_written_down(deploy: Deploy, monkeypatch: pytest.MonkeyPatch, between: str) -> None:
    deployment = await deploy()
    _, shelf, _ = await begun(deployment, 8, at=5)
    await asked(deployment, shelf.log.submission(8, 18))
    with monkeypatch.context() as patch:
        patch.setattr(*((alarms, "sound", _kill) if between == "sound" else (refused_checkpoints, "forget", _kill)))
        with pytest.raises(InterruptedError):
            await looked(deployment)
    assert await raised(deployment) == []
    again = await deploy()
    wired(again, log=shelf)
    await looked(again)
    assert len(await raised(again)) == 1


@ON_SQLITE
@aio
async def test_nobody_waits_for_a_log_that_does_not_answer(deployment: Deployment) -> None:
    log, shelf, wires = await begun(deployment, 8, at=5)
    honest = Log(leaves(30), "honest.example/log")
    key = await witness(deployment, honest)
    reached, let_go, real = asyncio.Event(), asyncio.Event(), wires.request

    async def waits(*arguments: Any, **named: Any) -> Any:
        reached.set()
        await let_go.wait()
        return await real(*arguments, **named)

    wires.request = waits  # type: ignore[method-assign]
    following = asyncio.ensure_future(suspecting.follow(deployment.server))
    try:
        assert (await asked(deployment, shelf.log.submission(8, 18)))[0] == 422
        await reached.wait()
        assert (await asked(deployment, shelf.log.submission(8, 19)))[0] == 422
        await signed(deployment, honest.submission(0, 7), key)
        assert (await asked(deployment, log.submission(8, 9)))[0] == 200  # nothing is proved yet
        let_go.set()
        with deployment.server.wakeups.listen([("key log shown", "tehran")]) as listener:
            while not await raised(deployment):
                await listener.wait()
        assert (await asked(deployment, log.submission(9, 10)))[0] == 403
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


@ON_SQLITE
@aio
async def test_where_the_log_is_asked(deployment: Deployment) -> None:
    log = Log(leaves(30))
    shelf = Shelf(log, 8)
    wires = wired(deployment, there=shelf, log=shelf)
    await signed(deployment, log.submission(0, 8), await witness(deployment, log))
    await asked(deployment, unproved(log, 8, 18))
    await looked(deployment)
    assert {host for host, _, _ in wires.asked} == {"log.example"}  # what it is called
    await gives(deployment, "log-witness-add", log="http://there.example:8008/zurich/", key=log.key.write())
    await witness(deployment, log)
    held = await deployment.server.nodes.directory.engine.read(witnessed_logs.of, ORIGIN)
    assert held is not None
    assert held.url == "http://there.example:8008/zurich"
    for name, place in (("log.example/zurich.2", "http://there.example:8008/zurich.2"), ("log.example.net/a", None)):
        await witness(deployment, Log([], name))  # it has begun anew, and another
        beside = await deployment.server.nodes.directory.engine.read(witnessed_logs.of, name)
        assert beside is not None
        assert beside.url == place
    wires.asked.clear()
    deployment.server.policy.isolated = {"IR", "FR"}
    await deployment.clock.advance(1800)
    await looked(deployment)
    assert wires.asked == []  # nobody beyond the borders
    deployment.server.policy.isolated = frozenset()
    shelf.size = 30
    assert await looked(deployment) is None
    assert {host for host, _, _ in wires.asked} == {"there.example"}
