"""Uploads that nobody asks for are forgotten where a jurisdiction keeps them for a while only."""

from __future__ import annotations

from typing import Any

import pytest

from config.load import policy_from_text
from homeserver.media import sweep
from homeserver.storage.directory import Kind
from tests.deployment import FLOWING, Deploy, Deployment, User
from tests.media.transfers import download_path, files_in, get, picture, thumbnail_path, uploaded
from tests.support import aio

KEPT = FLOWING + "\n[retention.IR]\nmedia = '100d'\n"
DAY = 86_400.0


def obey(deployment: Deployment, policy: str) -> None:
    """Put another policy in force, as SIGHUP does."""
    deployment.server.policy.now = policy_from_text(policy, "residency.toml", deployment.server.name)


async def days(deployment: Deployment, count: float) -> None:
    """Let time pass, and what is due be swept away."""
    await deployment.clock.advance(count * DAY)
    await sweep.sweep(deployment.server)


async def is_there(user: User, media_id: str) -> bool:
    """Whether a medium can be had: by a look that does not count as asking for it."""
    node = (await user.caller()).node
    found: Any = await node.read(_row, media_id)
    return found is not None


async def _row(tx: Any, media_id: str) -> Any:
    return await tx.one("SELECT 1 FROM media WHERE media_id = ?", media_id)


@aio
async def test_what_nobody_asks_for_goes_with_all_that_is_of_it(deploy: Deploy) -> None:
    deployment = await deploy(policy=KEPT)
    alice, bob = await deployment.user("alice"), await deployment.user("bob", "paris")
    media_id, other = await uploaded(alice, picture(300, 300), "image/png"), await uploaded(bob, b"for ever")
    assert (await get(alice, thumbnail_path(media_id, width=32, height=32))).status == 200
    await days(deployment, 0)
    await days(deployment, 99)
    assert len(files_in(deployment, "tehran")) == 2
    await days(deployment, 2)
    assert files_in(deployment, "tehran") == []
    assert await deployment.server.nodes.directory.find(Kind.MEDIA, media_id) is None
    assert (await get(alice, download_path(media_id))).errcode == "M_NOT_FOUND"
    assert (await get(alice, thumbnail_path(media_id, width=32, height=32))).errcode == "M_NOT_FOUND"
    assert (await get(bob, download_path(other))).body == b"for ever"


@pytest.mark.parametrize("asker", ["alice", "bob"])
@aio
async def test_asking_keeps_it(deploy: Deploy, asker: str) -> None:
    deployment = await deploy(policy=KEPT)
    alice, bob = await deployment.user("alice"), await deployment.user("bob", "paris")
    media_id, idle = await uploaded(alice, b"asked for"), await uploaded(alice, b"idle")
    await days(deployment, 0)
    for _ in range(4):
        await days(deployment, 60)
        assert (await get(alice if asker == "alice" else bob, download_path(media_id))).body == b"asked for"
    assert not await is_there(alice, idle)
    await days(deployment, 101)
    assert not await is_there(alice, media_id)


@aio
async def test_the_time_counts_from_when_the_policy_says_so(deploy: Deploy) -> None:
    deployment = await deploy(policy=FLOWING)
    alice = await deployment.user("alice")
    media_id = await uploaded(alice, b"old")
    await days(deployment, 1000)
    obey(deployment, KEPT)
    await days(deployment, 0)
    await days(deployment, 99)
    assert await is_there(alice, media_id)
    obey(deployment, FLOWING)
    await days(deployment, 500)
    obey(deployment, KEPT)
    await days(deployment, 0)
    await days(deployment, 99)
    assert await is_there(alice, media_id), "what was noted before counts no more"
    await days(deployment, 2)
    assert not await is_there(alice, media_id)


@aio
async def test_avatars_that_are_in_use_and_what_waits_for_its_content_stay(deploy: Deploy) -> None:
    deployment = await deploy(policy=KEPT + "\n")
    alice = await deployment.user("alice")
    avatar, before = await uploaded(alice, b"me"), await uploaded(alice, b"me, younger")
    path = f"/_matrix/client/v3/profile/{alice.user_id}/avatar_url"
    for media_id in (before, avatar):
        uri = f"mxc://{deployment.server.name}/{media_id}"
        assert (await alice.asks("PUT", path, {"avatar_url": uri})).status == 200
    await days(deployment, 0)
    for _ in range(3):
        await days(deployment, 101)
    assert await is_there(alice, avatar)
    assert not await is_there(alice, before)
    assert (await get(alice, download_path(avatar))).body == b"me"


@aio
async def test_more_of_them_than_are_looked_at_together(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.media.retention.BATCH", 2)
    deployment = await deploy(policy=KEPT)
    alice = await deployment.user("alice")
    media = [await uploaded(alice, b"%d" % number) for number in range(5)]
    await days(deployment, 0)
    await days(deployment, 101)
    assert not any([await is_there(alice, media_id) for media_id in media])
    assert files_in(deployment, "tehran") == []
