"""The versions of the residency policy as this deployment keeps them. The newest is the policy in force.

What is kept is believed only as far as it is signed: a newest version that somebody has changed is refused.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from config.load import policy_from_text
from homeserver.protocol import policy_chain
from homeserver.protocol.policy_chain import How, Link, Version
from homeserver.storage import policy_versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config.policy import Policy
    from homeserver.context import Identity
    from homeserver.protocol.policy_chain import Approval
    from homeserver.storage.engine import Engine

AT_ONCE = 50
"""Versions that are read together."""


class BrokenChain(Exception):
    """The newest version was changed by somebody else; the text says what to do."""


async def newest(routes: Engine, identity: Identity) -> Link | None:
    """The version in force; None before the first start. Raises BrokenChain when it cannot be believed."""
    link = await routes.read(policy_versions.newest)
    if link is None:
        return None
    faults = list(policy_chain.link_faults(link, identity.server_name, identity.residency_key.verify_key))
    if faults:
        raise BrokenChain(
            f"version {link.serial} of the residency policy cannot be believed: {'; '.join(faults)}."
            " Somebody has changed directory.db: restore it from a backup"
        )
    return link


async def faults(routes: Engine, identity: Identity) -> dict[int, list[str]]:
    """What is wrong with the chain, as `policy_chain.chain_faults` says it."""
    found: dict[int, list[str]] = {}
    before: Link | None = None
    while links := await routes.read(policy_versions.page, before.serial if before else -1, AT_ONCE):
        found |= policy_chain.chain_faults(links, identity.server_name, identity.residency_key.verify_key, before)
        before = links[-1]
    return found


def worded(found: dict[int, list[str]]) -> list[str]:
    """The faults of a chain, one sentence each."""
    return [f"version {serial} of the residency policy: {fault}" for serial, each in found.items() for fault in each]


def next_link(
    identity: Identity,
    before: Link | None,
    policy: Policy,
    how: How,
    now_ms: int,
    *,
    plan: str | None = None,
    restores: int | None = None,
    approvals: Sequence[Approval] = (),
) -> Link:
    """The version that follows on another, signed."""
    version = Version(
        server_name=identity.server_name,
        serial=policy.serial,
        text_sha256=policy_chain.digest(policy.text),
        previous=None if before is None else policy_chain.digest(before.record),
        time=now_ms,
        how=how,
        plan=plan,
        restores=restores,
        approvals=tuple(approvals),
    )
    return Link(policy.serial, policy_chain.signed(version, identity.residency_key), policy.text)


async def append(routes: Engine, link: Link, before: Link | None) -> None:
    """Put a version in force. Raises NotNewest when another came first."""
    await routes.write(policy_versions.append, link, None if before is None else policy_chain.digest(before.record))


def policy_of(link: Link, file: str, server_name: str) -> Policy:
    """The policy of a version, as if ``file`` held it. Raises Faults when this program cannot read it any more."""
    return policy_from_text(link.text, file, server_name, environ=os.environ)
