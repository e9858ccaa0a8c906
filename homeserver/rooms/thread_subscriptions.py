"""Following threads (MSC4306): by hand, or automatically, when a client finds its user mentioned in one.

What is said by hand outranks what is automatic, and who stopped following is not made to follow again by an event from
before that. It rests with who said it, and nobody else is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol.errors import ConflictingUnsubscription, NotFound, NotInThread
from homeserver.protocol.relations import THREAD, relation_in
from homeserver.rooms import history
from homeserver.storage import streams
from homeserver.storage import thread_subscriptions as stored
from homeserver.storage.thread_subscriptions import Change, Subscription

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Transaction

NEWEST = 2**62
"""Behind every position."""


async def find(server: Server, caller: Caller, room_id: str, root_id: str) -> bool:
    """Whether the caller follows a thread automatically only. Raises NotFound when they do not follow it, Forbidden."""
    room, _ = await history.reader(server, caller, room_id)
    held = await caller.node.read(stored.find, caller.user_nid, room.nid, root_id)
    if held is None or not held.subscribed:
        raise NotFound("You do not follow this thread")
    return held.automatic


async def subscribe(server: Server, caller: Caller, room_id: str, root_id: str, cause: str | None) -> None:
    """Follow a thread: by hand, or because of the event ``cause``, which must be in it.

    Raises NotFound without such events that the caller may see, NotInThread, ConflictingUnsubscription when they have
    stopped following it since that event, Forbidden.
    """
    room, seen = await history.reader(server, caller, room_id)
    await history.find(caller.node, room, seen, root_id)
    cause_pos = None
    if cause is not None:
        event = await history.find(caller.node, room, seen, cause)
        if relation_in(event.client) != (THREAD, root_id):
            raise NotInThread("That event is not in the thread")
        cause_pos = event.pos
    await caller.node.advance(_subscribe, caller, room.nid, root_id, cause_pos)


async def _subscribe(tx: Transaction, caller: Caller, room_nid: int, root_id: str, cause_pos: int | None) -> None:
    held = await stored.find(tx, caller.user_nid, room_nid, root_id)
    if held is not None:
        if cause_pos is not None and not held.subscribed and held.pos > cause_pos:
            raise ConflictingUnsubscription("You have stopped following the thread since that event")
        if held.subscribed and (cause_pos is not None or not held.automatic):
            return
    await _say(tx, caller, room_nid, root_id, subscribed=True, automatic=cause_pos is not None)


async def unsubscribe(server: Server, caller: Caller, room_id: str, root_id: str) -> None:
    """Stop following a thread. Raises NotFound without such an event that the caller may see, Forbidden."""
    room, seen = await history.reader(server, caller, room_id)
    await history.find(caller.node, room, seen, root_id)
    await caller.node.advance(_unsubscribe, caller, room.nid, root_id)


async def _unsubscribe(tx: Transaction, caller: Caller, room_nid: int, root_id: str) -> None:
    held = await stored.find(tx, caller.user_nid, room_nid, root_id)
    if held is None or held.subscribed:
        await _say(tx, caller, room_nid, root_id, subscribed=False, automatic=False)


async def _say(
    tx: Transaction, caller: Caller, room_nid: int, root_id: str, *, subscribed: bool, automatic: bool
) -> None:
    pos = await streams.allocate(tx)
    stored.put(tx, caller.user_nid, room_nid, root_id, Subscription(pos, subscribed, automatic))
    tx.after_commit(lambda: caller.node.announce(pos, []))


async def changes(caller: Caller, after: int, before: int, limit: int) -> Sequence[Change]:
    """What the caller said last of each thread, between two positions, the newest first."""
    return await caller.node.read(stored.changes, caller.user_nid, after, before, limit)
