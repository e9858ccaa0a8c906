"""The register of disclosures of a node: each step of an order is an entry, in the transaction that takes the step.

The key log of the node states each entry in the same transaction, and its checkpoints name the last: so entries that
are gone are missed even by who has never seen them.

Invariant: nothing is done with an order on a node whose register is not whole, and nothing is disclosed before the
entry that says so is durable.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from homeserver.protocol import disclosure_register as chain
from homeserver.protocol.disclosure_register import Entry, Following, Hidden, Kind
from homeserver.protocol.errors import LogSetBack, RegisterDamaged
from homeserver.storage import disclosures
from homeserver.storage.disclosures import StoredEntry
from homeserver.transparency import heads, statements
from homeserver.transparency.heads import KeyLog

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from homeserver.context import Server
    from homeserver.storage.disclosures import Head
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.transparency.statements import Stated

STATED: Final = "register"
"""What entries are called in the node's key log."""


class Checked(NamedTuple):
    """A register that was read from its beginning: its entries, how far it is, and what is wrong with it, if any."""

    entries: list[StoredEntry]
    head: Head
    following: Following
    faults: list[str]

    @property
    def time(self) -> int:
        """How late it has been at the least, in milliseconds since 1970."""
        return max(self.head.seen_ts, self.following.ts)


async def check(tx: Transaction, server: Server) -> Checked:
    """Read the register of the node that ``tx`` is of, and say what is wrong with it."""
    following = Following(tx.node, server.name, server.identity.log_key(tx.node).verify_key)
    faults: list[str] = []
    entries = await disclosures.entries(tx)
    for each in entries:
        details = Hidden(each.details_salt, each.details)
        faults += following.read(each.seq, each.entry, details, Hidden(each.withheld_salt, each.withheld))
    head = await disclosures.head(tx)
    faults += following.end(head.entries, head.digest or None)
    for order in await disclosures.orders(tx):
        if following.digests.get(order.number) != hashlib.sha256(order.body).hexdigest():
            faults.append(f"the order {order.number} is not the one that is on record")
    faults += _against_log(
        {each.seq: chain.digest(each.entry) for each in entries}, await statements.stated(tx, STATED)
    )
    return Checked(entries, head, following, faults)


def _against_log(digests: Mapping[int, str], stated: list[Stated]) -> Iterator[str]:
    """What the key log states and the register does not have."""
    for each in stated:
        if each.said.number not in digests:
            yield f"entry {each.said.number} is gone, which the key log states"
        elif digests[each.said.number] != each.said.digest:
            yield f"entry {each.said.number} is not the one that the key log states"


async def state_again(tx: Transaction, server: Server) -> Checked:
    """Have the key log state all entries that it does not state: it may have begun anew. Returns the register. Raises
    RegisterDamaged."""
    checked = await sound(tx, server)
    there = {each.said.number for each in await statements.stated(tx, STATED)}
    for each in checked.entries:
        if each.seq not in there:
            await statements.append(server, tx, STATED, each.seq, chain.digest(each.entry), checked.time)
    return checked


async def is_stated(tx: Transaction) -> bool:
    """Whether the key log states as many entries as there are."""
    return len(await statements.stated(tx, STATED)) == (await disclosures.head(tx)).entries


async def followed(server: Server, node: Node) -> None:
    """Raise LogSetBack when the key log of the node is older than what was shown of it: so is its register then."""
    if await set_back(server, node) is not None:
        raise LogSetBack(node.name)


async def set_back(server: Server, node: Node) -> str | None:
    """What to say when the key log of the node has been set back. Raises NodeUnavailable."""
    await heads.current(server, node)
    gone = node.memory(KeyLog).fault is not None
    return "the key log of the node, in which it stands, has been set back" if gone else None


async def sound(tx: Transaction, server: Server) -> Checked:
    """The register, which is whole. Raises RegisterDamaged."""
    found = await check(tx, server)
    if found.faults:
        raise RegisterDamaged(tx.node, found.faults[0])
    return found


class Step(NamedTuple):
    """What an entry is to say. ``details`` are for everybody, ``withheld`` is not, and ``gagged``: the former neither
    for now."""

    kind: Kind
    order: int
    gagged: bool
    details: Mapping[str, Any]
    withheld: Mapping[str, Any]


async def append(tx: Transaction, server: Server, node: Node, step: Step, now: int) -> StoredEntry:
    """Put an entry at the end of the register, in the transaction that does what it says. ``now``: see
    `conditions.time_of`."""
    head = await disclosures.head(tx)
    details = chain.hidden(step.details, secrets.token_bytes(chain.SALT_BYTES))
    withheld = chain.hidden(step.withheld, secrets.token_bytes(chain.SALT_BYTES))
    made = Entry(
        node=node.name,
        jurisdiction=node.jurisdiction,
        seq=head.entries + 1,
        previous=head.digest or None,
        ts=now,
        kind=step.kind,
        order=step.order,
        gagged=step.gagged,
        details=details.digest,
        withheld=withheld.digest,
    )
    record = chain.signed(made, server.name, server.identity.log_key(node.name))
    stored = StoredEntry(made.seq, step.order, record, details.text, details.salt, withheld.text, withheld.salt)
    digest = chain.digest(record)
    await disclosures.append(tx, stored, digest, made.ts)
    await statements.append(server, tx, STATED, made.seq, digest, made.ts)
    return stored
