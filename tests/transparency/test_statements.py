"""What a log states beside keys: once each, whoever was cut off when, and never earlier than what came before it."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from homeserver.context import Server
from homeserver.control import commands
from homeserver.protocol import move_receipts, policy_chain
from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.key_log import Kind, Leaf, NoLeaf, Reason, Statement
from homeserver.residency.changes import chain
from homeserver.storage import key_log, policy_versions
from homeserver.storage.engine import Transaction
from homeserver.transparency import changes, sequencing, statements
from tests.deployment import FLOWING, Deploy, Deployment
from tests.moves.play import Stage, Staging, stage
from tests.residency.planned import applied, following, founded, planned
from tests.support import ON_SQLITE, Databases, aio
from tests.transparency.pages import served
from tests.transparency.stranger import Stranger
from tests.transparency.test_key_log import device
from tests.transparency.verifying import verify

__all__ = ["stage"]

ONE, TWO = (sha256(word).hexdigest() for word in (b"one", b"two"))


async def caught_up(server: Server) -> None:
    """Bring all there is into the trees of all logs."""
    for node in server.nodes:
        await sequencing.catch_up(server, node)


async def entered(deployment: Deployment, number: int, digest: str, now_ms: int = 5_000) -> bool:
    """Have the log of tehran state an entry of the register."""

    async def enter(tx: Transaction) -> bool:
        return await statements.append(deployment.server, tx, "register", number, digest, now_ms)

    return await deployment.node("tehran").write(enter)


# the form of it -----------------------------------------------------------------------------


def test_a_statement_is_written() -> None:
    made = Statement(Kind.POLICY, 3, ONE, 1_790_000_000)
    raw = b'{"digest":"%s","kind":"policy","number":3,"time":1790000000}' % ONE.encode()
    assert made.write() == raw
    assert Statement.read(raw) == made
    assert len(made.tag) > 32, "it is no name of a user"
    with pytest.raises(NoLeaf):
        Leaf.read(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"digest":"%s","kind":"policy","number":3,"time":17}' % ONE.upper().encode(),
        b'{"digest":"%s","kind":"policy","number":3,"time":17}' % ONE[:-2].encode(),
        b'{"digest":"%s","kind":"policy","number":-3,"time":17}' % ONE.encode(),
        b'{"digest":"%s","kind":"policy","number":true,"time":17}' % ONE.encode(),
        b'{"digest":"%s","kind":"policy","number":3,"time":null}' % ONE.encode(),
        b'{"digest":"%s","kind":"weather","number":3,"time":17}' % ONE.encode(),
        b'{"digest":"%s","kind":"policy","number":3,"time":17}\n' % ONE.encode(),
        b'{"digest":"%s","kind":"policy","more":1,"number":3,"time":17}' % ONE.encode(),
        b'{"digest":3,"kind":"policy","number":3,"time":17}',
    ],
)
def test_what_is_no_statement(raw: bytes) -> None:
    with pytest.raises(NoLeaf):
        Statement.read(raw)


# the register -------------------------------------------------------------------------------


@aio
async def test_a_checkpoint_counts_the_disclosures(deployment: Deployment) -> None:
    stranger = Stranger(deployment)
    await caught_up(deployment.server)
    nothing = b64encode(sha256().digest()).decode()
    assert (await stranger.checkpoint()).extension("register") == f"0 {nothing}"
    assert await entered(deployment, 1, ONE)
    assert not await entered(deployment, 1, ONE), "it is there already"
    await caught_up(deployment.server)
    await device(deployment, "alice")  # with nothing new of it
    await caught_up(deployment.server)
    head = b64encode(bytes.fromhex(ONE)).decode()
    assert (await stranger.checkpoint()).extension("register") == f"1 {head}"
    assert await entered(deployment, 2, TWO)
    await device(deployment, "bob")
    await caught_up(deployment.server)
    assert [entry.number for entry in await stranger.statements(Kind.REGISTER)] == [1, 2]
    assert await deployment.node("tehran").read(_digests) == [ONE, TWO]
    assert await Stranger(deployment, "paris").statements(Kind.REGISTER) == []


async def _digests(tx: Transaction) -> list[str]:
    return [each.said.digest for each in await statements.stated(tx, "register")]


@ON_SQLITE
@aio
async def test_the_script_counts_the_disclosures_too(deployment: Deployment, tmp_path: Path) -> None:
    await device(deployment, "alice")
    for number, digest in enumerate((ONE, TWO), 1):
        await entered(deployment, number, digest, deployment.clock.now_ms())
    await caught_up(deployment.server)
    pages = await served(deployment)
    status, words = verify(pages.save(tmp_path), pages)
    assert (status, ", 2 of kind register" in words) == (0, True), words
    first, *entries = pages.logs["tehran"]
    pages.forge([first, *entries])  # whose checkpoint counts none
    refused = "the checkpoint counts other disclosures than the leaves state"
    assert refused in verify(pages.save(tmp_path), pages)[1]
    pages.forge([first, entries[1]])
    assert "leaf 1 is not disclosure 1, which comes next" in verify(pages.save(tmp_path), pages)[1]
    pages.forge([first])
    assert verify(pages.save(tmp_path), pages)[0] == 0


@ON_SQLITE
@aio
async def test_what_is_no_statement_is_not_stated(deployment: Deployment) -> None:
    for kind, number, digest in (("weather", 1, ONE), ("register", 1, "x"), ("register", -1, ONE)):
        with pytest.raises(ValueError, match=r"not a valid Kind|in such a leaf|in a leaf"):
            await deployment.node("tehran").write(_state, deployment.server, kind, number, digest)
    assert (await deployment.node("tehran").read(key_log.progress)).size == 0


async def _state(tx: Transaction, server: Server, kind: str, number: int, digest: str) -> None:
    await statements.append(server, tx, kind, number, digest, 0)


@aio
async def test_what_is_cut_off_with_its_transaction_is_not_stated(deployment: Deployment) -> None:
    async def cut(tx: Transaction) -> None:
        await statements.append(deployment.server, tx, "register", 1, ONE, 5_000)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        await deployment.node("tehran").write(cut)
    assert (await deployment.node("tehran").read(key_log.progress)).size == 0
    assert await entered(deployment, 1, ONE)
    await caught_up(deployment.server)
    assert len(await Stranger(deployment).read()) == 1


# time ---------------------------------------------------------------------------------------


@ON_SQLITE
@aio
async def test_no_leaf_is_earlier_than_the_one_before_it(deployment: Deployment) -> None:
    """A clock that was set back, or forward for a while: the log stands still until it has been reached again."""
    assert await entered(deployment, 1, ONE, 9_000_000_000_000)
    await device(deployment, "alice")
    assert await entered(deployment, 2, TWO, 3_000)
    await caught_up(deployment.server)
    assert [leaf.time for leaf in await Stranger(deployment).read()] == [9_000_000_000] * 3


# policies -----------------------------------------------------------------------------------


async def digests_of(server: Server) -> list[tuple[int, str]]:
    """Serials and digests of all versions of the policy."""
    links = await server.nodes.directory.engine.read(policy_versions.page, -1, 99)
    return [(link.serial, policy_chain.digest(link.record)) for link in links]


async def policies(stranger: Stranger) -> list[tuple[int, str]]:
    """What a log states of them."""
    return [(each.number, each.digest) for each in await stranger.statements(Kind.POLICY)]


@aio
async def test_each_version_of_the_policy_is_in_every_log(deployment: Deployment) -> None:
    """Those too that were there before."""
    server = deployment.server
    await founded(server, FLOWING)
    made = await planned(server, following(FLOWING, ('name = "France"', 'name = "La France"')))
    await applied(server, made.digest, made.after.text)
    await caught_up(server)
    await caught_up(server)
    made = await planned(server, following(made.after.text, ('"La France"', '"France"'), serial=3))
    await applied(server, made.digest, made.after.text)
    with pytest.MonkeyPatch.context() as patch:  # broken off before the log states it
        patch.setattr(statements, "_state", _cut)
        with pytest.raises(InterruptedError):
            await sequencing.catch_up(server, deployment.node("tehran"))
    await caught_up(server)
    expected = await digests_of(server)
    assert [serial for serial, _ in expected] == [1, 2, 3]
    for node in ("tehran", "paris"):
        assert await policies(Stranger(deployment, node)) == expected


async def _cut(*_: object) -> None:
    raise InterruptedError


@ON_SQLITE
@aio
async def test_the_logs_are_woken_by_a_policy(deployment: Deployment) -> None:
    server = deployment.server
    await founded(server, FLOWING)
    await caught_up(server)
    made = await planned(server, following(FLOWING, ('name = "France"', 'name = "La France"')))
    with server.wakeups.listen([changes.waiting_key(deployment.node("paris"))]) as listener:
        await applied(server, made.digest, made.after.text)
        await listener.wait()


@ON_SQLITE
@aio
async def test_a_node_that_was_down_states_it_when_it_is_back(deploy: Deploy, engines: Databases) -> None:
    deployment = await deploy()
    server = deployment.server
    await founded(server, FLOWING)
    await caught_up(server)
    await engines.take_away("paris")
    await deployment.node("paris").engine.probe()
    made = await planned(server, following(FLOWING, ('name = "France"', 'name = "La France"')))
    await applied(server, made.digest, made.after.text)
    await sequencing.catch_up(server, deployment.node("tehran"))
    await engines.bring_back("paris")
    await deployment.node("paris").engine.probe()
    await caught_up(server)
    assert await policies(Stranger(deployment, "paris")) == await digests_of(server)


@ON_SQLITE
@aio
async def test_a_history_that_was_rewritten_is_seen(deployment: Deployment) -> None:
    """Whoever has all keys can sign another version; the log has the one that was shown, too."""
    server = deployment.server
    await founded(server, FLOWING)
    await caught_up(server)
    first = await chain.newest(server.nodes.directory.engine, server.identity)
    assert first is not None
    version = policy_chain.read(first.record)
    other = policy_chain.signed(
        policy_chain.Version(
            server_name=version.server_name,
            serial=version.serial,
            text_sha256=version.text_sha256,
            previous=None,
            time=version.time - 1,
            how=version.how,
        ),
        server.identity.residency_key,
    )
    await server.nodes.directory.engine.write(_rewrite, other)
    statements.wake(server)
    await caught_up(server)
    digests = [policy_chain.digest(record) for record in (first.record, other)]
    assert await policies(Stranger(deployment)) == [(1, digest) for digest in digests]
    told = await commands.perform(server, "residency-history", {})
    assert not told["intact"]
    (version_told,) = told["versions"]
    assert version_told["faults"] == ["by the key log of paris, tehran, another version 1 was in force"]
    assert version_told["logged"] == {"tehran": 1, "paris": 1}


async def _rewrite(tx: Transaction, record: bytes) -> None:
    await tx.run("UPDATE policy_versions SET record = ?", record)


@ON_SQLITE
@aio
async def test_a_history_that_was_cut_off_is_seen(deployment: Deployment) -> None:
    """An old archive of the directory."""
    server = deployment.server
    await founded(server, FLOWING)
    made = await planned(server, following(FLOWING, ('name = "France"', 'name = "La France"')))
    await applied(server, made.digest, made.after.text)
    await caught_up(server)
    told = await commands.perform(server, "residency-history", {})
    assert [each["logged"] for each in told["versions"]] == [{"tehran": 0, "paris": 0}, {"tehran": 1, "paris": 1}]
    assert told["intact"]
    await server.nodes.directory.engine.write(_cut_off)
    told = await commands.perform(server, "residency-history", {})
    assert not told["intact"]
    assert [each["faults"] for each in told["versions"]] == [
        ["by the key log of paris, tehran, there was a version 2, which is gone"]
    ]


async def _cut_off(tx: Transaction) -> None:
    await tx.run("DELETE FROM policy_versions WHERE serial = 2")


# moves --------------------------------------------------------------------------------------


async def receipts(play: Stage, user_id: str) -> list[str]:
    """The digests of the receipts of somebody's moves."""
    shown = (await play.command("residency-receipts", user=user_id))["receipts"]
    return [move_receipts.digest(each.encode()) for each in shown]


