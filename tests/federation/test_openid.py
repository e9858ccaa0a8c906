"""Tokens that say to a third party who somebody is, and are good for nothing else."""

from __future__ import annotations

from tests.deployment import Answer, User
from tests.network import Network
from tests.rooms.play import CLIENT, Play
from tests.support import aio


async def token_of(user: User) -> str:
    answer = await user.asks("POST", f"{CLIENT}/user/{user.user_id}/openid/request_token", {})
    assert answer.status == 200
    assert (answer.json["token_type"], answer.json["matrix_server_name"]) == ("Bearer", "here.test")
    assert answer.json["expires_in"] == 3600
    return str(answer.json["access_token"])


async def told(here: Play, token: str) -> Answer:
    """What a third party is told, which is no Matrix server and signs nothing."""
    return await here.deployment.asked("GET", f"/_matrix/federation/v1/openid/userinfo?access_token={token}")


@aio
async def test_a_token_says_whose_it_is_for_an_hour(network: Network) -> None:
    here = await network.found("here.test")
    for localpart, node in (("alice", "tehran"), ("claire", "paris")):
        user = await here.user(localpart, node)
        token = await token_of(user)
        assert (await told(here, token)).json == {"sub": user.user_id}
    await network.clock.advance(3590)
    assert (await told(here, token)).status == 200
    await network.clock.advance(11)
    late = await told(here, token)
    assert (late.status, late.errcode) == (401, "M_UNKNOWN_TOKEN")


@aio
async def test_it_is_good_for_nothing_else(network: Network) -> None:
    here = await network.found("here.test")
    alice = await here.user("alice")
    token = await token_of(alice)
    refused = await here.deployment.asked("GET", f"{CLIENT}/account/whoami", token=token)
    assert (refused.status, refused.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert (await told(here, alice.token)).status == 401


@aio
async def test_nobody_makes_one_up(network: Network) -> None:
    here = await network.found("here.test")
    alice, bob = await here.user("alice"), await here.user("bob")
    token, other = await token_of(alice), await token_of(bob)
    kind, name, until, mark = token.split("_")
    for forged in (
        "",
        "nonsense",
        f"{kind}_{other.split('_')[1]}_{until}_{mark}",
        f"{kind}_{name}_{int(until) + 1}_{mark}",
        f"{kind}_{name}_{until}_{mark[:-1]}{'0' if mark[-1] != '0' else '1'}",
        f"{kind}_AAAA_{until}_{mark}",
        f"{kind}_A_{until}_{mark}",
        f"{kind}_{name}_{until}",
    ):
        assert (await told(here, forged)).status == 401, forged
    missing = await here.deployment.asked("GET", "/_matrix/federation/v1/openid/userinfo")
    assert (missing.status, missing.errcode) == (401, "M_MISSING_TOKEN")


@aio
async def test_one_has_only_ones_own_and_while_there_is_an_account(network: Network) -> None:
    here = await network.found("here.test")
    alice, bob = await here.user("alice"), await here.user("bob")
    refused = await alice.asks("POST", f"{CLIENT}/user/{bob.user_id}/openid/request_token", {})
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    token = await token_of(alice)
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": alice.user_id}}
    gone = await alice.asks(
        "POST", f"{CLIENT}/account/deactivate", {"auth": {**auth, "password": "correct horse battery"}}
    )
    assert gone.status == 200, gone
    assert (await told(here, token)).status == 401
