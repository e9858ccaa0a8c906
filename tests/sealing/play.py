"""A deployment with custodians in one of its jurisdictions, and what they can open together."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from nacl.public import PrivateKey

from homeserver.protocol import epochs
from homeserver.sealing import noticing
from homeserver.storage import epochs as stored
from homeserver.storage import sessions
from tests.deployment import POLICY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from homeserver.protocol.epochs import SessionRecord
    from homeserver.storage.engine import Row, Transaction
    from homeserver.storage.epochs import StoredEpoch
    from homeserver.storage.nodes import Node
    from tests.deployment import Answer, Deployment, User

KEYS = {name: PrivateKey(name.encode().ljust(32, b"-")) for name in ("leila", "babak", "shirin")}
ADDRESS = "198.51.100.23"
AGENT = "Pomegranate/7.3 (unheard-of telephone)"


def custodians(*names: str, code: str = "IR") -> str:
    """The table of a policy that names custodians."""
    lines = [f'{name} = "{epochs.write_key(bytes(KEYS[name].public_key))}"' for name in names]
    return "\n".join([f"[disclosure.{code}.custodians]", *lines, ""])


SEALING = POLICY + custodians(*KEYS)
"""Custodians in Iran, where tehran is, and none in France."""


def noticing_all(deployment: Deployment) -> None:
    """Have requests noticed, as a server has that listens."""
    deployment.site.notice = partial(noticing.notice, deployment.server)


async def asks(user: User, path: str = "/_matrix/client/v3/account/whoami", **sent: str) -> Answer | int:
    """A request from an address, by a program."""
    headers = {"Authorization": f"Bearer {user.token}", "User-Agent": sent.get("agent", AGENT)}
    response = await user.deployment.site.call("GET", path, headers=headers, address=sent.get("address", ADDRESS))
    return response.status


async def epochs_of(node: Node) -> list[StoredEpoch]:
    """All epochs of a node."""
    return await node.read(stored.every)


async def rows(node: Node, sql: str) -> list[Row]:
    """What a statement finds."""

    async def find(tx: Transaction) -> list[Row]:
        return await tx.all(sql)

    return await node.read(find)


async def opened(node: Node, user_id: str, names: Iterable[str] = ("leila", "shirin")) -> list[SessionRecord]:
    """What custodians find about a user on a node, in the order of times."""

    async def find(tx: Transaction) -> list[SessionRecord]:
        found = []
        row = await tx.one("SELECT user_nid FROM users WHERE user_id = ?", user_id)
        for each in await stored.every(tx):
            if not each.can_be_opened or row is None:
                continue
            shares = [epochs.open_share(each.epoch.shares[name].box, bytes(KEYS[name])).words for name in names]
            with epochs.combine(each.epoch, shares) as secret:
                held = await sessions.of_user(tx, row[0], [each.epoch.number])
                found += [secret.open(one.box) for one in held]
        return sorted(found, key=lambda record: record.ts)

    return await node.read(find)
