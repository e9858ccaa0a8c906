"""Applying a plan in a running server: what it checks, whom it moves, what happens when two want to, or one is cut
off.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from config.placement import Attributes
from config.residency import DataClass
from homeserver.accounts import registration, registration_tokens
from homeserver.accounts.registration import NewAccount
from homeserver.context import Server
from homeserver.protocol import policy_chain
from homeserver.protocol.errors import Conflict, Forbidden, InvalidParam, NodeUnavailable, NotFound
from homeserver.protocol.signing import SigningKey
from homeserver.residency.changes import applying, approving, chain, planning, recovering
from homeserver.residency.changes.applying import Applying, Wish
from homeserver.storage import policy_plans
from homeserver.storage.nodes import Node
from tests.deployment import FLOWING, POLICY, Deploy
from tests.residency.planned import Rerouting, applied, ended, following, founded, moving, planned
from tests.support import aio

RULE = ('token = "fr-*"\nnode = "paris"', 'token = "fr-*"\nnode = "tehran"')
ANN, BEN, EVE = (SigningKey(name, name.encode() * 8 + b"x" * 8) for name in ("ann", "ben", "eve"))
TWO = f"""
[changes]
plan = true
approvals = 2
approvers = [
    {{ name = "ann", key = "{ANN.verify_key.base64}" }},
    {{ name = "ben", key = "{BEN.verify_key.base64}" }},
]
"""


async def newest(server: Server) -> policy_chain.Version:
    """What the record of the version in force says."""
    link = await chain.newest(server.nodes.directory.engine, server.identity)
    assert link is not None
    return policy_chain.read(link.record)


@aio
async def test_what_was_read_is_what_is_applied(deploy: Deploy) -> None:
    server = (await deploy()).server
    await founded(server, POLICY)
    text = following(FLOWING)
    made = await planned(server, text)
    assert server.policy.now.room_may_span(["IR", "FR"]) != []
    answer = await applied(server, made.digest, text)
    assert (answer["serial"], answer["notes"]) == (2, [])
    assert server.policy.now.serial == 2
    assert server.policy.now.room_may_span(["IR", "FR"]) == []
    assert server.policy.now.may(DataClass.EVENTS, "IR", "FR").rule.startswith("residency.toml:")
    assert server.settings.residency.read_text() == text
    version = await newest(server)
    assert (version.serial, version.how.value, version.plan) == (2, "applied", made.digest)
    assert await chain.faults(server.nodes.directory.engine, server.identity) == {}
    again = await applied(server, made.digest, text)
    assert again["serial"] == 2, "who asks once more is told that it is done"


@aio
async def test_another_digest_text_or_world_is_another_plan(deploy: Deploy) -> None:
    deployment = await deploy()
    server = deployment.server
    await founded(server, POLICY)
    text = following(FLOWING)
    made = await planned(server, text)
    for digest, other in ((made.digest[:-1] + "x", text), (made.digest, text + "# more\n"), ("", text)):
        with pytest.raises(Conflict, match="plan again"):
            await applied(server, digest, other)
    first = await planned(server, following(POLICY, more='[retention.IR]\nsessions = "3d"\n'))
    await applied(server, first.digest, first.after.text)
    with pytest.raises(Conflict, match="serial = 3"):
        await applied(server, made.digest, text)
    assert server.policy.now.serial == 2


@aio
async def test_of_two_who_apply_at_once_one_wins(deploy: Deploy) -> None:
    server = (await deploy()).server
    await founded(server, POLICY)
    texts = [following(FLOWING), following(POLICY, more='[retention.IR]\nsessions = "3d"\n')]
    plans = [await planned(server, text) for text in texts]
    done = await asyncio.gather(
        *(applied(server, made.digest, text) for made, text in zip(plans, texts, strict=True)), return_exceptions=True
    )
    won = [answer for answer in done if isinstance(answer, dict)]
    lost = [fault for fault in done if isinstance(fault, Conflict)]
    assert (len(won), len(lost)) == (1, 1)
    assert "plan again" in lost[0].message
    assert (await newest(server)).plan == plans[[isinstance(answer, dict) for answer in done].index(True)].digest


# approvals ----------------------------------------------------------------------------------


async def approve(server: Server, plan: str, name: str, key: SigningKey) -> dict[str, Any]:
    return await approving.approve(server, plan, policy_chain.approve(server.name, plan, name, key))


@aio
async def test_a_plan_that_needs_two_is_applied_with_two(deploy: Deploy) -> None:
    """Not with one, nor with one who says yes twice; a stranger, or who has another's key, counts for nothing."""
    server = (await deploy()).server
    await founded(server, POLICY + TWO)
    text = following(FLOWING)  # which would need none any more
    plan = (await planned(server, text)).digest
    with pytest.raises(Forbidden, match="needs 2 approvals and has 0"):
        await applied(server, plan, text)
    assert (await approve(server, plan, "ann", ANN))["given"] == ["ann"]
    with pytest.raises(Conflict, match="already"):
        await approve(server, plan, "ann", ANN)
    for name, key in (("eve", EVE), ("ann", EVE), ("ben", ANN)):
        with pytest.raises(Forbidden, match="no approver"):
            await approve(server, plan, name, key)
    stolen = policy_chain.approve(server.name, plan, "ben", EVE)._replace(key=BEN.verify_key.base64)
    with pytest.raises(Forbidden, match="not valid"):
        await approving.approve(server, plan, stolen)
    with pytest.raises(InvalidParam):
        await approve(server, "short", "ben", BEN)
    await approve(server, "f" * 64, "ben", BEN)  # another plan
    with pytest.raises(Forbidden, match=r"needs 2 approvals and has 1 \(so far: ann\)"):
        await applied(server, plan, text)
    assert (await approve(server, plan, "ben", BEN))["given"] == ["ann", "ben"]
    await applied(server, plan, text)
    assert [each.name for each in (await newest(server)).approvals] == ["ann", "ben"]
    assert await server.nodes.directory.engine.read(policy_plans.approvals, plan) == []
    assert await chain.faults(server.nodes.directory.engine, server.identity) == {}


