"""What proves the copies of keys that a node keeps: carried beside them from the log of their owner's node, so that
nobody who asks for keys waits for another jurisdiction.

A proof comes behind its keys, for a leaf has to be in the tree first. Until then, and whenever it does not fit the
copy, there is none: a copy is never shown with a proof of other keys.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from config.residency import DataClass
from homeserver.e2ee.shown_keys import Remembered
from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.key_log import Manifest
from homeserver.protocol.key_proofs import LARGEST
from homeserver.residency import gate
from homeserver.runtime.parts import in_parts
from homeserver.storage import device_keys as stored
from homeserver.storage import key_copies
from homeserver.transparency import heads, proving
from homeserver.transparency.agreement import manifest_of
from homeserver.transparency.heads import KeyLog

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from homeserver.context import Server
    from homeserver.e2ee.shown_keys import Shown
    from homeserver.storage.device_keys import Proof, UserKeys
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("e2ee.carried")

MOST_WANTED: Final = 10_000
"""Users whose proofs a node waits for; of more, when somebody asks for their keys again."""
RETRY_AFTER: Final = 5.0


class Wanted:
    """Whose proofs a node is to get (``node.memory(Wanted)``). ``unsigned``: those that it has, and of which it is to
    get others once a quorum of witnesses has signed: by node, and how far. ``turn`` is held while some are fetched."""

    def __init__(self) -> None:
        self.users: set[str] = set()
        self.unsigned: dict[str, dict[str, int]] = {}
        self.turn = asyncio.Lock()


def want(server: Server, node: Node, user_ids: Collection[str]) -> None:
    """Have the node get what proves its copies of these users' keys, beside everything else."""
    wanted = node.memory(Wanted).users
    new = [user_id for user_id in user_ids if user_id not in wanted][: MOST_WANTED - len(wanted)]
    if new:
        wanted.update(new)
        server.wakeups.wake(_key(node))


def _key(node: Node) -> tuple[str, str]:
    return ("key proofs", node.name)


def tell(server: Server, node: Node, found: Mapping[str, Shown], proofs: dict[str, Any]) -> list[str]:
    """Add to what is told of users, by origin, what came with the copies of the others; as many as fit. Returns the
    users of other servers of whose copies there is none."""
    told = {user_id for each in proofs.values() for user_id in each["users"]}
    others = [(user_id, keys) for user_id, keys in found.items() if user_id not in told]
    came = [(user_id, keys.proof) for user_id, keys in others if keys.proof is not None]
    for user_id, proof in came[: max(proving.MOST - len(told), 0)]:
        proofs.setdefault(proof.origin, {"users": {}})["users"][user_id] = orjson.Fragment(proof.said)
    bare = [(user_id, keys.remote) for user_id, keys in others if keys.copied and keys.proof is None]
    want(server, node, [user_id for user_id, remote in bare if not remote])
    return [user_id for user_id, remote in bare if remote]


async def follow(server: Server, node: Node) -> None:
    """Get what is wanted, as soon as it can be told; for ever."""
    while True:
        others = [other.name for other in server.nodes if other is not node]
        keys = [_key(node), *(key(name) for name in others for key in (heads.shown_key, heads.cosigned_key))]
        with server.wakeups.listen(keys) as listener:
            try:
                whole = await get(server, node)
            except NodeUnavailable:
                whole = False
            except Exception:
                log.exception("proofs of copies of keys were not fetched", node=node.name)
                whole = False
            if whole:
                await listener.wait()
            else:
                await server.clock.sleep(RETRY_AFTER)


async def get(server: Server, node: Node) -> bool:
    """Get what is wanted and can be told now. What waits for a leaf to be in the tree is wanted still, and so is what
    rests on a node that is down; False when there was one. Raises NodeUnavailable when it is the node itself."""
    async with node.memory(Wanted).turn:
        return await _get(server, node)


async def _get(server: Server, node: Node) -> bool:
    wanted = node.memory(Wanted).users
    wanted.update(_signed_by_now(server, node.memory(Wanted)))
    by_home: dict[str, list[str]] = {}
    for user_id, home in (await server.nodes.of_users(list(wanted))).items():
        by_home.setdefault(home, []).append(user_id)
    wanted.intersection_update(user_id for each in by_home.values() for user_id in each)
    wanted.difference_update(by_home.pop(node.name, ()))
    whole = True
    for home, user_ids in by_home.items():
        for part in in_parts(user_ids, proving.MOST):
            wanted.difference_update(part)  # who is wanted again from here on is so because of newer keys
            waiting = set(part)
            try:
                waiting = await _get_from(server, server.nodes[home], node, part)
            finally:
                wanted.update(waiting)
            whole = whole and server.nodes[home].engine.health().up
    return whole


def _signed_by_now(server: Server, memory: Wanted) -> list[str]:
    """Of whom there is a proof by now that a quorum of witnesses has signed."""
    found = []
    for home in [each for each in server.nodes if each.name in memory.unsigned]:
        cosigned = home.memory(KeyLog).cosigned
        if cosigned is not None:
            waiting = memory.unsigned[home.name]
            ready = [user_id for user_id, size in waiting.items() if size <= cosigned.head.size]
            for user_id in ready:
                del waiting[user_id]
            found += ready
    return found


async def _get_from(server: Server, home: Node, node: Node, user_ids: list[str]) -> set[str]:
    """Returns of whom nothing can be told yet."""
    if not gate.may(server, DataClass.KEYS, home.jurisdiction, node.jurisdiction):
        return set()
    try:
        proofs, waiting, unsigned = await proving.for_copies(server, home, user_ids)
    except NodeUnavailable:
        return set(user_ids)
    except LookupError:
        log.exception("tiles of the key log are missing", node=home.name)
        return set()
    if proofs:
        await node.write(_put, node, proofs)
    held = node.memory(Wanted).unsigned.setdefault(home.name, {})
    held.update(list(unsigned.items())[: max(MOST_WANTED - len(held), 0)])
    return waiting


async def _put(tx: Transaction, node: Node, proofs: Mapping[str, Proof]) -> None:
    """Keep proofs with the copies that they fit. One that does not is of newer keys, with which the next one comes."""
    held = await stored.of_users(tx, list(proofs))
    for user_id, proof in proofs.items():
        if user_id in held and held[user_id].copied and fits(held[user_id], proof):
            key_copies.put_proof(tx, held[user_id].user_nid, proof)
    tx.after_commit(node.memory(Remembered).forget_copies)


def fits(keys: UserKeys, proof: Proof) -> bool:
    """Whether a proof, of a size that is kept, speaks of these keys. Whether it holds, those see who are shown it."""
    if len(proof.said) > LARGEST:
        return False
    said = orjson.loads(proof.said)
    return Manifest.read(said["keys"].encode()).covers(manifest_of(keys), said.get("withheld", ()))
