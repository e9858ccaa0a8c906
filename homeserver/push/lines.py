"""What waits for each pusher of a node's residents, in memory: a queue for each, bounded, and how far it has come.

Nothing of it has to be written down: what is behind the place up to which a pusher has been told (storage/pushers.py)
is found again in the timelines.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from homeserver.push.notification import pusher_of
from homeserver.storage.pushers import Progress

if TYPE_CHECKING:
    import asyncio

    from homeserver.push.badges import Badge
    from homeserver.push.notification import Due, Pusher, Tally
    from homeserver.runtime.clock import Timer
    from homeserver.storage.pushers import StoredPusher

MOST_DUE = 100
"""Notifications that wait for one pusher; beyond that the oldest are dropped."""

Key = tuple[str, str]
"""App and key of a pusher: of one user, they name it."""


@dataclass(eq=False, slots=True)
class Line:
    """What waits for one pusher.

    Up to ``pushed_to`` its owner has been told, or is not to be; up to ``queued_to`` what they are to be told is in
    ``queue``. ``failures``: attempts in a row that failed, the first at ``failing_ts``; ``retry_ts``: when it may be
    tried again. ``counts_due``: its device is to be told how much is unread; ``told``: what it was told of that.
    ``gone``: the pusher has been removed.
    """

    owner: Follower
    pusher: Pusher
    pushed_to: int
    queued_to: int
    failures: int = 0
    failing_ts: int = 0
    retry_ts: int = 0
    queue: deque[Due] = field(default_factory=deque)
    counts_due: bool = False
    told: Tally | None = None
    gone: bool = False
    task: asyncio.Task[None] | None = None
    timer: Timer | None = None

    @property
    def key(self) -> Key:
        """App and key of the pusher."""
        return self.pusher.app_id, self.pusher.pushkey

    def add(self, due: Due) -> bool:
        """One more thing to tell, at a higher position than all before; False when another was dropped for it."""
        self.queued_to = due.pos
        self.queue.append(due)
        if len(self.queue) <= MOST_DUE:
            return True
        self.queue.popleft()
        return False

    def drop(self, room_id: str, before: int) -> None:
        """Nothing of a room that happened before a position is to be told any more."""
        if self.queue:
            kept = [due for due in self.queue if due.room_id != room_id or due.pos >= before]
            self.queue.clear()
            self.queue.extend(kept)

    def progress(self) -> Progress:
        """How far it has come, as it is stored."""
        return Progress(self.pushed_to, self.failures, self.failing_ts, self.retry_ts, self.owner.user_nid, *self.key)

    def wait_no_more(self) -> None:
        """End the pause after a failure."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@dataclass(eq=False, slots=True)
class Follower:
    """A resident who has pushers. ``caught_up``: what arrives is all that there is to be told of."""

    user_nid: int
    user_id: str
    badge: Badge
    lines: dict[Key, Line] = field(default_factory=dict)
    caught_up: bool = False

    def take(self, rows: list[StoredPusher]) -> tuple[list[Line], list[Line]]:
        """Let the lines be those of the stored pushers; returns those that are new or set again, and those gone."""
        fresh: list[Line] = []
        for row in rows:
            line = self.lines.get((row.app_id, row.pushkey))
            if line is None:
                line = Line(self, pusher_of(row.definition, row.set_ts), row.pushed_to, row.pushed_to)
                line.failures, line.failing_ts, line.retry_ts = row.failures, row.failing_ts, row.retry_ts
                self.lines[row.app_id, row.pushkey] = line
                fresh.append(line)
            elif line.pusher.set_ts != row.set_ts:
                line.pusher = pusher_of(row.definition, row.set_ts)
                line.failures = line.failing_ts = line.retry_ts = 0
                fresh.append(line)
        stored = {(row.app_id, row.pushkey) for row in rows}
        gone = [self.lines.pop(key) for key in list(self.lines) if key not in stored]
        return fresh, gone


class Followers:
    """The residents of a node who have pushers (``node.memory(Followers)``)."""

    def __init__(self) -> None:
        self.by_id: dict[str, Follower] = {}
        self.by_nid: dict[int, Follower] = {}

    def add(self, follower: Follower) -> None:
        """One more."""
        self.by_id[follower.user_id] = self.by_nid[follower.user_nid] = follower

    def remove(self, follower: Follower) -> None:
        """They have no pushers any more."""
        self.by_id.pop(follower.user_id, None)
        self.by_nid.pop(follower.user_nid, None)

    def clear(self) -> None:
        """Forget all of them."""
        self.by_id.clear()
        self.by_nid.clear()

    def lines(self) -> list[Line]:
        """The lines of all of them."""
        return [line for follower in self.by_nid.values() for line in follower.lines.values()]
