"""The audit: what rests on a node and may not, looked for in what is stored and not in what was meant.

It reads everything and changes nothing. Whose a row is stands in the row; where its owner is pinned stands in the
directory. The two are compared here, table by table, and what nothing justifies is listed.

What it cannot see: whether the machine stands where the operator says; names that a node knows of people elsewhere
(`users`), since any copied event brings some; and what has been deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from config.residency import DataClass
from homeserver.media import shelves, store
from homeserver.protocol.identifiers import domain_of
from homeserver.residency import gate
from homeserver.storage import audit
from homeserver.storage.directory import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from pathlib import Path

    from homeserver.context import Server
    from homeserver.storage.audit import Held, Misfit
    from homeserver.storage.nodes import Node


class Fault(StrEnum):
    """Why something may not rest where it was found."""

    PINNED_ELSEWHERE = "its owner is pinned to another node"
    NO_OWNER = "nobody of this deployment owns it"
    NO_ROOM = "no resident has to do with the room"
    NO_EVENT = "the event that it is about is not there"
    STRANGER = "its author never was in the room"
    NO_COPY = "it is a copy that the node does not know it has"
    FOREIGN_FILE = "it is the file of a medium that rests on another node"
    NO_ROW = "no row speaks of the file"
    NO_FLOW = "no flow leads here by the policy in force"


JUDGED_LATER = frozenset((Fault.NO_FLOW,))
"""What the policy in force when it came may have allowed: it is told, and is no violation."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that rests where it may not: ``rows`` rows of a table, or files of a media folder, on a node. ``where``
    is the table, or the path from the media folder. ``user_id``: whose it is, where that can be told.
    """

    node: str
    where: str
    fault: Fault
    rows: int
    user_id: str | None = None

    @property
    def is_violation(self) -> bool:
        """Whether no policy could have let it rest there."""
        return self.fault not in JUDGED_LATER

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "node": self.node,
            "where": self.where,
            "fault": str(self.fault),
            "rows": self.rows,
            "user_id": self.user_id,
            "violation": self.is_violation,
        }


async def of_node(server: Server, node: Node) -> list[Finding]:
    """Audit the database and the media folder of a node, or of a backup of one that has been opened like it.

    Raises NodeUnavailable.
    """
    return [finding async for finding in _findings(server, node)]


async def _findings(server: Server, node: Node) -> AsyncIterator[Finding]:
    async for finding in _owned(server, node):
        yield finding
    for misfit, fault in (
        *((each, Fault.NO_ROOM) for each in await node.read(audit.rooms_of_nobody)),
        *((each, Fault.NO_EVENT) for each in await node.read(audit.about_nothing)),
        *((each, Fault.STRANGER) for each in await node.read(audit.receipts_of_strangers)),
        *((each, Fault.STRANGER) for each in await _strangers(node)),
    ):
        yield Finding(node.name, misfit.table, fault, misfit.rows, misfit.user_id)
    async for finding in _keys(server, node):
        yield finding
    async for finding in _copies(server, node):
        yield finding
    async for finding in _files(server, node):
        yield finding


# rows that never leave ----------------------------------------------------------------------


async def _owned(server: Server, node: Node) -> AsyncIterator[Finding]:
    tables = [("residents", await node.read(audit.residents))]
    for table in audit.resident_tables():
        tables.append((table.name, await node.read(audit.owners, table)))
    homes = await _homes(server, (held for _, rows in tables for held in rows))
    for name, rows in tables:
        for held in rows:
            home = homes.get(held.user_id or "")
            if home is None:
                yield Finding(node.name, name, Fault.NO_OWNER, held.rows, held.user_id)
            elif home != node.name:
                yield Finding(node.name, name, Fault.PINNED_ELSEWHERE, held.rows, held.user_id)


async def _homes(server: Server, rows: Iterable[Held]) -> dict[str, str]:
    """The nodes to which the owners of rows are pinned."""
    return await server.nodes.of_users({held.user_id for held in rows if held.user_id is not None})


# copies -------------------------------------------------------------------------------------


async def _strangers(node: Node) -> list[Misfit]:
    found = []
    last = await node.read(audit.last_event)
    for after in range(0, last, audit.SPAN):
        found += await node.read(audit.events_of_strangers, after)
    return found


async def _keys(server: Server, node: Node) -> AsyncIterator[Finding]:
    """Public keys of others: copied from the node of their owner, or from their server."""
    copies = await node.read(audit.key_copies)
    homes = await server.nodes.of_users({copy.user_id for copy in copies if copy.user_id is not None})
    for copy in copies:
        if copy.user_id is None or copy.source is None:
            yield Finding(node.name, copy.table, Fault.NO_COPY, copy.rows, copy.user_id)
        elif copy.source and homes.get(copy.user_id) not in (copy.source, None):
            yield Finding(node.name, copy.table, Fault.PINNED_ELSEWHERE, copy.rows, copy.user_id)
        elif not _may_come(server, node, DataClass.KEYS, copy.user_id, homes):
            yield Finding(node.name, copy.table, Fault.NO_FLOW, copy.rows, copy.user_id)


async def _copies(server: Server, node: Node) -> AsyncIterator[Finding]:
    """Rooms with people from elsewhere."""
    members = await node.read(audit.members_from_elsewhere)
    homes = await _homes(server, members)
    for held in members:
        if held.user_id is not None and not _may_come(server, node, DataClass.EVENTS, held.user_id, homes):
            yield Finding(node.name, "memberships", Fault.NO_FLOW, held.rows, held.user_id)


def _may_come(server: Server, node: Node, data_class: DataClass, user_id: str, homes: dict[str, str]) -> bool:
    """Whether a class of somebody's data may flow to a node by the policy in force."""
    policy = server.policy.now
    if not server.nodes.is_local(user_id):
        source = policy.jurisdiction_of_server(domain_of(user_id))
    elif (home := homes.get(user_id, "")) in policy.nodes:
        source = policy.jurisdiction_of_node(home)
    else:
        return True  # nobody is called so any more: there is nobody whose law could object
    return gate.may_in_time(server, data_class, source, node.jurisdiction)


# files --------------------------------------------------------------------------------------


async def _files(server: Server, node: Node) -> AsyncIterator[Finding]:
    """Files of the media folder: each belongs to a row of this node."""
    known = await node.read(audit.file_names)
    for path in await node.memory(store.Files).run(node, _walk, node.media):
        named = shelves.belongs_to(path.name)
        if named is not None and known.get(named[0]) == named[1]:
            continue
        home = None if named is None else await server.nodes.directory.find(Kind.MEDIA, named[0])
        fault = Fault.NO_ROW if home in (None, node.name) else Fault.FOREIGN_FILE
        yield Finding(node.name, f"media/{path.relative_to(node.media)}", fault, 1)


def _walk(root: Path) -> list[Path]:
    """All files below a folder but drafts: those are of uploads that go on."""
    return sorted(_files_in(root))


def _files_in(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        if path.is_file() and shelves.DRAFTS not in path.relative_to(root).parts[:1]:
            yield path
