"""Key logs under the signatures of witnesses: honest ones, slow ones, those that lie, and those that know better."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from config.load import policy_from_text
from homeserver.context import Identity
from homeserver.control import commands
from homeserver.protocol import checkpoints, log_alarms, signed_notes
from homeserver.protocol.checkpoints import Checkpoint, Head
from homeserver.protocol.errors import InvalidParam
from homeserver.protocol.log_alarms import Kind
from homeserver.protocol.merkle import EMPTY_ROOT
from homeserver.protocol.signed_notes import NamedKey
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.witnessing import Submission
from homeserver.runtime.clock import FakeClock
from homeserver.storage import cosignatures, key_log
from homeserver.storage.engine import Transaction
from homeserver.transparency import cosigning, heads, serving
from homeserver.transparency.heads import KeyLog
from tests.deployment import NAME, POLICY, SETTINGS, Deploy, Deployment, start
from tests.support import ON_SQLITE, Databases, aio
from tests.transparency.logs_of_others import Wires, Witness, wired, witnessed_by
from tests.transparency.stranger import FIELD, LOGS, Stranger
from tests.transparency.test_key_log import ORIGIN, _lose, caught_up, device

ABROAD = POLICY + '[jurisdictions.CH]\nname = "Switzerland"\n'
"""A jurisdiction without a node: a witness is there."""
DAY = 24 * 3600


class Scene:
    """A log in tehran, a witness in Paris and one in Zurich."""

    def __init__(self, deploy: Deploy, quorum: int = 2) -> None:
        self.deploy = deploy
        self.paris, self.zurich = Witness("paris.example/w"), Witness("zurich.example/w")
        self.policy = ABROAD + witnessed_by(quorum, paris=("FR", self.paris.key), zurich=("CH", self.zurich.key))
        self.clock = FakeClock()
        self.deployment: Deployment
        self.wires: Wires

    async def begin(self) -> Deployment:
        """Start the deployment, or start it again."""
        self.deployment = await self.deploy(policy=self.policy, clock=self.clock)
        self.wires = wired(self.deployment, paris=self.paris, zurich=self.zurich)
        serving.show(self.deployment.server)
        server = self.deployment.server
        for each in (self.paris, self.zurich):
            each.log = await heads.public_key(server, self.deployment.node("tehran"))
            each.seconds = lambda: server.clock.now_ms() // 1000
        return self.deployment

    async def round(self) -> None:
        """Bring what waits into the tree, and ask the witnesses once."""
        await caught_up(self.deployment, "tehran")
        await cosigning.ask_all(self.deployment.server, self.deployment.node("tehran"))

    async def status(self) -> dict[str, Any]:
        """What the operator is told of the log."""
        answer = await commands.perform(self.deployment.server, "log-status", {})
        return dict(answer["logs"][0])

    async def witnesses(self) -> dict[str, str | None]:
        """Why each of them does not sign."""
        return {each["name"]: each["fault"] for each in (await self.status())["witnessing"]["witnesses"]}

    def signers(self, note: bytes) -> set[str]:
        """Whose valid signatures are under a checkpoint."""
        keys = [self.paris.key, self.zurich.key]
        return {key.name for key in checkpoints.witnesses(signed_notes.read(note), keys)}


NOTHING = Head(0, EMPTY_ROOT)
BOTH = {"paris.example/w", "zurich.example/w"}


@aio
async def test_what_a_quorum_has_signed_is_what_is_shown(deploy: Deploy) -> None:
    scene = Scene(deploy)
    deployment = await scene.begin()
    alice = await device(deployment, "alice")
    await scene.round()
    stranger = Stranger(deployment)
    signed = await stranger.got("checkpoint")
    assert scene.signers(signed) == BOTH
    answer = await alice.query(alice)
    await stranger.check(answer, alice.user_id)
    assert answer[FIELD][ORIGIN]["checkpoint"].encode() == signed
    bob = await device(deployment, "bob")
    await caught_up(deployment, "tehran")
    assert await stranger.got("checkpoint") == signed  # the witnesses have a moment
    assert (await alice.query(alice))[FIELD][ORIGIN]["checkpoint"].encode() == signed
    both = await alice.query(alice, bob)
    await stranger.check(both, bob.user_id)  # no key waits for a witness
    assert scene.signers(both[FIELD][ORIGIN]["checkpoint"].encode()) == set()
    await scene.round()
    newest = await stranger.got("checkpoint")
    assert (await stranger.believed(newest)).head.size > (await stranger.believed(signed)).head.size
    assert scene.signers(newest) == BOTH
    status = (await scene.status())["witnessing"]
    assert (status["without_quorum_since"], status["missing"]) == (None, [])
    again = await scene.begin()
    assert await Stranger(again).got("checkpoint") == newest  # without asking anybody
    assert scene.wires.asked == []
    await scene.round()
    assert len(scene.wires.asked) == 2  # once, for they know if this came from an old backup
    await scene.round()
    assert len(scene.wires.asked) == 2


@aio
async def test_a_witness_that_is_away_for_a_month(deploy: Deploy) -> None:
    scene = Scene(deploy)
    deployment = await scene.begin()
    clock = deployment.clock
    alice = await device(deployment, "alice")
    await scene.round()
    scene.wires.cut.add("zurich.example")
    cut_at = clock.now_ms() // 1000
    for number in range(30):
        if number % 10 == 0:
            await (await alice.another()).publish()
        await scene.round()
        await clock.advance(DAY)
    await scene.round()
    assert scene.signers(await Stranger(deployment).got("checkpoint")) == {"paris.example/w"}
    await Stranger(deployment).check(await alice.query(alice), alice.user_id)
    status = (await scene.status())["witnessing"]
    assert status["without_quorum_since"] == cut_at
    assert status["missing"] == ["CH"]
    fault = await scene.witnesses()
    assert fault["paris"] is None
    assert "cannot be reached" in (fault["zurich"] or "")
    about = (await deployment.asked("GET", LOGS)).json["logs"][0]
    assert about["witnessing"]["without_quorum_since"] == cut_at  # everybody is told
    shown = deployment.server.telemetry.render().decode()
    assert 'domicile_key_log_without_quorum_seconds{node="tehran"} 2.592e+06' in shown
    again = await scene.begin()
    scene.wires.cut.clear()
    assert (await scene.status())["witnessing"]["without_quorum_since"] == cut_at
    await scene.round()
    assert scene.signers(await Stranger(again).got("checkpoint")) == BOTH  # it was consistent
    assert [each.old for each in scene.zurich.asked][-1] > 0
    assert (await scene.status())["witnessing"]["without_quorum_since"] is None


@ON_SQLITE
@aio
async def test_a_witness_that_is_away_is_not_asked_all_the_time(deploy: Deploy) -> None:
    scene = Scene(deploy)
    deployment = await scene.begin()
    await device(deployment, "alice")
    scene.wires.cut.add("zurich.example")
    for _ in range(6 * 60):
        await scene.round()
        await deployment.clock.advance(60)
    asked = [host for host, _, _ in scene.wires.asked]
    assert asked.count("zurich.example") < 25
    assert asked.count("paris.example") <= 7  # once an hour: that nothing newer is known to it


@ON_SQLITE
@aio
async def test_a_log_in_which_nothing_happens_is_signed_anew(deploy: Deploy) -> None:
    scene = Scene(deploy)
    deployment = await scene.begin()
    await device(deployment, "alice")
    await scene.round()
    scene.wires.cut.add("zurich.example")
    for _ in range(24):
        assert (await scene.status())["witnessing"]["missing"] == []
        await deployment.clock.advance(3600)
        await scene.round()
    await deployment.clock.advance(61)
    status = (await scene.status())["witnessing"]  # nobody there knows for a day whether there is anything newer
    assert (status["missing"], status["without_quorum_since"]) == (["CH"], 1_700_000_000 + DAY)
    assert scene.signers(await Stranger(deployment).got("checkpoint")) == BOTH  # what was signed stays signed


@ON_SQLITE
@aio
async def test_a_witness_that_is_behind_or_was_told_by_somebody_else(deploy: Deploy) -> None:
    scene = Scene(deploy)
    deployment = await scene.begin()
    alice = await device(deployment, "alice")
    await (await alice.another()).publish()
    await caught_up(deployment, "tehran")
    first = signed_notes.read(await Stranger(deployment).got("checkpoint"))
    assert scene.zurich.sign(_first(first))[0] == 200  # anybody may bring it there
    await (await alice.another()).publish()
    await scene.round()
    assert await scene.witnesses() == {"paris": None, "zurich": None}
    scene.zurich.held, scene.zurich.note = NOTHING, b""  # its disk was lost
    await (await alice.another()).publish()
    await scene.round()
    assert await scene.witnesses() == {"paris": None, "zurich": None}
    assert scene.signers(await Stranger(deployment).got("checkpoint")) == BOTH


def _first(note: signed_notes.Note) -> Submission:
    """A first submission of a checkpoint."""
    return Submission(0, (), note)


@ON_SQLITE
@aio
async def test_a_witness_that_lies_is_one_that_does_not_sign(deploy: Deploy) -> None:
    scene = Scene(deploy)
    deployment = await scene.begin()
    await device(deployment, "alice")
    await caught_up(deployment, "tehran")
    other = Witness("zurich.example/w")
    other.signer = SigningKey("w", b"x" * 32)
    node = deployment.node("tehran")
    shown = await heads.current(deployment.server, node)
    assert shown is not None
    forged = checkpoints.signed(Checkpoint(ORIGIN, Head(99, bytes(32))), other.signer).write()

    def signature(note: signed_notes.Note, seconds: int) -> bytes:
        return checkpoints.cosigned(note, scene.zurich.name, scene.zurich.signer, seconds).write().encode()

    now, note = deployment.clock.now_ms() // 1000, signed_notes.read(shown.note)
    of_another = checkpoints.signed(Checkpoint(ORIGIN, Head(1, bytes(32))), other.signer)
    lies: dict[str, Any] = {
        "its answer is none": lambda method: (200, b"nothing"),
        "is not valid": lambda method: (200, signature(of_another, now)),
        "not signed with its key": lambda method: (
            200,
            checkpoints.cosigned(note, "else.example", other.signer, now).write().encode(),
        ),
        "an hour apart": lambda method: (200, signature(note, now + 4000)),
        "does not know this log": lambda method: (404, b""),
        "more than there are, and does not show it": lambda method: (409, b"99\n") if method == "POST" else (404, b""),
        "has not signed": lambda method: (409, b"99\n") if method == "POST" else (200, forged),
        "status 422": lambda method: (422, b"no") if method == "POST" else (200, shown.note),
        "says that this log has contradicted": lambda method: (403, b"{}") if method == "POST" else (200, shown.note),
        "status 500": lambda method: (500, b"") if method == "POST" else (404, b""),
        "status 409": lambda method: (409, b"x") if method == "POST" else (404, b""),
    }
    for fault, lie in lies.items():
        scene.zurich.lie = lambda method, target, body, lie=lie: lie(method)  # type: ignore[misc]
        await deployment.clock.advance(7200)
        await scene.round()
        found = await scene.witnesses()
        assert found["paris"] is None
        assert fault in (found["zurich"] or "")
        assert node.memory(KeyLog).fault is None
    assert (await commands.perform(deployment.server, "log-status", {}))["alarms"] == []
    scene.zurich.lie = lambda method, target, body: None
    await deployment.clock.advance(7200)
    await scene.round()
    assert await scene.witnesses() == {"paris": None, "zurich": None}
    again = await scene.begin()  # and is asked once more, what is shown having its signature
    scene.zurich.lie = lambda method, target, body: (200, lies["not signed with its key"](method)[1])
    await scene.round()
    assert "not signed with its key" in ((await scene.witnesses())["zurich"] or "")
    assert again.node("tehran").memory(KeyLog).fault is None


async def _forget_heads(tx: Transaction) -> None:
    await tx.run("DELETE FROM log_heads")


@aio
async def test_a_log_that_is_behind_its_witness_says_nothing(deploy: Deploy) -> None:
    scene = Scene(deploy, quorum=1)
    deployment = await scene.begin()
    alice = await device(deployment, "alice")
    for _ in range(3):
        await (await alice.another()).publish()
    await scene.round()
    node = deployment.node("tehran")
    await node.write(_lose, deployment.server, node, 2)  # both databases come back from backups of the same day
    await node.write(_as_of, scene)
    await deployment.server.nodes.directory.engine.write(_forget_heads)
    again = await scene.begin()
    assert (await Stranger(again).raw("checkpoint"))[0] == 200  # nobody here can know yet
    await scene.round()
    assert (await Stranger(again).raw("checkpoint"))[0] == 503
    status = await commands.perform(again.server, "log-status", {})
    assert "which are more than there are" in status["logs"][0]["fault"]
    (alarm,) = status["alarms"]
    assert (alarm["kind"], alarm["origin"]) == (Kind.SET_BACK, ORIGIN)
    link = log_alarms.read((await again.server.nodes.directory.engine.read(_links))[0])
    log_alarms.check(link)
    assert 'domicile_key_log_set_back{node="tehran"} 1' in again.server.telemetry.render().decode()
    with pytest.raises(InvalidParam, match="begin-anew"):
        await commands.perform(again.server, "log-alarm-end", {"number": 1, "reason": "no"})
    await again.server.nodes.directory.engine.write(_delete_alarms)  # whoever deletes the alarm has not undone it
    third = await scene.begin()
    await caught_up(third)
    assert (await Stranger(third).raw("checkpoint"))[0] == 503
    assert (await Stranger(third, "paris").raw("checkpoint"))[0] == 200


async def _links(tx: Transaction) -> list[bytes]:
    return [bytes(row[0]) for row in await tx.all("SELECT link FROM log_alarms ORDER BY number")]


@ON_SQLITE
@aio
async def test_witnesses_have_the_first_word_on_what_a_node_shows_that_has_come(deploy: Deploy) -> None:
    scene = Scene(deploy, quorum=1)
    deployment = await scene.begin()
    alice = await device(deployment, "alice")
    await scene.round()
    asks: dict[str, Any] = {"device_keys": {alice.user_id: []}}
    for word in ("asked", "away"):
        again = await scene.begin()
        memory = again.node("tehran").memory(KeyLog)
        memory.followed = True
        await caught_up(again, "tehran")
        assert (await Stranger(again).raw("checkpoint"))[0] == 404
        path = "/_matrix/client/v3/keys/query"
        assert FIELD not in (await again.asked("POST", path, asks, token=alice.user.token)).json  # the keys are there
        if word == "asked":
            await scene.round()
        else:
            await again.clock.advance(5)
        assert (await Stranger(again).raw("checkpoint"))[0] == 200
        assert FIELD in (await again.asked("POST", path, asks, token=alice.user.token)).json


async def _as_of(tx: Transaction, scene: Scene) -> None:
    """Have the signatures that a node had which comes back as it was at its checkpoint of now."""
    note = (await key_log.progress(tx)).checkpoint
    assert note is not None
    head, seconds = heads.read(note).head, scene.clock.now_ms() // 1000
    await cosignatures.put(
        tx,
        cosignatures.Cosigned(note),
        [
            cosignatures.Standing(
                name,
                each.key.write(),
                head,
                checkpoints.cosigned(signed_notes.read(note), each.name, each.signer, seconds).write(),
            )
            for name, each in (("paris", scene.paris), ("zurich", scene.zurich))
        ],
    )


async def _forget_signatures(tx: Transaction) -> None:
    await tx.run("DELETE FROM key_log_cosigned")
    await tx.run("DELETE FROM key_log_witnesses")


async def _delete_alarms(tx: Transaction) -> None:
    await tx.run("DELETE FROM log_alarms")


@aio
async def test_a_log_that_has_become_another_is_an_alarm_on_both_sides(deploy: Deploy) -> None:
    scene = Scene(deploy, quorum=1)
    deployment = await scene.begin()
    alice = await device(deployment, "alice")
    for _ in range(3):
        await (await alice.another()).publish()
    await scene.round()
    node = deployment.node("tehran")
    await node.write(_lose, deployment.server, node, 2)
    await node.write(_forget_signatures)
    await deployment.server.nodes.directory.engine.write(_forget_heads)
    again = await scene.begin()
    for name in ("bob", "carol", "dora", "emil"):  # and goes on, past what was signed
        await device(again, name)
    await scene.round()
    status = await commands.perform(again.server, "log-status", {})
    (alarm,) = status["alarms"]
    assert alarm["kind"] == Kind.TWO_HISTORIES
    log_alarms.check(log_alarms.read((await again.server.nodes.directory.engine.read(_links))[0]))
    assert "which are others" in status["logs"][0]["fault"]
    third = await scene.begin()
    assert (await Stranger(third).raw("checkpoint"))[0] == 503
    reason = "both disks were lost"
    answer = await commands.perform(third.server, "log-begin-anew", {"node": "tehran", "reason": reason})
    assert answer["origin"] == f"{ORIGIN}.2"
    for each in (scene.paris, scene.zurich):
        each.log, each.held, each.note = await heads.public_key(third.server, third.node("tehran")), NOTHING, b""
    await scene.round()
    note = await Stranger(third, label="tehran.2").got("checkpoint")
    assert scene.signers(note) == BOTH
    about = (await third.asked("GET", LOGS)).json
    assert [each["ended"]["reason"] for each in about["alarms"]] == [reason]
    assert (await commands.perform(third.server, "log-status", {}))["alarms"] == []


@ON_SQLITE
@pytest.mark.parametrize("status", [404, 409, 422, 403, 500])
@aio
async def test_whatever_a_witness_answers_what_it_shows_is_looked_at(deploy: Deploy, status: int) -> None:
    scene = Scene(deploy, quorum=1)
    deployment = await scene.begin()
    alice = await device(deployment, "alice")
    for _ in range(3):
        await (await alice.another()).publish()
    await scene.round()
    assert scene.zurich.held.size == 4  # of a power of two the log's proof tells nobody anything but itself
    node = deployment.node("tehran")
    await node.write(_lose, deployment.server, node, 2)
    await node.write(_forget_signatures)
    await deployment.server.nodes.directory.engine.write(_forget_heads)
    again = await scene.begin()
    for name in ("bob", "carol", "dora", "emil"):
        await device(again, name)
    scene.wires.cut.add("paris.example")
    scene.zurich.lie = lambda method, target, body: (status, b"") if method == "POST" else None
    await scene.round()
    (alarm,) = (await commands.perform(again.server, "log-status", {}))["alarms"]
    assert (alarm["kind"], alarm["witness"]) == (Kind.TWO_HISTORIES, "zurich")


async def _cut(*_: object) -> None:
    raise InterruptedError


@ON_SQLITE
@aio
async def test_cut_off_before_the_signatures_are_kept(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(deploy)
    deployment = await scene.begin()
    await device(deployment, "alice")
    with monkeypatch.context() as patch:
        patch.setattr(cosignatures, "put", _cut)
        with pytest.raises(InterruptedError):
            await scene.round()
    again = await scene.begin()
    await scene.round()
    assert scene.signers(await Stranger(again).got("checkpoint")) == BOTH


@ON_SQLITE
@aio
async def test_nobody_abroad_is_asked_while_the_borders_are_closed(deploy: Deploy) -> None:
    scene = Scene(deploy)
    deployment = await scene.begin()
    await device(deployment, "alice")
    deployment.server.policy.isolated = {"IR"}
    await scene.round()
    assert scene.wires.asked == []
    assert await scene.witnesses() == {"paris": "IR is isolated", "zurich": "IR is isolated"}
    deployment.server.policy.isolated = frozenset()
    await deployment.clock.advance(60)
    await scene.round()
    assert scene.signers(await Stranger(deployment).got("checkpoint")) == BOTH


@ON_SQLITE
@aio
async def test_another_policy_asks_others(deploy: Deploy) -> None:
    scene = Scene(deploy, quorum=1)
    scene.policy = ABROAD + witnessed_by(1, paris=("FR", scene.paris.key))
    deployment = await scene.begin()
    await device(deployment, "alice")
    await scene.round()
    assert scene.signers(await Stranger(deployment).got("checkpoint")) == {"paris.example/w"}
    policy = ABROAD + witnessed_by(2, paris=("FR", scene.paris.key), zurich=("CH", scene.zurich.key))
    deployment.server.policy.now = policy_from_text(policy, "residency.toml", NAME)
    scene.wires.cut.add("zurich.example")
    await scene.round()
    await deployment.clock.advance(61)
    assert (await scene.status())["witnessing"]["missing"] == ["CH"]
    assert (await scene.status())["witnessing"]["without_quorum_since"] is not None


@ON_SQLITE
@aio
async def test_two_deployments_witness_each_other(engines: Databases) -> None:
    others = Databases(engines.kind, engines.directory / "two.example", "")
    try:
        await _witness_each_other(engines, others)
    finally:
        await others.close()


async def _begin(databases: Databases, name: str, secret: bytes, policy: str = ABROAD) -> Deployment:
    deployment = await start(databases, settings=SETTINGS.replace("example.org", name), policy=policy)
    identity = Identity(name, SigningKey("test", b"k" * 32), secret)
    deployment.server = deployment.site.server = replace(deployment.server, identity=identity)
    return deployment


async def _witness_each_other(*databases: Databases) -> None:
    one = await _begin(databases[0], "one.example", b"1" * 32)
    two = await _begin(databases[1], "two.example", b"2" * 32)
    for mine, its in ((one, two), (two, one)):
        logs = (await its.asked("GET", LOGS)).json
        policy = ABROAD + witnessed_by(1, other=("CH", NamedKey.read(logs["witness"]["key"])))
        mine.server.policy.now = policy_from_text(policy, "residency.toml", NAME)
        for log in logs["logs"]:
            await commands.perform(mine.server, "log-witness-add", {"log": log["origin"], "key": log["key"]})
    wired(one, other=two)
    wired(two, other=one)
    for each in (one, two):
        await device(each, "alice")
        await caught_up(each)
        await asyncio.gather(*(cosigning.ask_all(each.server, node) for node in each.server.nodes))
        status = await commands.perform(each.server, "log-status", {})
        assert status["logs"][0]["witnessing"]["witnesses"][0]["size"] == status["logs"][0]["size"]
        assert status["logs"][0]["witnessing"]["without_quorum_since"] is None
        assert each.node("tehran").memory(KeyLog).cosigned is not None
    assert any(each["size"] for each in (await one.asked("GET", "/_domicile/v1/witness")).json["logs"])
