"""Each user's push rules: changing them, and having them ready, compiled, for the events of their rooms.

Evaluators are kept in memory by resident, and shared between all who have the same rules. What a transaction changes
is replaced in memory after its commit, and what was read before that is not remembered after it.

spec: client-server-api/#push-rules
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from typing import TYPE_CHECKING, Final

import orjson

from homeserver.protocol.push_evaluation import PREDEFINED_EVALUATOR, Evaluator
from homeserver.protocol.push_rules import Ruleset, decode, encode
from homeserver.runtime.lru import Lru
from homeserver.storage import push_rules as stored
from homeserver.storage import streams
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

RESIDENTS_REMEMBERED = 100_000
RULESETS_REMEMBERED = 2_000
ANYBODY: Final = "<user>"
"""Stands for a user id in what is the same for all but for that."""


class Compiled:
    """The evaluators of a node's residents in memory. ``generation`` counts the changes."""

    def __init__(self) -> None:
        self._of_resident: Lru[int, Evaluator] = Lru(RESIDENTS_REMEMBERED)
        self._by_bytes: Lru[bytes, Evaluator] = Lru(RULESETS_REMEMBERED)
        self.generation = 0

    def find(self, user_nid: int) -> Evaluator | None:
        """The evaluator of a resident, if it is in memory."""
        return self._of_resident.get(user_nid)

    def remember(self, user_nid: int, ruleset: bytes | None, generation: int) -> Evaluator:
        """The evaluator for a stored ruleset, kept unless something changed after ``generation``."""
        evaluator = PREDEFINED_EVALUATOR
        if ruleset is not None:
            found = self._by_bytes.get(ruleset)
            if found is None:
                found = self._by_bytes[ruleset] = Evaluator(decode(ruleset))
            evaluator = found
        if generation == self.generation:
            self._of_resident[user_nid] = evaluator
        return evaluator

    def forget(self, user_nid: int) -> None:
        """A resident's rules have changed."""
        self.generation += 1
        self._of_resident.pop(user_nid)


async def evaluators(tx: Transaction, node: Node, user_nids: Collection[int]) -> dict[int, Evaluator]:
    """The evaluators of residents; no trip when all are in memory, else one."""
    memory = node.memory(Compiled)
    generation = memory.generation
    ready: dict[int, Evaluator] = {}
    missing: list[int] = []
    for user_nid in user_nids:
        evaluator = memory.find(user_nid)
        if evaluator is None:
            missing.append(user_nid)
        else:
            ready[user_nid] = evaluator
    if missing:
        rulesets = await stored.of_users(tx, missing)
        for user_nid in missing:
            ready[user_nid] = memory.remember(user_nid, rulesets.get(user_nid), generation)
    return ready


async def of_caller(caller: Caller) -> Ruleset:
    """The caller's rules."""
    found = await caller.node.read(stored.find, caller.user_nid)
    return decode(None if found is None else found[0])


async def changed(caller: Caller, since: int | None, upto: int) -> bytes | None:
    """The caller's rules as the JSON content of ``m.push_rules``, if they changed with ``since < position <= upto``.

    With ``since`` None: in any case. spec: client-server-api/#push-rules
    """
    found = await caller.node.read(stored.find, caller.user_nid)
    if since is not None and (found is None or not since < found[1] <= upto):
        return None
    return as_content(None if found is None else found[0], caller.user_id)


def as_content(stored_rules: bytes | None, user_id: str) -> bytes:
    """Stored rules of a user (None: they have the predefined ones) as the JSON content of ``m.push_rules``."""
    if stored_rules is None:  # of most users
        return _predefined().replace(orjson.dumps(ANYBODY), orjson.dumps(user_id))
    return _as_json(stored_rules, user_id)


def _as_json(stored_rules: bytes | None, user_id: str) -> bytes:
    return orjson.dumps({"global": decode(stored_rules).as_json(user_id)})


@cache
def _predefined() -> bytes:
    return _as_json(None, ANYBODY)


async def change(server: Server, caller: Caller, edit: Callable[[Ruleset], Ruleset]) -> None:
    """Replace the caller's rules by what ``edit`` makes of them; raises what it raises, and TooLarge."""
    await caller.node.advance(change_within, server, caller, edit)


async def change_within(tx: Transaction, server: Server, caller: Caller, edit: Callable[[Ruleset], Ruleset]) -> None:
    """`change`, within a transaction of `Node.advance`."""
    found = await stored.find(tx, caller.user_nid)
    changed = encode(edit(decode(None if found is None else found[0])))
    if found is not None and found[0] == changed:
        return
    node, user_nid = caller.node, caller.user_nid
    pos = await streams.allocate(tx)
    await stored.put(tx, user_nid, changed, pos)

    def announce() -> None:
        node.memory(Compiled).forget(user_nid)
        node.announce(pos, [(Stream.ACCOUNT_DATA, [user_nid])])
        server.wake_residents(node, [user_nid])

    tx.after_commit(announce)
