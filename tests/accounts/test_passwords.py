"""Hashing passwords: strength, cost, bounded threads, and the same work for users who do not exist."""

from __future__ import annotations

import asyncio
import threading

import pytest
from argon2 import PasswordHasher

from homeserver.accounts import passwords
from homeserver.protocol.errors import InvalidParam, LimitExceeded, WeakPassword
from tests.deployment import PASSWORD, Deployment
from tests.support import aio


@aio
async def test_a_password_matches_its_own_hash_only(deployment: Deployment) -> None:
    server = deployment.server
    stored = await passwords.hashed(server, "رمز عبور 🔑")
    assert stored.startswith("$argon2id$")
    assert await passwords.matches(server, "رمز عبور 🔑", stored)
    assert not await passwords.matches(server, "رمز عبور", stored)
    assert not await passwords.matches(server, "x", "not a hash")
    assert not await passwords.matches(server, "x", None)
    assert await passwords.hashed(server, "same") != await passwords.hashed(server, "same")


@aio
async def test_the_cost_is_that_of_the_settings(deployment: Deployment) -> None:
    stored = await passwords.hashed(deployment.server, PASSWORD)
    assert "m=8,t=1,p=1" in stored
    assert not passwords.is_outdated(deployment.server, stored)
    costlier = PasswordHasher(time_cost=2, memory_cost=8, parallelism=1).hash(PASSWORD)
    assert passwords.is_outdated(deployment.server, costlier)


@aio
async def test_strength(deployment: Deployment) -> None:
    passwords.check_strength(deployment.server, "x" * 8)
    with pytest.raises(WeakPassword):
        passwords.check_strength(deployment.server, "x" * 7)
    with pytest.raises(InvalidParam):
        passwords.check_strength(deployment.server, "x" * 513)


@aio
async def test_a_user_who_does_not_exist_costs_as_much(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await deployment.user("alice")
    verified: list[str] = []
    verify = PasswordHasher.verify

    def counting(self: PasswordHasher, stored: str, password: bytes) -> bool:
        verified.append(stored)
        return verify(self, stored, password)

    monkeypatch.setattr(PasswordHasher, "verify", counting)
    for whose in (alice.user_id, "@nobody:example.org", "@alice:elsewhere.org"):
        assert await passwords.verify(deployment.server, whose, "wrong password") is None
    assert len(verified) == 3
    assert len({stored.rsplit("$", 2)[0] for stored in verified}) == 1  # the same cost


@aio
async def test_waiting_hashes_are_bounded(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "MAX_WAITING", 3)
    let_go = threading.Event()
    make = PasswordHasher.hash

    def slow(self: PasswordHasher, password: bytes, *, salt: bytes | None = None) -> str:
        let_go.wait(30)
        return make(self, password, salt=salt)

    monkeypatch.setattr(PasswordHasher, "hash", slow)
    waiting = [asyncio.ensure_future(passwords.hashed(deployment.server, PASSWORD)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(LimitExceeded):
        await passwords.hashed(deployment.server, PASSWORD)
    let_go.set()
    assert len(await asyncio.gather(*waiting)) == 3
    await passwords.hashed(deployment.server, PASSWORD)
