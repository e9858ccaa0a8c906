"""The log of administration is written here: before a change, and how it ended; and read, and checked.

Nothing is changed whose beginning cannot be written down first. An entry rests with the user who acts or, when somebody
acts at the machine, with the user to whom it is done; what concerns nobody there, in the directory, and names nobody.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from homeserver.control.declarations import plain
from homeserver.protocol import admin_chain
from homeserver.protocol.admin_chain import MACHINE, Entry, Outcome
from homeserver.protocol.errors import NodeUnavailable, NotFound, Refusal
from homeserver.protocol.identifiers import is_user_id
from homeserver.storage import admin_log, users

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from homeserver.context import Caller, Server
    from homeserver.control.declarations import Declared
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("administration")


@dataclass(frozen=True, slots=True)
class Chain:
    """Where entries go. ``user_id``: whose chain it is, and ``node`` where they are; neither: that of nobody."""

    user_id: str = ""
    node: Node | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What an entry says of what was done."""

    who: str
    command: str
    arguments: Mapping[str, Any]
    outcome: Outcome
    begun: int | None = None
    errcode: str | None = None


async def append(server: Server, chain: Chain, said: Said) -> int:
    """Put an entry at the end of a chain; returns its number. Raises NotFound when the user is not there any more,
    NodeUnavailable."""
    engine = server.nodes.directory.engine if chain.node is None else chain.node.engine
    seq, digest = await engine.write(_append, server, chain.user_id, said, server.clock.now_ms())
    # Whoever keeps the server's log elsewhere can tell by these whether a chain was made anew as a whole.
    log.info("administration", command=said.command, outcome=str(said.outcome), entry=seq, sha256=digest)
    return seq


async def _append(tx: Transaction, server: Server, whose: str, said: Said, now: int) -> tuple[int, str]:
    user_nid = await users.resident(tx, whose) if whose else admin_log.NOBODY
    if user_nid is None:
        raise NotFound("There is no such user")
    head = await admin_log.head(tx, user_nid)
    seq = 1 if head is None else head.entries + 1
    if head is None and (last := await admin_log.last(tx, user_nid)):
        seq = last + 2  # somebody has removed the head: a gap stays to be seen
    entry = Entry(
        chain=whose,
        seq=seq,
        previous=None if head is None else head.digest.hex(),
        ts=now,
        who=said.who,
        command=said.command,
        arguments=said.arguments,
        outcome=said.outcome,
        begun=said.begun,
        errcode=said.errcode,
    )
    record = admin_chain.signed(entry, server.name, server.identity.residency_key)
    digest = admin_chain.digest(record)
    await admin_log.append(tx, user_nid, seq, record, bytes.fromhex(digest))
    return seq, digest


class Record:
    """What is written down of one call."""

    def __init__(self, server: Server, chain: Chain, who: str, command: str, arguments: Mapping[str, Any]) -> None:
        self._server = server
        self.chain = chain
        self._who = who
        self._command = command
        self._arguments = arguments
        self._begun: int | None = None

    async def begin(self) -> None:
        """Before anything is changed. Raises NodeUnavailable."""
        self._begun = await append(self._server, self.chain, self._said(Outcome.BEGUN))

    async def end(self, fault: Exception | None = None) -> None:
        """How it ended. What was done stays done though that cannot be written down."""
        outcome = Outcome.DONE if fault is None else Outcome.FAILED
        try:
            await append(self._server, self.chain, self._said(outcome, _errcode(fault)))
        except Refusal as refusal:
            log.error("the end of what was administered is not in the log", command=self._command, why=refusal.message)

    @asynccontextmanager
    async def around(self) -> AsyncIterator[None]:
        """`begin` and `end`, around what is done. Raises NodeUnavailable when nothing was done since it could not be
        written down, and what is raised inside."""
        await self.begin()
        try:
            yield
        except Exception as fault:
            await self.end(fault)
            raise
        await self.end()

    async def refuse(self, why: Refusal) -> None:
        """It was not even begun."""
        await append(self._server, self.chain, self._said(Outcome.REFUSED, why.errcode))

    def _said(self, outcome: Outcome, errcode: str | None = None) -> Said:
        return Said(
            who=self._who,
            command=self._command,
            arguments=self._arguments if self._begun is None else {},
            outcome=outcome,
            begun=self._begun,
            errcode=errcode,
        )


