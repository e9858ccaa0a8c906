"""Sends what waits for each pusher: a task for each that something waits for, one request at a time, in order.

The place up to which a pusher has been told moves only when its gateway has answered, so that nothing is lost whoever
is killed; a gateway that gets something twice tells it by the event id. A gateway that cannot be reached costs a timer.

spec: push-gateway-api/#homeserver-behaviour
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.event_view import MEMBER
from homeserver.push import digests, gateways, judging, notification
from homeserver.push.gateways import Result
from homeserver.push.lines import Followers
from homeserver.push.notification import Names
from homeserver.rooms import state
from homeserver.runtime import pauses
from homeserver.runtime.tasks import Tasks
from homeserver.storage import pushers as stored

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.context import Server
    from homeserver.protocol.event_view import StateKey
    from homeserver.push.lines import Follower, Key, Line
    from homeserver.push.notification import Due, Tally
    from homeserver.rooms.state import Room
    from homeserver.storage.nodes import Node
    from homeserver.storage.pushers import Progress

log = structlog.get_logger("push")

FIRST_PAUSE: Final = 2.0
"""Seconds after the first failure; doubles each time."""

SAVED_AFTER: Final = 0.5
"""Seconds that may pass before it is written how far a pusher has come."""

COUNTS_AFTER: Final = 1.0
"""Seconds after somebody has read something until their devices are told how much is left: they may read more."""

AT_ONCE: Final = 100
"""Requests of a node that are under way at a time."""

NAME: Final = ("m.room.name", "")
ALIAS: Final = ("m.room.canonical_alias", "")


class Sending:
    """Sends for the pushers of one node's residents."""

    def __init__(self, server: Server, node: Node) -> None:
        self.server = server
        self.node = node
        self.tasks = Tasks()
        self.saving: asyncio.Task[None] | None = None
        self.unsaved: dict[tuple[int, Key], Progress] = {}
        self.room = asyncio.Semaphore(AT_ONCE)
        counter = server.telemetry.counter
        self.outcomes = counter(
            "domicile_push_notifications", "Requests to push gateways and letters, by what came of them.", ["outcome"]
        )
        self.dropped = counter("domicile_push_dropped", "Notifications that were never sent, by why.", ["reason"])

    async def stop(self, lines: Collection[Line]) -> None:
        """End all tasks and timers; nothing is lost by it."""
        for line in lines:
            line.wait_no_more()
        await self.tasks.end()
        with suppress(NodeUnavailable):
            await self.write()

    async def skip(self, lines: Collection[Line], seen_to: int) -> None:
        """There is nothing up to a position for these, so that it need not be looked at once more."""
        behind = [line for line in lines if line.pushed_to < seen_to]
        for line in behind:
            line.pushed_to = seen_to
        with suppress(NodeUnavailable):
            await self.node.write(stored.keep_progress, [line.progress() for line in behind])

    # what waits

    def add(self, line: Line, due: Due) -> None:
        """Have a pusher told of something."""
        if not line.add(due):
            self.dropped.inc("too many")
        self.start(line)

    def tell_counts(self, follower: Follower) -> None:
        """Have the devices of a resident told how much is unread, unless something else tells them in a moment."""
        for line in follower.lines.values():
            if line.pusher.kind == "http" and not line.counts_due:
                line.counts_due = True
                if line.timer is None and line.task is None:
                    self.pause(line, COUNTS_AFTER)

    def start(self, line: Line) -> None:
        """Have what waits for a pusher sent, unless it is left alone for a while."""
        if line.task is not None or line.gone:
            return
        if line.pusher.kind == "email":
            if line.timer is None:
                self.pause(line, digests.delay(self.server, line))
        elif line.timer is None or not line.failures:  # else what is timed is no more than counts
            line.wait_no_more()
            self.begin(line)

    def resume(self, line: Line) -> None:
        """A pusher that has been read from the database, or was set again: a pause that it is in goes on."""
        line.wait_no_more()
        left = (line.retry_ts - self.server.clock.now_ms()) / 1000
        if line.failures and left > 0:
            self.pause(line, left)
        elif line.queue:
            self.start(line)

    def begin(self, line: Line) -> None:
        """Start the task of a pusher that has none."""
        line.task = self.tasks.start(self.work(line))

    def pause(self, line: Line, seconds: float) -> None:
        """Leave a pusher alone for so long."""

        def again() -> None:
            line.timer = None
            if line.task is None and not line.gone:
                self.begin(line)

        line.wait_no_more()
        line.timer = self.server.clock.call_later(seconds, again)

    def forget(self, line: Line) -> None:
        """A pusher has been removed."""
        line.gone = True
        line.queue.clear()
        line.wait_no_more()
        line.owner.lines.pop(line.key, None)
        if not line.owner.lines:
            self.node.memory(Followers).remove(line.owner)

    # sending it

    async def work(self, line: Line) -> None:
        """Send what waits for a pusher, until nothing does or its gateway does not take it."""
        try:
            while not self.server.wakeups.stopping and not line.gone:
                due = await self.next_due(line)
                if due is None and not line.counts_due:
                    break
                if not await self.deliver(line, due):
                    break
        except NodeUnavailable:
            self.pause(line, pauses.NODE_RETRY)
        except Exception:
            log.exception("a notification failed", node=self.node.name)
            self.fail(line)
        finally:
            line.task = None

    async def next_due(self, line: Line) -> Due | None:
        """What the pusher is to be told next; what its owner has read meanwhile is passed over."""
        while line.queue:
            due = line.queue[0]
            if not await judging.is_read(self.node, line.owner, due):
                return due
            self.dropped.inc("read")
            self.done(line, due)
        return None

    async def deliver(self, line: Line, due: Due | None) -> bool:
        """Tell a pusher of an event, or of counts alone; False when it is to be left alone for a while."""
        if await self.node.read(stored.find, line.owner.user_nid, *line.key) is None:
            self.forget(line)  # it went with its device
            return False
        tally = await line.owner.badge.tally()
        line.counts_due = False
        if due is None and tally == line.told:
            return True
        async with self.room:
            result = await self.give(line, due, tally)
        self.outcomes.inc(result.value)
        if result is Result.FAILED:
            line.counts_due = line.counts_due or due is None
            self.fail(line)
            return False
        if result is Result.REJECTED:
            await self.node.write(stored.reject, line.owner.user_nid, *line.key, line.pusher.set_ts)
            self.forget(line)
            return False
        line.told = tally if result is Result.SENT else line.told
        line.failures = line.failing_ts = line.retry_ts = 0
        if line.pusher.kind == "email":
            line.queue.clear()
            line.pushed_to = line.queued_to
            line.retry_ts = digests.next_at(self.server)
            self.note(line)
            return False
        if due is not None:
            self.done(line, due)
        return True

    async def give(self, line: Line, due: Due | None, tally: Tally) -> Result:
        """Make a request of a gateway, or write a letter."""
        server, node, pusher = self.server, self.node, line.pusher
        if pusher.kind == "email":
            return await digests.send(server, node, line, tally)
        if due is None:
            return await gateways.notify(server, node, pusher, notification.about_counts(tally, pusher))
        names = await self.names(due) if gateways.may_have_details(server, node, pusher) else None
        clear = server.settings.conformance_mode
        body = notification.about_event(due, tally, pusher, line.owner.user_id, names, clear)
        return await gateways.notify(server, node, pusher, body)

    async def names(self, due: Due) -> Names:
        """What the room and the sender of an event are called; of a room that one is not in nothing is known."""
        room = await state.find(self.node, due.room_id) if due.room_nid else None
        if room is None:
            return Names()
        member = (MEMBER, due.event.sender)
        await state.require(self.node, room, [NAME, ALIAS, member])
        return Names(_text(room, member, "displayname"), _text(room, NAME, "name"), _text(room, ALIAS, "alias"))

    # what came of it

    def done(self, line: Line, due: Due) -> None:
        """The pusher has been told of something, or need not be."""
        if line.queue and line.queue[0] is due:
            line.queue.popleft()
        line.pushed_to = max(line.pushed_to, due.pos)
        self.note(line)

    def fail(self, line: Line) -> None:
        """The gateway did not take it: it is tried again later, until that has gone on for too long."""
        now = self.server.clock.now_ms()
        line.failing_ts = line.failing_ts or now
        line.failures = min(line.failures + 1, pauses.MOST_FAILURES)
        if now - line.failing_ts >= self.server.settings.push.give_up_after.ms:
            self.dropped.inc("gateway away", by=len(line.queue))
            line.queue.clear()
            line.counts_due = False
            line.pushed_to = line.queued_to
            line.failures = line.failing_ts = line.retry_ts = 0
        else:
            longest = self.server.settings.push.longest_backoff.seconds
            seconds = pauses.spread(pauses.after(line.failures, FIRST_PAUSE, longest))
            line.retry_ts = now + round(seconds * 1000)
            self.pause(line, seconds)
        self.note(line)

    def note(self, line: Line) -> None:
        """Have it written soon how far a pusher has come, together with others."""
        self.unsaved[line.owner.user_nid, line.key] = line.progress()
        if self.saving is None:
            self.saving = self.tasks.start(self.save())

    async def save(self) -> None:
        """Write how far pushers have come, once more have had the time to."""
        try:
            await self.server.clock.sleep(SAVED_AFTER)
            while self.unsaved:
                try:
                    await self.write()
                except NodeUnavailable:
                    await self.server.clock.sleep(pauses.NODE_RETRY)
        finally:
            self.saving = None

    async def write(self) -> None:
        """Write how far pushers have come."""
        rows = list(self.unsaved.items())
        await self.node.write(stored.keep_progress, [progress for _, progress in rows])
        for key, progress in rows:
            if self.unsaved.get(key) is progress:
                del self.unsaved[key]


def _text(room: Room, key: StateKey, name: str) -> str | None:
    """A text in the content of an event of a room's state; None when there is none."""
    event = room.head.event(key)
    value = None if event is None else event.content.get(name)
    return value if isinstance(value, str) and value else None