@aio
async def test_an_approval_that_was_put_into_the_database_counts_for_nothing(deploy: Deploy) -> None:
    server = (await deploy()).server
    await founded(server, POLICY + TWO)
    text = following(FLOWING)
    plan = (await planned(server, text)).digest
    await approve(server, plan, "ann", ANN)
    forged = policy_chain.approve(server.name, plan, "ben", EVE)._replace(key=BEN.verify_key.base64)
    await server.nodes.directory.engine.write(policy_plans.approve, plan, forged)
    with pytest.raises(Forbidden, match="has 1"):
        await applied(server, plan, text)


# users who move -----------------------------------------------------------------------------


async def brought(server: Server, *localparts: str) -> None:
    """Make accounts which the rule about tokens pins to paris."""
    await registration_tokens.create(server, "fr-1")
    for localpart in localparts:
        attributes = Attributes(token="fr-1", may_ask=False)
        await registration.register(server, NewAccount(localpart=localpart, password=None, attributes=attributes))


@aio
async def test_users_are_moved_before_it_holds(deploy: Deploy) -> None:
    mover = Rerouting()
    server = moving((await deploy(policy=FLOWING)).server, mover)
    await founded(server, FLOWING)
    await brought(server, "luc", "marie")
    text = following(FLOWING, RULE)
    answer = await applied(server, (await planned(server, text)).digest, text)
    assert answer["serial"] == 2
    assert mover.moved == [("@luc:example.org", "tehran"), ("@marie:example.org", "tehran")]
    assert server.policy.now.serial == 2


@aio
async def test_a_move_that_fails_leaves_the_policy_as_it_was_and_can_be_gone_on_with(deploy: Deploy) -> None:
    mover = Rerouting()
    mover.failing["@marie:example.org"] = Conflict("Her files cannot be read")
    server = moving((await deploy(policy=FLOWING)).server, mover)
    await founded(server, FLOWING)
    await brought(server, "luc", "marie")
    text = following(FLOWING, RULE)
    plan = (await planned(server, text)).digest
    with pytest.raises(Conflict, match="Her files"):
        await applied(server, plan, text)
    assert server.policy.now.serial == 1
    other = await planned(server, following(FLOWING, more='[retention.IR]\nsessions = "3d"\n'))
    with pytest.raises(Conflict, match="--resume"):
        await applied(server, other.digest, other.after.text)
    mover.failing.clear()
    assert (await ended(server, await applying.resume(server)))["serial"] == 2
    assert sorted(mover.moved) == [("@luc:example.org", "tehran"), ("@marie:example.org", "tehran")]
    version = await newest(server)
    assert version.plan == plan
    with pytest.raises(Conflict, match="No plan is being applied"):
        await applying.resume(server)


@aio
async def test_a_plan_that_was_begun_can_be_given_up(deploy: Deploy) -> None:
    mover = Rerouting()
    mover.failing["@luc:example.org"] = NotFound("Who is that?")
    server = moving((await deploy(policy=FLOWING)).server, mover)
    await founded(server, FLOWING)
    await brought(server, "luc")
    text = following(FLOWING, RULE)
    plan = (await planned(server, text)).digest
    with pytest.raises(NotFound):
        await applied(server, plan, text)
    assert (await applying.give_up(server))["plan"] == plan
    with pytest.raises(Conflict):
        await applying.give_up(server)
    other = await planned(server, following(FLOWING, more='[retention.IR]\nsessions = "3d"\n'))
    assert (await applied(server, other.digest, other.after.text))["serial"] == 2