def _errcode(fault: Exception | None) -> str | None:
    if fault is None:
        return None
    return fault.errcode if isinstance(fault, Refusal) else "M_UNKNOWN"


def of_caller(server: Server, caller: Caller, command: str, declared: Declared, arguments: Mapping[str, Any]) -> Record:
    """The record of what a user does."""
    chain = Chain(caller.user_id, caller.node)
    return Record(server, chain, caller.user_id, command, declared.kept(arguments, persons=True))


def moderating(server: Server, caller: Caller, command: str, user_id: str, **what: bool) -> Record:
    """The record of what an administrator does to somebody by the client-server API."""
    return Record(server, Chain(caller.user_id, caller.node), caller.user_id, command, {"user": plain(user_id), **what})


async def at_machine(
    server: Server, command: str, declared: Declared, arguments: Mapping[str, Any], person: str | None
) -> Record:
    """The record of what is done at the machine, to ``person`` if they have an account. Raises NodeUnavailable."""
    chain = await _chain_of(server, person)
    return Record(server, chain, MACHINE, command, declared.kept(arguments, persons=bool(chain.user_id)))


async def _chain_of(server: Server, person: str | None) -> Chain:
    if person is not None and is_user_id(person) and server.nodes.is_local(person):
        node = await server.nodes.of_user(person)
        if node is not None and await node.read(users.resident, person) is not None:
            return Chain(person, node)
    return Chain()


# reading ------------------------------------------------------------------------------------

AT_ONCE = 50
"""Entries that are read and checked before others have their turn."""


@dataclass(slots=True)
class Read:
    """What was found: the newest entries, the oldest first; how many were checked; what is wrong; who was down."""

    entries: list[dict[str, Any]]
    checked: int
    faults: list[dict[str, Any]]
    nodes_down: list[str]


async def read(server: Server, node_name: str | None, limit: int) -> Read:
    """Read and check all chains, or those that rest on a node; of the entries only the newest ``limit`` are kept."""
    found = Read([], 0, [], [])
    if node_name is None:
        await _read_chain(server, Chain(), admin_log.NOBODY, found, limit)
    for node in server.nodes:
        if node_name not in (None, node.name):
            continue
        try:
            for user_nid, user_id in await node.read(admin_log.owners):
                await _read_chain(server, Chain(user_id, node), user_nid, found, limit)
        except NodeUnavailable:
            found.nodes_down.append(node.name)
    return found


async def _read_chain(server: Server, chain: Chain, user_nid: int, found: Read, limit: int) -> None:
    engine = server.nodes.directory.engine if chain.node is None else chain.node.engine
    place = None if chain.node is None else chain.node.name
    following = admin_chain.Following(chain.user_id, server.name, server.identity.residency_key.verify_key)
    entries: list[dict[str, Any]] = []
    faults: list[str] = []
    after = 0
    while True:
        part, head = await engine.read(admin_log.page, user_nid, after, AT_ONCE)
        if after and not part and head is None:
            return  # they have moved to another node meanwhile
        for seq, record in part:
            faults += following.read(seq, record)
            if following.entry is not None:
                entries.append(_shown(place, following.entry, admin_chain.digest(record)))
        found.checked += len(part)
        entries = entries[max(0, len(entries) - limit) :]
        if len(part) < AT_ONCE:
            break
        after = part[-1][0]
    faults += following.end(0 if head is None else head.entries, None if head is None else head.digest.hex())
    found.entries = _newest(found.entries + entries, limit)
    found.faults += [{"node": place, "chain": chain.user_id, "fault": fault} for fault in faults]


def _newest(entries: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    ordered = sorted(entries, key=lambda each: (each["ts"], each["chain"], each["seq"]))
    return ordered[max(0, len(ordered) - limit) :]


def _shown(place: str | None, entry: Entry, digest: str) -> dict[str, Any]:
    return {
        "node": place,
        "chain": entry.chain,
        "seq": entry.seq,
        "ts": entry.ts,
        "who": entry.who,
        "command": entry.command,
        "arguments": dict(entry.arguments),
        "outcome": entry.outcome.value,
        "begun": entry.begun,
        "errcode": entry.errcode,
        "sha256": digest,
    }
