"""Bringing leaves into the tree of a node's key log, in their order, and signing how far it is.

The leaves have their places already: they were given them by the transactions that changed keys. So this may be cut off
anywhere, and done again: the tiles and the checkpoint of them are written in one transaction, and shown after it.
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Final

import structlog

from homeserver.protocol import merkle, tiles
from homeserver.protocol.checkpoints import Head
from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.key_log import Kind, Reason
from homeserver.protocol.merkle import HASH_BYTES, Frontier, leaf_hash
from homeserver.storage import key_log
from homeserver.storage.key_log import Progress, TileName
from homeserver.transparency import changes, heads, statements
from homeserver.transparency.heads import KeyLog

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("transparency")

BATCH: Final = 2048
"""Leaves that come into the tree in one transaction."""
FOUND_AT_ONCE: Final = 20
PAUSE: Final = 0.2
"""Seconds between two checkpoints, in which leaves gather: the price of one is the same for any number of them."""
RETRY_AFTER: Final = 5.0


class Damaged(Exception):
    """What is stored of a log does not fit together. It is a fault of the database, or of who wrote in it by hand."""


async def follow(server: Server, node: Node) -> None:
    """Bring what is appended into the tree; for ever."""
    while True:
        with server.wakeups.listen([changes.waiting_key(node)]) as listener:
            try:
                await find_all(server, node)
                await statements.catch_up(server, node)
                while await hash_waiting(server, node):
                    await server.clock.sleep(PAUSE)
            except NodeUnavailable:
                await server.clock.sleep(RETRY_AFTER)
                continue
            except Exception:
                log.exception("key log stands still", node=node.name)
                await server.clock.sleep(RETRY_AFTER)
                continue
            await listener.wait()


async def catch_up(server: Server, node: Node) -> None:
    """Bring all that there is into the log, and into its tree. Raises Damaged, NodeUnavailable."""
    await find_all(server, node)
    await statements.catch_up(server, node)
    while await hash_waiting(server, node):
        pass


async def hash_waiting(server: Server, node: Node) -> bool:
    """Bring leaves into the tree, sign how far it is, and show that; False when none were waiting, or nothing may be
    shown. Raises Damaged, NodeUnavailable."""
    memory = node.memory(KeyLog)
    async with memory.turn:
        await heads.current(server, node)
        if memory.fault is not None:
            return False
        origin = heads.origin_of(server, node.name, await heads.generation(server, node))
        try:
            note = await node.write(_hash_some, server, node, origin)
        except Damaged as damage:
            memory.damage = str(damage)
            raise
        memory.damage = None
        if note is None:
            return False
        await heads.show(server, node, note)
        return True


async def _hash_some(tx: Transaction, server: Server, node: Node, origin: str) -> bytes | None:
    """Returns the checkpoint that was signed."""
    held = await key_log.progress(tx)
    if held.hashed == held.size and held.checkpoint is not None:
        return None
    end = min(held.size, held.hashed + BATCH)
    leaves = await key_log.leaves(tx, held.hashed, end)
    if len(leaves) != end - held.hashed:
        raise Damaged(f"leaves of the key log of {node.name} are missing between {held.hashed} and {end}")
    edge = await key_log.tiles(tx, edge_of(held.hashed))
    tree, changed = grown(_frontier(node, held, edge), edge, leaves)
    key_log.put_tiles(tx, changed)
    note = heads.signed(server, origin, node, Head(tree.size, tree.root()), _register(held, leaves)).write()
    key_log.advance(tx, tree.size, note)
    return note


def _register(held: Progress, leaves: list[bytes]) -> str:
    """How many disclosures the log states with these leaves, and the head of their chain."""
    for leaf in reversed(leaves):
        said = statements.read(leaf)
        if said is not None and said.kind is Kind.REGISTER:
            return f"{said.number} {b64encode(bytes.fromhex(said.digest)).decode()}"
    before = None if held.checkpoint is None else heads.read(held.checkpoint).extension(heads.REGISTER_LINE)
    return before or heads.NO_REGISTER


def edge_of(size: int) -> list[TileName]:
    """The tiles that a log of so many leaves goes on in."""
    found = []
    level, entries = 0, size
    while entries:
        found.append(TileName(level, entries >> tiles.HEIGHT))
        level, entries = level + 1, entries >> tiles.HEIGHT
    return found


def _frontier(node: Node, held: Progress, edge: dict[TileName, bytes]) -> Frontier:
    """The tree as it was signed last. Raises Damaged when the tiles say otherwise."""
    roots = []
    for part in merkle.frontier_parts(held.hashed):
        at = tiles.holding(part)
        try:
            roots.append(tiles.root_within(edge[TileName(at.level, at.place)], at))
        except (KeyError, ValueError):
            raise Damaged(f"tiles of the key log of {node.name} are missing") from None
    tree = Frontier(held.hashed, tuple(roots))
    if held.checkpoint is not None and heads.read(held.checkpoint).head != (tree.size, tree.root()):
        raise Damaged(f"the tiles of the key log of {node.name} are not those that were signed")
    return tree


def grown(tree: Frontier, edge: dict[TileName, bytes], leaves: list[bytes]) -> tuple[Frontier, dict[TileName, bytes]]:
    """A tree with further leaves, and the tiles that they change."""
    changed: dict[TileName, bytearray] = {}
    for leaf in leaves:
        tree, whole = tree.append(leaf_hash(leaf))
        for (level, place), hashed in whole:
            if level % tiles.HEIGHT == 0:
                name = TileName(level // tiles.HEIGHT, place >> tiles.HEIGHT)
                offset = (place & tiles.WIDTH - 1) * HASH_BYTES
                if name not in changed:
                    changed[name] = bytearray(edge.get(name, b"")[:offset])
                changed[name] += hashed
    return tree, {name: bytes(hashes) for name, hashes in changed.items()}


# those who had keys before there was a log --------------------------------------------------


async def find_all(server: Server, node: Node) -> None:
    """Bring those into the log who had keys or had moved before there was one; nothing, once that has been done."""
    await heads.current(server, node)  # what is left of a log that has ended goes first
    while await node.write(_find_some, server, node):
        pass


async def _find_some(tx: Transaction, server: Server, node: Node) -> bool:
    held = await key_log.progress(tx)
    if held.found == key_log.ALL_FOUND:
        return False
    unseen = await key_log.unseen(tx, held.found, FOUND_AT_ONCE)
    for _, user_id in unseen:
        await changes.append(tx, server, node, user_id, Reason.FOUND)
        await statements.append_receipts_of(tx, server, user_id)
    key_log.note_found(tx, unseen[-1][0] if len(unseen) == FOUND_AT_ONCE else key_log.ALL_FOUND)
    return len(unseen) == FOUND_AT_ONCE
