"""People with roles, and what they ask of the admin API."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from homeserver.accounts import roles
from homeserver.control import commands
from homeserver.protocol.roles import Role
from homeserver.storage.engine import Transaction
from homeserver.storage.nodes import Node
from tests.deployment import Answer, Deployment, User

API = "/_domicile/v1"


class Office:
    """A deployment in which there is one user for each role, who rests in Tehran and has no other, and somebody
    without any in Paris."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.people: dict[Role, User] = {}
        self.nobody: User

    @classmethod
    async def opened(cls, deployment: Awaitable[Deployment]) -> Office:
        """Open it."""
        made = cls(await deployment)
        for role in Role:
            user = await made.deployment.user(role.value)
            await roles.give(made.deployment.server, user.user_id, role)
            made.people[role] = user
        made.nobody = await made.deployment.user("nobody", "paris")
        return made

    async def ask(self, role: Role | None, method: str, path: str, body: object = None, **query: str) -> Answer:
        """Ask as somebody with a role."""
        user = self.nobody if role is None else self.people[role]
        return await user.asks(method, API + path, body, **query)

    async def command(self, name: str, **arguments: Any) -> dict[str, Any]:
        """What the command line is answered."""
        return await commands.perform(self.deployment.server, name, arguments)

    async def entries(self) -> list[dict[str, Any]]:
        """The log, which must be whole."""
        answer = await self.command("admin-log")
        assert answer["faults"] == []
        assert answer["intact"]
        found: list[dict[str, Any]] = answer["entries"]
        return found

    async def faults(self) -> list[str]:
        """What is wrong with the log."""
        return [each["fault"] for each in (await self.command("admin-log"))["faults"]]


async def tampered(node: Node, sql: str, *params: int | str | bytes) -> None:
    """Change a node's database by hand."""

    async def work(tx: Transaction) -> int:
        return await tx.run(sql, *params)

    assert await node.write(work)
