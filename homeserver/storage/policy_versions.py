"""The versions of the residency policy, in the directory's database: appended one at a time, never changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol.policy_chain import Link, digest
from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from homeserver.storage.engine import Transaction

ALL = "SELECT serial, record, text FROM policy_versions ORDER BY serial"


class NotNewest(Exception):
    """The version before is not the newest any more: somebody else was quicker."""


@asks_once
async def page(tx: Transaction, after: int, limit: int) -> list[Link]:
    """Versions in their order, behind the one with the serial ``after``."""
    rows = await tx.all(
        "SELECT serial, record, text FROM policy_versions WHERE serial > ? ORDER BY serial LIMIT ?", after, limit
    )
    return [Link(serial, bytes(record), text) for serial, record, text in rows]


@asks_once
async def newest(tx: Transaction) -> Link | None:
    """The version in force; None in a deployment that has none yet."""
    row = await tx.one(
        "SELECT serial, record, text FROM policy_versions WHERE serial = (SELECT MAX(serial) FROM policy_versions)"
    )
    return None if row is None else Link(row[0], bytes(row[1]), row[2])


@asks_once
async def find(tx: Transaction, serial: int) -> Link | None:
    """A version by its serial."""
    row = await tx.one("SELECT serial, record, text FROM policy_versions WHERE serial = ?", serial)
    return None if row is None else Link(row[0], bytes(row[1]), row[2])


async def append(tx: Transaction, link: Link, base: str | None) -> None:
    """Add a version behind the one whose record has the digest ``base``; all approvals lose their meaning with it.

    Raises NotNewest.
    """
    before = await newest(tx)
    if (None if before is None else digest(before.record)) != base:
        raise NotNewest("another policy has come into force meanwhile")
    await tx.run(
        "INSERT INTO policy_versions (serial, record, text) VALUES (?, ?, ?)", link.serial, link.record, link.text
    )
    await tx.run("DELETE FROM policy_approvals")
