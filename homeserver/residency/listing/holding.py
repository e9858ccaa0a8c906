"""The federation list that holds: what of it is valid now lies under the policy, which has the last word.

A list is in force only as long as a key has signed it that the policy believes, and no longer than it says itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import structlog

from homeserver.protocol import federation_lists
from homeserver.protocol.federation_lists import InvalidList
from homeserver.runtime.lru import Lru
from homeserver.storage import federation_lists as stored

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.protocol.federation_lists import FederationList
    from homeserver.storage.federation_lists import KeptList

log = structlog.get_logger("residency.listing")

REMEMBERED: Final = 10_000
"""Servers of which it is remembered that the list was fetched for them."""
NAMED: Final = 200
"""How many of one kind are named."""


class Held:
    """The list (``directory.memory(Held)``): it, what it was read from, and who of those whom the policy believes has
    signed it. ``keys``: those that were believed when it was read. ``fault``: why the last attempt to fetch it failed.

    ``tried``: when it was fetched last, in seconds of the monotonic clock. ``before``: what was listed when it was last
    looked which rooms break a rule, if that is not what is listed now; ``report``: what was found then. ``turn`` is
    held while a list takes the place of another.
    """

    def __init__(self) -> None:
        self.list: FederationList | None = None
        self.kept: KeptList | None = None
        self.signers: frozenset[str] = frozenset()
        self.keys: tuple[str, ...] = ()
        self.fault: str | None = None
        self.tried: float | None = None
        self.pulling: asyncio.Task[None] | None = None
        self.asked: Lru[str, float] = Lru(REMEMBERED)
        self.before: Mapping[str, str] | None = None
        self.report: dict[str, Any] | None = None
        self.turn = asyncio.Lock()


def of(server: Server) -> Held:
    """What is held."""
    return server.nodes.directory.memory(Held)


def believed_keys(server: Server) -> tuple[str, ...]:
    """The keys by which the policy in force believes lists."""
    setting = server.policy.now.federation_list
    return () if setting is None else setting.keys


async def load(server: Server) -> None:
    """Put in force the list that was believed last, if the policy of now believes it."""
    held = of(server)
    async with held.turn:
        held.keys, held.list, held.signers = believed_keys(server), None, frozenset()
        held.kept = await server.nodes.directory.engine.read(stored.kept)
        if held.kept is not None and held.keys:
            try:
                found, held.signers = await asyncio.to_thread(read, held.kept.document, held.keys)
                held.list = found
            except InvalidList as invalid:
                log.warning("the federation list that was kept is not believed", reason=str(invalid))
        put_in_force(server)
        held.before = None  # a policy that believes others was planned


def read(raw: bytes, keys: tuple[str, ...]) -> tuple[FederationList, frozenset[str]]:
    """A list, and who of these has signed it. Raises InvalidList."""
    document = federation_lists.parsed(raw)
    signers = federation_lists.believed(document, keys)
    return federation_lists.read(document), signers


def put_in_force(server: Server) -> None:
    """Let hold what of the list is valid now."""
    held, policy = of(server), server.policy
    before = policy.now.listed
    valid = {} if held.list is None else held.list.valid(server.clock.now_ms())
    policy.put_list(held.signers, valid)
    if policy.now.listed != before:
        if held.before is None:
            held.before = before
        log.info("the federation list places servers", servers=len(policy.now.listed))


def contradictions(server: Server) -> list[dict[str, str]]:
    """Servers of which the policy says one thing and the list another: the policy holds. At most `NAMED`."""
    policy, found = server.policy.now, []
    for name, listed in policy.listed.items():
        own = None if name == policy.server_name else policy.own_word_on(name)
        if own is not None and own != listed:
            found.append({"server": name, "policy": own, "list": listed})
    return found[:NAMED]


def undeclared(server: Server) -> list[str]:
    """Jurisdictions that the list names and the policy does not: nothing flows there."""
    policy = server.policy.now
    return sorted({code for code in policy.listed.values() if not policy.knows(code)})


def held_list(server: Server) -> dict[str, Any] | None:
    """Which list is held, as JSON; it may have expired."""
    held = of(server)
    found, kept = held.list, held.kept
    if found is None or kept is None:
        return None
    return {
        "name": found.name,
        "serial": found.serial,
        "sha256": sha256(kept.document).hexdigest(),
        "servers": len(found.servers),
        "issued": found.issued,
        "valid_until": found.valid_until,
        "signed_by": sorted(held.signers),
        "taken_ts": kept.taken_ts,
        "checked_ts": kept.checked_ts,
    }


def status(server: Server) -> dict[str, Any]:
    """How it stands with the list: what holds, since when and until when, and what is wrong."""
    held, setting = of(server), server.policy.now.federation_list
    return {
        "url": None if setting is None else setting.url,
        "list": held_list(server),
        "valid_servers": len(server.policy.now.listed),
        "fault": held.fault,
        "contradictions": contradictions(server),
        "undeclared": undeclared(server),
        "report": held.report,
    }


def servers(server: Server) -> list[dict[str, Any]]:
    """All entries of the list that is held, by name: what it says, where each server is by now, and whether the entry
    is valid now."""
    held, policy = of(server), server.policy.now
    found = {} if held.list is None else held.list.servers
    return [
        {
            "server": name,
            "jurisdiction": each.jurisdiction,
            "operator": each.operator,
            "role": each.role,
            "witness": None if each.witness is None else {"key": each.witness.key, "url": each.witness.url},
            "valid_until": each.valid_until,
            "valid": name in policy.listed,
            "placed": None if name == policy.server_name else policy.jurisdiction_of_server(name),
        }
        for name, each in sorted(found.items())
    ]


def show(server: Server) -> None:
    """Have `/metrics` show how many servers the list places, and until when it is valid."""
    gauge = server.telemetry.gauge

    def until() -> float:
        found = of(server).list
        return 0.0 if found is None else found.valid_until / 1000

    words = "Servers that the federation list places now."
    gauge("domicile_federation_list_servers", words, lambda: float(len(server.policy.now.listed)))
    gauge("domicile_federation_list_valid_until_seconds", "Until when the federation list is valid; 0 without.", until)