@aio
async def test_the_receipt_of_a_move_is_in_both_logs(stage: Staging) -> None:
    play = await stage()
    alice, bob = await play.device("alice"), await play.device("bob")
    here, there = Stranger(play.deployment), Stranger(play.deployment, "paris")
    await play.move(alice)
    await play.move(bob)
    await play.move(alice, "tehran")
    await caught_up(play.server)
    (first, last), (other,) = await receipts(play, alice.user_id), await receipts(play, bob.user_id)
    for stranger in (here, there):
        found = await stranger.statements(Kind.RECEIPT)
        assert [(each.number, each.digest) for each in found] == [(1, first), (2, other), (3, last)]
        assert alice.user_id.encode() not in b"".join(await stranger.entries((await stranger.checkpoint()).head.size))


@aio
async def test_a_move_that_is_cut_off_at_its_receipt_loses_no_statement(
    stage: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = await stage()
    alice = await play.device("alice")
    real, cuts = statements.append_receipt, list[str]()

    async def cut(server: Server, tx: Transaction, receipt: bytes) -> bool:
        if tx.node == "tehran" and not cuts:  # the target has it, the source has not
            cuts.append(move_receipts.digest(receipt))
            raise NodeUnavailable("tehran")
        return await real(server, tx, receipt)

    monkeypatch.setattr(statements, "append_receipt", cut)
    await play.move(alice)
    await caught_up(play.server)
    assert cuts == await receipts(play, alice.user_id)
    for node in ("tehran", "paris"):
        assert [each.digest for each in await Stranger(play.deployment, node).statements(Kind.RECEIPT)] == cuts


@ON_SQLITE
@aio
async def test_a_log_that_is_begun_anew_states_what_there_is(stage: Staging) -> None:
    play = await stage()
    await founded(play.server, FLOWING)
    alice = await play.device("alice")
    await play.move(alice)
    await caught_up(play.server)
    await play.command("log-begin-anew", node="paris", reason="because")
    await caught_up(play.server)
    stranger = Stranger(play.deployment, "paris", label="paris.2")
    assert [leaf.reason for leaf in await stranger.leaves()] == [Reason.FOUND]
    assert [each.digest for each in await stranger.statements(Kind.RECEIPT)] == await receipts(play, alice.user_id)
    assert await policies(stranger) == await digests_of(play.server)
