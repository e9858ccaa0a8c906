"""What `Network.settle` waits for: not for a moment, in which slow machines get less done than fast ones."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from homeserver.e2ee import remote_lists
from homeserver.e2ee.asking import Asking
from homeserver.rooms import presence
from tests.federation.meetings import enter
from tests.federation.test_user_keys import copies, device_of, share, towns, update_of
from tests.matrix.conftest import engines
from tests.network import Network
from tests.support import aio

__all__ = ["engines"]

TURNS = 1000
"""How often others have their turn before what is slow goes on."""


def slowly(monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> None:
    """Let something begin late, and end late."""
    quick = getattr(place, name)

    async def late(*args: Any) -> Any:
        await _turns()
        answer = await quick(*args)
        await _turns()
        return answer

    monkeypatch.setattr(place, name, late)


async def _turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


@aio
async def test_lists_that_are_asked_for_anew_are_there(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    node = here.node("tehran")
    await share(here, alice.user, bob)
    await alice.query(bob)
    await network.settle()
    slowly(monkeypatch, remote_lists, "_ask_list")
    await remote_lists.apply_update(here.server, node, update_of(bob, 70, 60))
    assert [stale for _, stale in (await copies(node)).values()] == [True]
    await network.settle()
    assert [stale for _, stale in (await copies(node)).values()] == [False]
    assert not node.memory(Asking).refreshing


@aio
async def test_what_waits_for_the_clock_is_not_waited_for(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = await towns(network)
    alice, bob = await device_of(here, "alice"), await device_of(there, "bob")
    node = here.node("tehran")
    await share(here, alice.user, bob)
    await alice.query(bob)
    carry, words = network.carry, iter([update_of(bob, 90, 80)])

    async def overtaken(*args: Any) -> Any:
        answer = await carry(*args)
        for word in words:
            await remote_lists.apply_update(here.server, node, word)
        return answer

    monkeypatch.setattr(network, "carry", overtaken)
    await remote_lists.apply_update(here.server, node, update_of(bob, 70, 60))
    await network.settle()
    assert node.memory(Asking).refreshing.keys() == {bob.user_id}, "there was news meanwhile"
    await network.clock.advance(remote_lists.PAUSE)
    await network.settle()
    assert [stale for _, stale in (await copies(node)).values()] == [False]
    assert not node.memory(Asking).refreshing


@aio
async def test_presence_has_been_told(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = await towns(network)
    alice, bob = await here.user("alice", "paris"), await there.user("bob")
    await enter(there, bob, await here.create(alice, preset="public_chat"), "here.test")
    await network.settle()
    slowly(monkeypatch, presence, "_spread")
    await here.ask(alice, "PUT", f"/presence/{alice.user_id}/status", {"presence": "online", "status_msg": "back"})
    await network.settle()
    assert (await there.ask(bob, "GET", f"/presence/{alice.user_id}/status"))["status_msg"] == "back"
