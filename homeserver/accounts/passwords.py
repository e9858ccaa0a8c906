"""Passwords, and whose they are: hashed with Argon2id in threads of their own, a bounded number at a time.

Checking costs the same whether or not there is such a user, so that time does not tell.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from homeserver.accounts import failures
from homeserver.protocol.errors import InvalidParam, LimitExceeded, WeakPassword
from homeserver.storage import accounts as stored_accounts

if TYPE_CHECKING:
    from config.sections.signing_in import Passwords
    from homeserver.context import Caller, Server
    from homeserver.storage.accounts import Account
    from homeserver.storage.nodes import Node

T = TypeVar("T")

MAX_LENGTH = 512
"""Characters of a password; what is longer only costs time."""

MAX_WAITING = 64
"""Hashes that may wait for a thread; beyond that the answer is to come again."""


class _Hashing:
    """The threads, and for each cost a hash that no password has. One for the deployment."""

    def __init__(self) -> None:
        workers = max(1, min(4, os.cpu_count() or 1))
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="passwords")
        self._running = 0
        self.nobodys: dict[Passwords, str] = {}

    async def run(self, work: Callable[[], T]) -> T:
        """Do the work in a thread. Raises LimitExceeded when too much waits already."""
        if self._running >= MAX_WAITING:
            raise LimitExceeded(2000)
        self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._running -= 1


def _hasher(cost: Passwords) -> PasswordHasher:
    return PasswordHasher(time_cost=cost.time_cost, memory_cost=cost.memory_cost, parallelism=cost.parallelism)


def check_strength(server: Server, password: str) -> None:
    """Raise WeakPassword or InvalidParam unless this may become a password.

    spec: client-server-api/#password-management
    """
    shortest = server.settings.passwords.minimum_length
    if len(password) < shortest:
        raise WeakPassword(f"A password needs at least {shortest} characters")
    _check_length(password)


def _check_length(password: str) -> None:
    if len(password) > MAX_LENGTH:
        raise InvalidParam(f"A password has at most {MAX_LENGTH} characters")


async def hashed(server: Server, password: str) -> str:
    """The hash under which a password is stored; its cost is the one of the settings."""
    hasher = _hasher(server.settings.passwords)
    return await server.nodes.directory.memory(_Hashing).run(lambda: hasher.hash(_bytes(password)))


async def matches(server: Server, password: str, stored: str | None) -> bool:
    """Whether the password is the one of a stored hash; never, but after the same time, without a hash."""
    _check_length(password)
    hashing = server.nodes.directory.memory(_Hashing)
    cost = server.settings.passwords
    hasher = _hasher(cost)

    def check() -> bool:
        compared = (
            stored
            or hashing.nobodys.get(cost)
            or hashing.nobodys.setdefault(cost, hasher.hash(secrets.token_bytes(16)))
        )
        try:
            return hasher.verify(compared, _bytes(password)) and stored is not None
        except (Argon2Error, InvalidHashError):
            return False

    return await hashing.run(check)


def is_outdated(server: Server, stored: str) -> bool:
    """Whether the hash was made with another cost than the settings ask for now."""
    return _hasher(server.settings.passwords).check_needs_rehash(stored)


def _bytes(password: str) -> bytes:
    return password.encode(errors="surrogatepass")  # JSON can carry lone surrogates; they are as good as any character


async def verify(server: Server, whose: str, password: str) -> tuple[Node, Account] | None:
    """The account of a local user and its node, if this is the password; None after the same time if anything is not.

    A hash of an outdated cost is replaced. Raises LimitExceeded after too many wrong passwords, NodeUnavailable.
    """
    failures.check(server, whose)
    node = await server.nodes.of_user(whose)
    account = None if node is None else await node.read(stored_accounts.find, whose)
    stored = None if account is None else account.password_hash
    if not await matches(server, password, stored):
        failures.count(server, whose)
        return None
    assert node is not None
    assert account is not None
    assert stored is not None
    if is_outdated(server, stored):
        renewed = await hashed(server, password)
        await node.write(stored_accounts.renew_password, account.user_nid, stored, renewed)
    return node, account


async def has_password(caller: Caller) -> bool:
    """Whether the caller can prove by a password to be who they are."""
    account = await caller.node.read(stored_accounts.find, caller.user_id)
    return account is not None and account.password_hash is not None
