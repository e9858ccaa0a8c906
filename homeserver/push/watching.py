"""Finds out who is to be told of what: looks at each event once it is committed, for those who have pushers.

A user without pushers costs nothing here. What may have been missed, at the start above all, is looked for in the
timelines, from the place up to which each pusher has been told.

spec: client-server-api/#push-notifications
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

import structlog

from homeserver.protocol.errors import NodeUnavailable
from homeserver.push import judging
from homeserver.push.badges import Badge
from homeserver.push.lines import Follower, Followers
from homeserver.push.sending import Sending
from homeserver.rooms.onlookers import Onlookers
from homeserver.runtime.parts import in_parts
from homeserver.runtime.pauses import NODE_RETRY
from homeserver.storage import pushers as stored

if TYPE_CHECKING:
    from collections.abc import Iterable

    from homeserver.context import Server
    from homeserver.push.lines import Line
    from homeserver.push.notification import Due
    from homeserver.rooms.onlookers import Arrival
    from homeserver.storage.nodes import Node
    from homeserver.storage.pushers import StoredPusher

log = structlog.get_logger("push")

PAGE: Final = 500

FAULT_RETRY: Final = 30.0
"""Seconds after a fault of ours until everything is looked at anew."""

STRETCH: Final = 50
"""Residents for whom an event is judged before others get to run."""


async def push(server: Server, node: Node) -> None:
    """Tell the residents of a node who have pushers, until cancelled."""
    await _Watch(server, node).run()


class _Watch:
    """Watches one node."""

    def __init__(self, server: Server, node: Node) -> None:
        self.server = server
        self.node = node
        self.onlookers = node.memory(Onlookers)
        self.followers = node.memory(Followers)
        self.sending = Sending(server, node)
        self.behind: deque[Follower] = deque()
        self.seen_to = 0
        _show(server)

    async def run(self) -> None:
        """Until cancelled."""
        onlookers = self.onlookers
        onlookers.clear()
        try:
            while True:
                await onlookers.some.wait()
                onlookers.some.clear()
                try:
                    await self.look()
                except NodeUnavailable:
                    onlookers.clear()
                    await self.server.clock.sleep(NODE_RETRY)
                except Exception:
                    log.exception("push failed", node=self.node.name)
                    onlookers.clear()
                    await self.server.clock.sleep(FAULT_RETRY)
                if not onlookers.some.is_set():
                    onlookers.idle.set()
        finally:
            self.onlookers.wanted = False
            await self.stop()

    async def stop(self) -> None:
        """End everything; nothing is lost by it."""
        idle = [line for line in self.followers.lines() if line.owner.caught_up and not line.queue]
        await self.sending.stop(self.followers.lines())
        await self.sending.skip(idle, self.seen_to)
        self.followers.clear()
        self.onlookers.arrived.clear()

    # who is to be told of what

    async def look(self) -> None:
        """Look at everything that has come."""
        onlookers = self.onlookers
        while True:
            if onlookers.doubted:
                onlookers.doubted = False
                await self.load()
            elif onlookers.changed:
                await self.renew([onlookers.changed.pop()])
            elif onlookers.arrived:
                arrival = onlookers.arrived.popleft()
                await self.consider(arrival)
                self.seen_to = max(self.seen_to, arrival.event.pos)
                await asyncio.sleep(0)
            elif onlookers.read:
                await self.have_read(*onlookers.read.pop())
            elif self.behind:
                await self.catch_up(self.behind.popleft())
            else:
                return

    async def load(self) -> None:
        """Find all who have pushers; what any of them may have missed is looked for."""
        await self.node.start()
        self.seen_to = self.node.position
        for follower in self.followers.by_nid.values():
            follower.caught_up = False
            follower.badge.clear()
        self.behind.clear()
        left, last = set(self.followers.by_nid), 0
        while owners := await self.node.read(stored.owners, last, PAGE):
            await self.renew(owners)
            left.difference_update(owners)
            last = owners[-1]
        await self.renew(sorted(left))

    async def renew(self, user_nids: list[int]) -> None:
        """Read the pushers of residents again."""
        self.onlookers.wanted = True  # first: what comes after the rows were read is not missed
        by_user: dict[int, list[StoredPusher]] = {user_nid: [] for user_nid in user_nids}
        for part in in_parts(user_nids, PAGE):
            for row in await self.node.read(stored.of_users, part):
                by_user[row.user_nid].append(row)
        for user_nid, rows in by_user.items():
            self.take(user_nid, rows)
        self.onlookers.wanted = bool(self.followers.by_nid)

    def take(self, user_nid: int, rows: list[StoredPusher]) -> None:
        """These are the pushers of a resident now."""
        follower = self.followers.by_nid.get(user_nid)
        if follower is None:
            if not rows:
                return
            follower = Follower(user_nid, rows[0].user_id, Badge(self.node, user_nid, rows[0].user_id))
            self.followers.add(follower)
        fresh, gone = follower.take(rows)
        for line in gone:
            self.sending.forget(line)
        for line in fresh:
            self.sending.resume(line)
        if not follower.lines:
            self.followers.remove(follower)
        else:
            follower.caught_up = False
            self.behind.append(follower)

    async def catch_up(self, follower: Follower) -> None:
        """Queue what came while nobody looked for a resident."""
        upto = self.node.position
        after = min((line.queued_to for line in follower.lines.values()), default=upto)
        not_before = self.server.clock.now_ms() - self.server.settings.push.give_up_after.ms
        try:
            self.queue(follower, await judging.missed(self.node, follower, after, upto, not_before))
        except NodeUnavailable:
            raise
        except Exception:
            log.exception("events could not be judged", node=self.node.name)
        for line in follower.lines.values():
            line.queued_to = max(line.queued_to, upto)
        follower.caught_up = True

    async def consider(self, arrival: Arrival) -> None:
        """Tell whom an event concerns."""
        room, event = arrival.room, arrival.event
        try:
            for member in arrival.members:
                follower = None if member.resident is None else self.followers.by_nid.get(member.resident)
                if follower is not None:
                    await self.move(follower, arrival, member.membership)
            if room is None:
                return
            concerned = self.followers.by_id.keys() & room.residents.keys()
            for at, user_id in enumerate(concerned):
                follower = self.followers.by_id.get(user_id)
                if follower is not None and follower.caught_up:
                    await self.tell(follower, arrival)
                if at % STRETCH == STRETCH - 1:
                    await asyncio.sleep(0)
        except NodeUnavailable:
            raise
        except Exception:
            log.exception("an event could not be judged", node=self.node.name, event_id=event.event_id)

    async def move(self, follower: Follower, arrival: Arrival, membership: str) -> None:
        """The membership of a resident has changed."""
        event = arrival.event
        for line in follower.lines.values():
            line.drop(arrival.room_id, event.pos)
        if membership == "invite" and follower.caught_up:
            due = await judging.invitation(self.node, follower, arrival.room_id, event.pos, event)
            self.queue(follower, [] if due is None else [due])
        elif membership != "join" and arrival.room is not None:
            follower.badge.leave(arrival.room.nid)
            self.sending.tell_counts(follower)

    async def tell(self, follower: Follower, arrival: Arrival) -> None:
        """An event has come in a room of a resident."""
        room, event = arrival.room, arrival.event
        assert room is not None
        if event.sender == follower.user_id:  # they have read what came before
            for line in follower.lines.values():
                line.drop(room.room_id, event.pos)
            if room.nid in follower.badge.by_room:
                await follower.badge.read(room.nid)
                self.sending.tell_counts(follower)
            return
        found = await judging.of_room(self.node, room, follower, [event])
        if found:
            await follower.badge.renew(room)
            self.queue(follower, found)

    def queue(self, follower: Follower, found: Iterable[Due]) -> None:
        """Have the pushers of a resident told."""
        for due in found:
            for line in follower.lines.values():
                if due.pos > line.queued_to:
                    self.sending.add(line, due)

    async def have_read(self, user_nid: int, room_nid: int) -> None:
        """A resident has read on in a room."""
        follower = self.followers.by_nid.get(user_nid)
        if follower is not None and (not follower.badge.complete or room_nid in follower.badge.by_room):
            await follower.badge.read(room_nid)
            self.sending.tell_counts(follower)


def _show(server: Server) -> None:
    """Have `/metrics` show how many pushers there are, and what waits for them."""

    def lines() -> list[Line]:
        return [line for node in server.nodes for line in node.memory(Followers).lines()]

    gauge = server.telemetry.gauge
    gauge("domicile_pushers", "Pushers of users.", lambda: len(lines()))
    waiting = "Notifications that wait to be sent."
    gauge("domicile_push_waiting", waiting, lambda: sum(len(line.queue) for line in lines()))
    failing = "Pushers whose gateway did not take the last notification."
    gauge("domicile_push_failing", failing, lambda: sum(line.failures > 0 for line in lines()))
