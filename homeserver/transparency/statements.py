"""What stands in a key log beside keys: versions of the policy, entries of the register of disclosures, receipts of
moves and withdrawals. Each is a leaf with a number and a digest, so that none of them can be another later, or gone.

Stating something that the log has already does nothing: so whoever was cut off just states it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from homeserver.protocol import move_receipts, policy_chain
from homeserver.protocol.key_log import Kind, NoLeaf, Statement
from homeserver.storage import key_log, moves, policy_versions, users, withdrawals
from homeserver.transparency.changes import time_behind, waiting_key
from homeserver.transparency.heads import KeyLog

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

AT_ONCE = 50
"""Versions of the policy that are read together."""


class Stated(NamedTuple):
    """A statement, and where it is in the log."""

    place: int
    said: Statement


async def append(server: Server, tx: Transaction, kind: str, number: int, digest: str, now_ms: int) -> bool:
    """Have the log of the node that ``tx`` writes to state something; False when it does so already. Three trips.

    ``kind``: see `protocol.key_log.Kind`; ``digest``: SHA-256 in hexadecimal. Raises ValueError for what is none.
    """
    made = Statement(Kind(kind), number, digest, 0)
    before, last = await key_log.ends(tx, made.tag)
    if before is not None:
        return False
    made = Statement(made.kind, number, digest, time_behind(last, now_ms))
    key_log.put(tx, await key_log.take(tx), made.tag, made.write())
    tx.after_commit(lambda: server.wakeups.wake(waiting_key(server.nodes[tx.node])))
    return True


def read(leaf: bytes) -> Statement | None:
    """What a leaf states; None for one about keys."""
    try:
        return Statement.read(leaf)
    except NoLeaf:
        return None


async def stated(tx: Transaction, kind: str) -> list[Stated]:
    """All that the log states of a kind, in its order; what somebody has made unreadable is not stated."""
    found = [(each.place, read(each.leaf)) for each in await key_log.stated(tx, Kind(kind).value)]
    return [Stated(place, said) for place, said in found if said is not None]


# receipts of moves --------------------------------------------------------------------------


async def append_receipt(server: Server, tx: Transaction, receipt: bytes) -> bool:
    """Have the log state a receipt of a move; False when it does so already."""
    return await _append(tx, server, Kind.RECEIPT, None, move_receipts.digest(receipt))


async def append_receipts_of(tx: Transaction, server: Server, user_id: str) -> None:
    """Have the log state the receipts that a resident has; those that it does not state yet."""
    user_nid = await users.resident(tx, user_id)
    for receipt in [] if user_nid is None else await moves.receipts_of(tx, user_nid):
        await append_receipt(server, tx, receipt)


# what the directory knows -------------------------------------------------------------------


def wake(server: Server) -> None:
    """The directory has something new that all logs are to state; those of nodes that are down, when they are back."""
    for node in server.nodes:
        node.memory(KeyLog).stated = None
        server.wakeups.wake(waiting_key(node))


async def catch_up(server: Server, node: Node) -> None:
    """Have the log of a node state each version of the policy, and each jurisdiction that was left; nothing, once that
    has been done. A node that the policy in force does not have states no more: its last head has been told.

    Raises NodeUnavailable.
    """
    memory, serial = node.memory(KeyLog), server.policy.now.serial
    if memory.stated == serial or node.name not in server.policy.now.nodes:
        return
    memory.stated = serial
    try:
        await _state(server, node, Kind.POLICY, await _versions(server))
        await _state(server, node, Kind.WITHDRAWAL, await _withdrawals(server))
    except BaseException:
        memory.stated = None
        raise


async def _state(server: Server, node: Node, kind: Kind, found: list[tuple[int | None, str]]) -> None:
    said = {each.said.digest for each in await node.read(stated, kind)}
    for number, digest in found:
        if digest not in said:
            await node.write(_append, server, kind, number, digest)


async def _append(tx: Transaction, server: Server, kind: Kind, number: int | None, digest: str) -> bool:
    """``number``: None for one more than there are."""
    if number is None:
        number = await key_log.count_stated(tx, kind.value) + 1
    return await append(server, tx, kind, number, digest, server.clock.now_ms())


async def _versions(server: Server) -> list[tuple[int | None, str]]:
    """Serials, and the digests of the records."""
    found: list[tuple[int | None, str]] = []
    after = -1
    while links := await server.nodes.directory.engine.read(policy_versions.page, after, AT_ONCE):
        found += [(link.serial, policy_chain.digest(link.record)) for link in links]
        after = links[-1].serial
    return found


async def _withdrawals(server: Server) -> list[tuple[int | None, str]]:
    """The digests of the receipts of jurisdictions that were left."""
    known = await server.nodes.directory.engine.read(withdrawals.every)
    return [(None, move_receipts.digest(each.receipt)) for each in known if each.receipt is not None]
