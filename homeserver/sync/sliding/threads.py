"""Which threads the user follows, and no more: what changed of that. Not specified yet (MSC4308).

What is more than fits in an answer is read at ``thread_subscriptions`` of MSC4308, back from ``prev_batch``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.rooms import thread_subscriptions
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from homeserver.sync.sliding.telling import Telling

THREADS: Final = "io.element.msc4308.thread_subscriptions"


async def tell(telling: Telling, limit: int) -> dict[str, Any]:
    """The newest changes, at most so many; empty when there are none."""
    caller, since = telling.caller, telling.since
    if since is not None and not caller.node.changes.changed(Stream.THREADS, caller.user_nid, since):
        return {}
    found = await thread_subscriptions.changes(caller, since or 0, telling.upto + 1, limit + 1)
    if not found:
        return {}
    if len(found) <= limit:
        return thread_subscriptions.shown(found)
    told = found[:limit]
    return {**thread_subscriptions.shown(told), "prev_batch": str(told[-1].held.pos)}
