"""A deployment whose policy is changed by plans, in the test's own process; and a mover that only reroutes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from config.load import policy_from_text
from homeserver.context import Mover, Server
from homeserver.protocol.identifiers import localpart_of
from homeserver.protocol.policy_chain import How
from homeserver.residency.changes import applying, chain, planning
from homeserver.residency.changes.applying import Wish
from homeserver.residency.changes.planning import Plan
from homeserver.storage import accounts, users
from homeserver.storage.directory import Kind
from homeserver.storage.engine import Transaction
from homeserver.storage.nodes import Node


async def founded(server: Server, text: str) -> None:
    """Make a text the first version, and have it stand in the file."""
    policy = policy_from_text(text, "residency.toml", server.name)
    link = chain.next_link(server.identity, None, policy, How.FIRST, server.clock.now_ms())
    await chain.append(server.nodes.directory.engine, link, None)
    server.policy.now = policy
    server.settings.residency.parent.mkdir(parents=True, exist_ok=True)
    server.settings.residency.write_text(text)


def following(text: str, *replacements: tuple[str, str], serial: int = 2, more: str = "") -> str:
    """The text of the next version."""
    text = text.replace(f"serial = {serial - 1}", f"serial = {serial}")
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return text + more


async def planned(server: Server, text: str) -> Plan:
    """What a text would do."""
    return await planning.plan(server, text, "draft.toml")


async def applied(server: Server, digest: str, text: str) -> dict[str, Any]:
    """Apply a plan, to the end."""
    return await ended(server, await applying.apply(server, Wish(digest, text, "draft.toml")))


async def ended(server: Server, answer: dict[str, Any]) -> dict[str, Any]:
    """Wait until what is under way has ended."""
    while not answer["done"]:
        answer = await applying.progress(server)
    return answer


class Rerouting:
    """Moves the account, and nothing else: what a plan needs of a mover. ``failing``: whom it cannot move."""

    def __init__(self) -> None:
        self.moved: list[tuple[str, str]] = []
        self.failing: dict[str, Exception] = {}

    async def move(self, server: Server, user_id: str, destination: Node) -> None:
        """See `Mover.move`."""
        if user_id in self.failing:
            raise self.failing[user_id]
        source = await server.nodes.of_user(user_id)
        assert source is not None
        if source is destination:
            return
        await destination.write(accounts.create, user_id, None, server.clock.now_ms())
        await server.nodes.directory.reroute(Kind.USER, localpart_of(user_id), destination.name)
        await source.write(_leave, user_id)
        self.moved.append((user_id, destination.name))


async def _leave(tx: Transaction, user_id: str) -> None:
    user_nid = await users.nid(tx, user_id)
    assert user_nid is not None
    for table in ("access_tokens", "devices", "pins", "profiles", "media", "accounts", "residents"):
        await tx.run(f"DELETE FROM {table} WHERE user_nid = ?", user_nid)


def moving(server: Server, mover: Mover | None) -> Server:
    """The same server with a mover."""
    return replace(server, mover=mover)
