"""Following threads (MSC4306): by hand, or automatically, when a client finds its user mentioned in one.

What is said by hand outranks what is automatic, and who stopped following is not made to follow again by an event from
before that. It rests with who said it, and nobody else is told.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from homeserver.accounts import push_rules
from homeserver.protocol.errors import ConflictingUnsubscription, NotFound, NotInThread, TooLarge
from homeserver.protocol.push_rules import Ruleset
from homeserver.protocol.relations import THREAD, relation_in
from homeserver.rooms import history, readable
from homeserver.runtime.lru import Lru
from homeserver.storage import streams
from homeserver.storage import thread_subscriptions as stored
from homeserver.storage.nodes import Mirror
from homeserver.storage.streams import Stream
from homeserver.storage.thread_subscriptions import Change, Subscription

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

NEWEST = 2**62
"""Behind every position."""


async def find(server: Server, caller: Caller, room_id: str, root_id: str) -> bool:
    """Whether the caller follows a thread automatically only. Raises NotFound when they do not follow it, Forbidden."""
    room, _ = await readable.reader(server, caller, room_id)
    held = await caller.node.read(stored.find, caller.user_nid, room.nid, root_id)
    if held is None or not held.subscribed:
        raise NotFound("You do not follow this thread")
    return held.automatic


async def subscribe(server: Server, caller: Caller, room_id: str, root_id: str, cause: str | None) -> None:
    """Follow a thread: by hand, or because of the event ``cause``, which must be in it.

    Raises NotFound without such events that the caller may see, NotInThread, ConflictingUnsubscription when they have
    stopped following it since that event, Forbidden.
    """
    room, seen = await readable.reader(server, caller, room_id)
    await history.find(caller.node, room, seen, root_id)
    cause_pos = None
    if cause is not None:
        event = await history.find(caller.node, room, seen, cause)
        if relation_in(event.client) != (THREAD, root_id):
            raise NotInThread("That event is not in the thread")
        cause_pos = event.pos
    await caller.node.advance(_subscribe, server, caller, room.nid, root_id, cause_pos)


async def _subscribe(
    tx: Transaction, server: Server, caller: Caller, room_nid: int, root_id: str, cause_pos: int | None
) -> None:
    held = await stored.find(tx, caller.user_nid, room_nid, root_id)
    if held is not None:
        if cause_pos is not None and not held.subscribed and held.pos > cause_pos:
            raise ConflictingUnsubscription("You have stopped following the thread since that event")
        if held.subscribed and (cause_pos is not None or not held.automatic):
            return
    await _say(tx, server, caller, room_nid, root_id, subscribed=True, automatic=cause_pos is not None)
    with suppress(TooLarge):  # they have a client that knows of threads, and may have no room for more rules
        await push_rules.change_within(tx, server, caller, Ruleset.with_threads)


async def unsubscribe(server: Server, caller: Caller, room_id: str, root_id: str) -> None:
    """Stop following a thread. Raises NotFound without such an event that the caller may see, Forbidden."""
    room, seen = await readable.reader(server, caller, room_id)
    await history.find(caller.node, room, seen, root_id)
    # Said again, it holds anew: against whatever has called them to the thread since they said it first.
    await caller.node.advance(_say, server, caller, room.nid, root_id, subscribed=False, automatic=False)


async def _say(
    tx: Transaction, server: Server, caller: Caller, room_nid: int, root_id: str, *, subscribed: bool, automatic: bool
) -> None:
    pos = await streams.allocate(tx)
    stored.put(tx, caller.user_nid, room_nid, root_id, Subscription(pos, subscribed, automatic))
    node, user_nid = caller.node, caller.user_nid

    def announce() -> None:
        node.memory(Followed).forget(user_nid, room_nid)
        node.announce(pos, [(Stream.THREADS, [user_nid])])
        server.wake_residents(node, [user_nid])

    tx.after_commit(announce)


class Followed(Mirror):
    """Which threads of rooms residents follow, in memory (``node.memory(Followed)``), for those whose push rules ask.
    ``generation`` counts the changes."""

    def __init__(self) -> None:
        self.roots: Lru[tuple[int, int], frozenset[str]] = Lru(20_000)
        self.generation = 0

    def forget(self, user_nid: int, room_nid: int) -> None:
        """A resident follows another set of threads."""
        self.generation += 1
        self.roots.pop((user_nid, room_nid))

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.generation += 1
        self.roots.clear()


async def followed(node: Node, user_nid: int, room_nid: int) -> frozenset[str]:
    """The roots of the threads of a room that a resident follows. Usually no trip."""
    memory = node.memory(Followed)
    known = memory.roots.get((user_nid, room_nid))
    if known is not None:
        return known
    generation = memory.generation
    found = frozenset(await node.read(stored.followed, user_nid, room_nid))
    if generation == memory.generation:
        memory.roots[user_nid, room_nid] = found
    return found


def shown(found: Sequence[Change]) -> dict[str, Any]:
    """Changes as clients read them: by room and root of the thread, those that are followed and those no more."""
    subscribed: dict[str, Any] = {}
    unsubscribed: dict[str, Any] = {}
    for room_id, root_id, held in found:
        said: dict[str, Any] = {"bump_stamp": held.pos}
        if held.subscribed:
            said["automatic"] = held.automatic
        (subscribed if held.subscribed else unsubscribed).setdefault(room_id, {})[root_id] = said
    return {"subscribed": subscribed, "unsubscribed": unsubscribed}


async def changes(caller: Caller, after: int, before: int, limit: int) -> Sequence[Change]:
    """What the caller said last of each thread, between two positions, the newest first."""
    return await caller.node.read(stored.changes, caller.user_nid, after, before, limit)
