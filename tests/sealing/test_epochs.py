"""Epochs of nodes: born when something is to be sealed, changed in time, never used again, destroyed for good."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from config.load import policy_from_text
from homeserver.protocol.errors import NodeUnavailable
from homeserver.sealing import epochs, writing
from homeserver.storage import epochs as stored
from tests.deployment import Deploy, Deployment, User
from tests.sealing.play import SEALING, asks, custodians, epochs_of, noticing_all, opened, rows
from tests.support import ON_SQLITE, Databases, aio

if TYPE_CHECKING:
    from homeserver.storage.nodes import Node

DAY = 24 * 60 * 60.0
PROGRAMS = itertools.count()
"""No program comes twice."""


async def begun(deploy: Deploy, policy: str = SEALING) -> tuple[Deployment, User, Node]:
    """A deployment in which something was sealed on tehran."""
    deployment = await deploy(policy=policy)
    noticing_all(deployment)
    nima = await deployment.user("nima")
    await seal_one(deployment, nima)
    return deployment, nima, deployment.node("tehran")


async def seal_one(deployment: Deployment, user: User) -> None:
    """Have something more sealed."""
    await asks(user, agent=f"Agent {next(PROGRAMS)}")
    await writing.keep_sealed(deployment.server)


def set_clock(deployment: Deployment, seconds: float) -> None:
    """Set the clock that tells the time, as an operator may; what measures is not concerned."""
    deployment.clock._start_ms += round(seconds * 1000)


def in_force(deployment: Deployment, policy: str) -> None:
    """Put another policy in force."""
    deployment.server.policy.now = policy_from_text(policy, "residency.toml", deployment.server.name)


@aio
async def test_an_epoch_ends_in_time_and_the_next_has_another_secret(deploy: Deploy) -> None:
    deployment, nima, tehran = await begun(deploy)
    await deployment.clock.advance(6.9 * DAY)
    await seal_one(deployment, nima)
    (first,) = await epochs_of(tehran)
    await deployment.clock.advance(0.2 * DAY)
    await seal_one(deployment, nima)
    first_again, second = await epochs_of(tehran)
    assert first_again.epoch == first.epoch
    assert second.epoch.public_key != first.epoch.public_key
    assert second.epoch.number > first.epoch.number
    assert second.salt != first.salt
    assert len(await opened(tehran, nima.user_id)) == 3
    assert await tehran.read(stored.holding, [first.epoch.number, second.epoch.number]) == {
        first.epoch.number: 2,
        second.epoch.number: 1,
    }


@ON_SQLITE
@aio
async def test_nothing_is_born_where_nothing_is_to_be_sealed(deploy: Deploy) -> None:
    deployment = await deploy(policy=SEALING)
    await writing.keep_sealed(deployment.server)
    await deployment.clock.advance(100 * DAY)
    await writing.keep_sealed(deployment.server)
    assert await epochs_of(deployment.node("tehran")) == []


@ON_SQLITE
@aio
async def test_other_custodians_have_another_epoch_at_once(deploy: Deploy) -> None:
    deployment, nima, tehran = await begun(deploy)
    base = SEALING.partition("[disclosure")[0]
    for policy in (
        base + custodians("leila", "shirin"),
        base + custodians("leila", "shirin", "babak"),
        base + "[disclosure.IR]\nthreshold = 3\n" + custodians("leila", "babak", "shirin"),
    ):
        before = await epochs_of(tehran)
        in_force(deployment, policy)
        await seal_one(deployment, nima)
        *others, newest = await epochs_of(tehran)
        assert [each.epoch for each in others] == [each.epoch for each in before]
        assert set(newest.epoch.shares) == set(deployment.server.policy.now.disclosure("IR").custodians)
        await seal_one(deployment, nima)
        assert len(await epochs_of(tehran)) == len(before) + 1
    short = "[disclosure.IR]\nthreshold = 3\nepoch = '1h'\n"
    in_force(deployment, base + short + custodians("leila", "babak", "shirin"))
    await deployment.clock.advance(2 * 3600)
    await seal_one(deployment, nima)  # shorter from now on, also for one that was to be longer
    assert len(await epochs_of(tehran)) == 5


@ON_SQLITE
@aio
async def test_a_clock_that_is_set_back_begins_another_epoch(deploy: Deploy) -> None:
    deployment, nima, tehran = await begun(deploy)
    await deployment.clock.advance(3 * DAY)
    await seal_one(deployment, nima)
    set_clock(deployment, -30.0)  # kept right
    await seal_one(deployment, nima)
    assert len(await epochs_of(tehran)) == 1
    set_clock(deployment, -2 * DAY)  # the epoch would be in use for nine days
    await seal_one(deployment, nima)
    first, second = await epochs_of(tehran)
    assert second.epoch.number > first.epoch.number
    set_clock(deployment, +2 * DAY + 3600)
    await seal_one(deployment, nima)
    assert (await epochs_of(tehran))[0] == first  # which is not used again, though its time is not over
    assert len(await epochs_of(tehran)) == 2
    await deployment.clock.advance(91 * DAY)
    await writing.keep_sealed(deployment.server)
    assert [each.can_be_opened for each in await epochs_of(tehran)] == [False, False]


@ON_SQLITE
@aio
async def test_an_epoch_of_the_future_goes_with_those_after_it(deploy: Deploy) -> None:
    """A clock that was years ahead once does not have its records kept for years."""
    deployment, nima, tehran = await begun(deploy)
    set_clock(deployment, +1000 * DAY)
    await seal_one(deployment, nima)
    set_clock(deployment, -1000 * DAY)
    await seal_one(deployment, nima)
    await deployment.clock.advance(91 * DAY)
    await writing.keep_sealed(deployment.server)
    assert [each.can_be_opened for each in await epochs_of(tehran)] == [False, False, False]


@aio
async def test_what_is_too_old_is_destroyed_and_nothing_else(deploy: Deploy) -> None:
    deployment, nima, tehran = await begun(deploy, SEALING + '[retention.IR]\nsessions = "20d"\n')
    await deployment.clock.advance(10 * DAY)
    await seal_one(deployment, nima)
    await deployment.clock.advance(9.9 * DAY)
    await writing.keep_sealed(deployment.server)
    assert len(await opened(tehran, nima.user_id)) == 2
    await deployment.clock.advance(0.2 * DAY)
    await writing.keep_sealed(deployment.server)
    first, second = await epochs_of(tehran)
    assert (first.epoch.shares, first.salt, first.destroyed_ts) == ({}, b"", deployment.clock.now_ms())
    assert second.destroyed_ts is None
    (left,) = await opened(tehran, nima.user_id)
    assert left.ts == second.born_ts
    await deployment.clock.advance(11 * DAY)
    await writing.keep_sealed(deployment.server)
    assert await rows(tehran, "SELECT * FROM sessions") == await rows(tehran, "SELECT * FROM device_days") == []
    await seal_one(deployment, nima)
    numbers = [each.epoch.number for each in await epochs_of(tehran)]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 3


@ON_SQLITE
@aio
async def test_nothing_of_a_destroyed_epoch_is_left_in_any_file(deploy: Deploy, engines: Databases) -> None:
    deployment, nima, tehran = await begun(deploy)
    for _ in range(30):
        await deployment.clock.advance(DAY / 10)
        await seal_one(deployment, nima)
    (epoch,) = await epochs_of(tehran)
    boxes = [row[0] for row in await rows(tehran, "SELECT box FROM sessions")]
    ((shares,),) = await rows(tehran, "SELECT shares FROM epochs")
    traces = [part[50:100] for part in (*boxes, shares) if isinstance(part, bytes)]
    traces.append(epoch.salt)
    assert len(traces) == 33

    def found() -> int:
        files = [path.read_bytes() for path in engines.directory.rglob("*") if path.is_file()]
        return sum(any(trace in content for content in files) for trace in traces)

    assert found() == len(traces)
    assert await epochs.destroy_all(deployment.server, tehran) == [epoch.epoch.number]
    assert found() == 0
    assert await epochs.destroy_all(deployment.server, tehran) == []


@aio
async def test_what_was_cut_off_is_taken_up(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment, nima, tehran = await begun(deploy)
    for name in ("close_for_ever", "delete_some", "note_destroyed"):
        if not await rows(tehran, "SELECT * FROM sessions"):
            await seal_one(deployment, nima)

        async def broken(*_: object) -> None:
            raise NodeUnavailable("tehran")

        with monkeypatch.context() as patch:
            patch.setattr(stored, name, broken)
            with pytest.raises(NodeUnavailable):
                await epochs.destroy_all(deployment.server, tehran)
        if name != "close_for_ever":
            assert await opened(tehran, nima.user_id) == []  # nobody opens it from the first step on
            assert await epochs.destroy_old(deployment.server, tehran) != []  # young, but begun
            assert await rows(tehran, "SELECT * FROM sessions") == []
        assert await epochs.destroy_old(deployment.server, tehran) == []