class Waiting:
    """A mover that moves nobody before it is let."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.let = asyncio.Event()

    async def move(self, server: Server, user_id: str, destination: Node) -> None:
        """See `Mover.move`."""
        self.begun.set()
        await self.let.wait()
        await Rerouting().move(server, user_id, destination)


@aio
async def test_while_one_is_applied_another_is_refused_and_the_same_is_joined(deploy: Deploy) -> None:
    mover = Waiting()
    server = moving((await deploy(policy=FLOWING)).server, mover)
    await founded(server, FLOWING)
    await brought(server, "luc")
    text = following(FLOWING, RULE)
    plan = (await planned(server, text)).digest
    first = asyncio.create_task(applied(server, plan, text))
    await mover.begun.wait()
    with pytest.raises(Conflict, match="Another plan is being applied"):
        await applying.apply(server, Wish("f" * 64, text, "draft.toml"))
    second = asyncio.create_task(applied(server, plan, text))
    mover.let.set()
    assert [(await task)["serial"] for task in (first, second)] == [2, 2]


@aio
async def test_what_is_under_way_when_the_server_stops_is_broken_off_and_goes_on_later(deploy: Deploy) -> None:
    mover = Waiting()
    server = moving((await deploy(policy=FLOWING)).server, mover)
    await founded(server, FLOWING)
    await brought(server, "luc")
    text = following(FLOWING, RULE)
    plan = (await planned(server, text)).digest
    waiting = asyncio.create_task(applied(server, plan, text))
    await mover.begun.wait()
    await applying.stop(server)
    with pytest.raises(Conflict, match="broken off"):
        await waiting
    assert server.policy.now.serial == 1
    mover.let.set()
    assert (await ended(server, await applying.resume(server)))["serial"] == 2


@aio
async def test_nobody_comes_to_rest_on_a_node_that_is_about_to_go(deploy: Deploy) -> None:
    """Not even who was given that place a moment before."""
    server = (await deploy()).server
    attributes = Attributes(node="paris")
    server.policy.leaving = frozenset({"paris"})
    with pytest.raises(NodeUnavailable):
        await registration.register(server, NewAccount(localpart="luc", password=None, attributes=attributes))
    server.policy.leaving = frozenset()
    await registration.register(server, NewAccount(localpart="luc", password=None, attributes=attributes))


# the file -----------------------------------------------------------------------------------


@aio
async def test_what_stood_in_the_file_and_never_was_in_force_is_kept(deploy: Deploy) -> None:
    server = (await deploy()).server
    await founded(server, POLICY)
    file = server.settings.residency
    file.write_text("# somebody's draft\n")
    file.chmod(0o640)
    text = following(FLOWING)
    answer = await applied(server, (await planned(server, text)).digest, text)
    assert file.read_text() == text
    assert file.stat().st_mode & 0o777 == 0o640
    kept = file.with_name(file.name + ".unapplied")
    assert kept.read_text() == "# somebody's draft\n"
    assert str(kept) in answer["notes"][0]


@aio
async def test_a_link_leads_to_the_same_file_as_before(deploy: Deploy) -> None:
    server = (await deploy()).server
    await founded(server, POLICY)
    file = server.settings.residency
    real = file.with_name("real.toml")
    file.rename(real)
    file.symlink_to(real)
    text = following(FLOWING)
    await applied(server, (await planned(server, text)).digest, text)
    assert file.is_symlink()
    assert real.read_text() == text
    assert not file.with_name(file.name + ".unapplied").exists()


@aio
async def test_a_file_that_cannot_be_replaced_is_replaced_later(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = (await deploy()).server
    await founded(server, POLICY)
    text = following(FLOWING)
    plan = (await planned(server, text)).digest

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("homeserver.residency.changes.file.put", full)
        answer = await applied(server, plan, text)
    assert answer["serial"] == 2
    assert "No space left" in answer["notes"][0]
    assert server.policy.now.serial == 2
    assert server.settings.residency.read_text() == POLICY
    await recovering.recover(server.nodes.directory.engine, server.settings.residency)
    assert server.settings.residency.read_text() == text
    assert await recovering.recover(server.nodes.directory.engine, server.settings.residency) is None


@aio
async def test_a_rollback_is_a_plan_of_an_old_text_with_the_next_serial(deploy: Deploy) -> None:
    server = (await deploy()).server
    old = "# ours, since 2026\n" + POLICY.replace("serial = 1", "serial = 1  # counts")
    await founded(server, old)
    text = following(FLOWING)
    await applied(server, (await planned(server, text)).digest, text)
    restored = await planning.restoring(server, 1)
    assert restored == old.replace("serial = 1", "serial = 3")
    made = await planning.plan(server, restored, "version 1", restores=1)
    answer = await ended(server, await applying.apply(server, Wish(made.digest, restored, "version 1", 1)))
    assert answer["serial"] == 3
    version = await newest(server)
    assert (version.how.value, version.restores) == ("rolled-back", 1)
    assert server.settings.residency.read_text() == restored
    assert server.nodes.directory.memory(Applying).busy is False
    with pytest.raises(NotFound):
        await planning.restoring(server, 9)
