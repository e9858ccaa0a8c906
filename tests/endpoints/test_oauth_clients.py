"""How long clients are kept that registered: while somebody is signed in, and so many of those that nobody used."""

from __future__ import annotations

import pytest

from homeserver.accounts.oauth import clients
from homeserver.accounts.oauth.clients import IDLE_MS, UNUSED_MS
from tests.deployment import PASSWORD, Deployment
from tests.endpoints.visiting import Browser, Client
from tests.support import aio


async def is_known(client: Client) -> bool:
    """Whether the client could still sign somebody in."""
    return (await Browser(client.deployment).get(client.link())).status == 200


async def registered(deployment: Deployment, name: str) -> Client:
    client = Client(deployment)
    assert (await client.register(client_name=name)).status == 201
    return client


@aio
async def test_one_that_nobody_used_goes_after_a_day(deployment: Deployment) -> None:
    unused, again = await registered(deployment, "unused"), await registered(deployment, "again")
    await deployment.clock.advance(UNUSED_MS / 2000)
    assert (await again.register(client_name="again")).status == 201
    await deployment.clock.advance(UNUSED_MS / 2000 + 1)
    await registered(deployment, "another")
    assert (await is_known(unused), await is_known(again)) == (False, True)


@aio
async def test_only_so_many_are_kept_that_nobody_used(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "MOST_UNUSED", 3)
    await deployment.user("alice")
    made = []
    for number in range(5):
        made.append(await registered(deployment, f"app {number}"))
        if number == 0:
            await made[0].sign_in(Browser(deployment), "alice", PASSWORD)
        await deployment.clock.advance(1)
    assert [await is_known(client) for client in made] == [True, False, True, True, True]


@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_one_with_which_somebody_is_signed_in_stays(deployment: Deployment, node: str) -> None:
    await deployment.user("alice", node)
    kept, left = await registered(deployment, "kept"), await registered(deployment, "left")
    await kept.sign_in(Browser(deployment), "alice", PASSWORD, "A")
    tokens = await left.sign_in(Browser(deployment), "alice", PASSWORD, "B")
    await left.revoke(tokens["access_token"])
    await clients.forget_idle(deployment.server)
    assert (await is_known(kept), await is_known(left)) == (True, True)
    await deployment.clock.advance(IDLE_MS / 1000 + 1)
    await clients.forget_idle(deployment.server)
    assert (await is_known(kept), await is_known(left)) == (True, False)
