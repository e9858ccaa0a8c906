"""Sends other servers what waits for them: a task for each server that something waits for, a transaction at a time.

Invariants: a server's cursor moves only when it has answered with 200, so what was committed is sent at least once,
whoever is killed; what is for a server is sent in the order of this node's positions. A server that cannot be reached
costs a timer. Each item is asked of the policy once more before it leaves.

spec: server-server-api/#transactions
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import structlog

from config.residency import DataClass
from federation import reach, remote
from federation.batches import next_batch
from federation.transactions import class_of, transaction
from homeserver.e2ee import introductions
from homeserver.protocol.errors import NodeUnavailable
from homeserver.residency import authors
from homeserver.rooms.outgoing import Line, Lines, OutgoingPdu
from homeserver.runtime import pauses
from homeserver.runtime.exchange import Unreachable
from homeserver.runtime.tasks import Tasks
from homeserver.storage import peers
from homeserver.storage.peers import PeerRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from federation.batches import Batch
    from homeserver.context import Server
    from homeserver.rooms.outgoing import Fleeting, Item
    from homeserver.storage.nodes import Node

log = structlog.get_logger("federation.sender")

FIRST_PAUSE: Final = 1.0
"""Seconds after the first failure; doubles each time."""

ISOLATION_PAUSE: Final = 10.0
"""Seconds until it is asked again whether an isolation lies between a node and a server."""

SAVED_AFTER: Final = 0.5
"""Seconds that may pass before a cursor is written: a server that gets something twice tells it by its id."""

MOST_ANSWER: Final = 1024 * 1024

STARTED_AT_ONCE: Final = 20
"""Tasks that are started before others get to run."""

AT_ONCE: Final = 200
"""Transactions of a node that are under way at a time, and not tried before."""

TRIED_AT_ONCE: Final = 50
"""Those to servers that could not be reached before: they hold up nobody else."""

SPREAD: Final = 30.0
"""Seconds over which the servers that were away before a start are tried after it."""

_FAULTY: Final = frozenset((400, 413))
"""Statuses that say that the transaction itself is at fault: repeated, it would be refused again."""


async def send(server: Server, node: Node) -> None:
    """Send what waits on a node for other servers, until cancelled."""
    await _Sender(server, node).run()


class _Sender:
    """Sends from one node."""

    def __init__(self, server: Server, node: Node) -> None:
        self.server = server
        self.node = node
        self.lines = node.memory(Lines)
        self.tasks = Tasks()
        self.saving: asyncio.Task[None] | None = None
        self.due: deque[Line] = deque()
        self.starting: asyncio.Task[None] | None = None
        self.room, self.room_to_try = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(TRIED_AT_ONCE)
        counter = server.telemetry.counter
        self.outcomes = counter(
            "domicile_federation_transactions", "Transactions to other servers, by what came of them.", ["outcome"]
        )
        self.sent = counter("domicile_federation_sent", "Events and EDUs that other servers have taken.", ["kind"])
        self.withheld = counter(
            "domicile_federation_withheld", "What the residency policy let not out to another server.", ["class"]
        )
        self.refused = counter(
            "domicile_federation_not_taken", "Events and EDUs of ours that other servers have refused.", ["kind"]
        )
        _show(server)

    async def run(self) -> None:
        """Until cancelled."""
        self.lines.start = self.start
        self.lines.doubted.set()
        try:
            while True:
                await self.lines.doubted.wait()
                self.lines.doubted.clear()
                try:
                    await self.scan()
                except NodeUnavailable:
                    self.lines.doubted.set()
                    await self.server.clock.sleep(pauses.NODE_RETRY)
        finally:
            self.lines.start = None
            await self.stop()

    async def scan(self) -> None:
        """Find the servers for which something waits."""
        await self.node.start()
        rows = await self.node.read(peers.unsent)
        now = self.server.clock.now_ms()
        for row in rows:
            if row.server in self.lines.held:
                continue
            line = self.lines.held[row.server] = Line(row.server, None, self.node.position)
            line.failures = row.failures
            if row.failures:
                wait = max(row.retry_ts - now, 0) / 1000 + random.uniform(0, SPREAD)  # noqa: S311 - not all at once, nothing more
                self.pause(line, wait)
                reach.remember(self.server, row.server, row.failures, wait)
        self.lines.scanned = True
        for line in list(self.lines.held.values()):
            self.start(line)

    async def stop(self) -> None:
        """End all tasks and timers; nothing is lost by it."""
        for line in self.lines.held.values():
            if line.timer is not None:
                line.timer.cancel()
                line.timer = None
        await self.tasks.end()
        self.lines.held.clear()
        self.lines.scanned = False
        with suppress(NodeUnavailable):
            await self.write()

    # one server

    def start(self, line: Line) -> None:
        """See `Lines.start`."""
        if line.task is None and line.timer is None and not line.due:
            line.due = True
            self.due.append(line)
            if self.starting is None:
                self.starting = self.tasks.start(self.start_due())

    async def start_due(self) -> None:
        """Start the tasks of the lines that have something to do, a few at a time: others want to run between them."""
        try:
            while self.due:
                for line in [self.due.popleft() for _ in range(min(len(self.due), STARTED_AT_ONCE))]:
                    line.due = False
                    line.task = self.tasks.start(self.work(line))
                await asyncio.sleep(0)
        finally:
            self.starting = None

    def pause(self, line: Line, seconds: float) -> None:
        """Leave a server alone for so long."""

        def again() -> None:
            line.timer = None
            self.start(line)

        line.timer = self.server.clock.call_later(seconds, again)

    async def work(self, line: Line) -> None:
        """Send a server what waits for it, until nothing does or it cannot be reached."""
        try:
            while not self.server.wakeups.stopping:
                if self.is_shut(line.server):
                    self.hold(line)
                    break
                batch = await next_batch(self.node, line)
                if batch is None or not await self.deliver(line, batch):
                    break
        except NodeUnavailable:
            self.pause(line, pauses.NODE_RETRY)
        except Exception:
            log.exception("sending failed", node=self.node.name, server=line.server)
            self.fail(line, None)
        finally:
            line.task = None
            if line.timer is None and self.lines.held.get(line.server) is line:
                del self.lines.held[line.server]  # nothing waits; from here on nothing else has run since that was seen

    async def deliver(self, line: Line, batch: Batch) -> bool:
        """Send a batch; False when the server is to be left alone for a while."""
        if self.is_shut(line.server):
            return True  # it stays where it is; see `work`
        policy = self.server.policy.now
        items, fleeting = await self.allowed(line.server, batch)
        if not items and not fleeting:
            self.done(line, batch)
            return True
        now = line.since if line.failures and line.since else self.server.clock.now_ms()
        seed = f"{self.node.name} {line.server} {batch.upto} {now if fleeting else ''}"
        made = transaction(self.server.name, now, seed, items, fleeting)
        line.tried, line.since = self.server.clock.monotonic(), now
        target = f"/_matrix/federation/v1/send/{quote(made.txn_id, safe='')}"
        try:
            async with self.room_to_try if line.failures else self.room:
                if self.server.policy.now is not policy:
                    return True  # it is made anew
                answer = await remote.ask(
                    self.server, line.server, "PUT", target, made.body, most=MOST_ANSWER, node=self.node
                )
        except Unreachable as fault:
            self.outcomes.inc("unreachable")
            log.debug("a server could not be reached", server=line.server, fault=fault.fault.value)
            self.fail(line, batch)
            return False
        except remote.RemoteRefusal as refusal:
            self.outcomes.inc("refused")
            if refusal.status in _FAULTY:
                self.part(line, batch, refusal)
                return True
            self.fail(line, batch)
            return False
        self.outcomes.inc("sent")
        self.sent.inc("event", by=made.events)
        self.sent.inc("edu", by=made.edus)
        self.look_at(line, answer)
        line.most = None
        self.done(line, batch)
        await self.make_up(line.server)
        return True

    def is_shut(self, name: str) -> bool:
        """Whether an isolation lies between the node and a server: what waits for it goes on waiting."""
        policy = self.server.policy.now
        return policy.holds(self.node.jurisdiction, policy.jurisdiction_of_server(name))

    def hold(self, line: Line) -> None:
        """Leave what waits for a server in the database until it is asked again whether it may go."""
        line.fleeting.clear()
        line.rely_on_database(self.node.position)
        self.pause(line, pauses.spread(ISOLATION_PAUSE))

    async def make_up(self, name: str) -> None:
        """Tell a server that is back after too long of the keys that have changed. Raises NodeUnavailable."""
        if self.lines.owed is None:
            self.lines.owed = await self.node.read(peers.owed)
        if name in self.lines.owed:
            while await self.node.advance(introductions.make_up, self.server, self.node, name):
                pass
            self.lines.owed = None

    async def allowed(self, server: str, batch: Batch) -> tuple[list[Item], list[Fleeting]]:
        """What of a batch may leave, from this node and from that of who wrote it. Raises NodeUnavailable."""
        policy, source = self.server.policy.now, self.node.jurisdiction
        target = policy.jurisdiction_of_server(server)
        items = [item for item in batch.items if policy.may(class_of(item), source, target)]
        fleeting = [edu for edu in batch.fleeting if policy.may(edu.data_class, source, target)]
        if len(items) + len(fleeting) < len(batch.items) + len(batch.fleeting):
            for data_class in [class_of(item) for item in batch.items] + [edu.data_class for edu in batch.fleeting]:
                if not policy.may(data_class, source, target):
                    self.withheld.inc(data_class.value)
        if items and authors.some_closed(self.server, target):
            items = await self.by_those_who_may(target, items)
        return items, fleeting

    async def by_those_who_may(self, target: str, items: Sequence[Item]) -> list[Item]:
        """What is not by users of a node from which nothing may flow to a jurisdiction. Raises NodeUnavailable."""
        senders = {item.sender for item in items if isinstance(item, OutgoingPdu)}
        withheld = await authors.withheld(self.server, target, senders)
        kept = [item for item in items if not isinstance(item, OutgoingPdu) or item.sender not in withheld]
        self.withheld.inc(DataClass.EVENTS.value, by=len(items) - len(kept))
        return kept

    def look_at(self, line: Line, answer: dict[str, Any]) -> None:
        """Count the events that the server did not take. They are not sent again: it would refuse them again."""
        results = answer.get("pdus")
        faults = [result for result in results.values() if result] if isinstance(results, dict) else []
        if faults:
            self.refused.inc("event", by=len(faults))
            log.info("a server refused events", server=line.server, count=len(faults))

    def part(self, line: Line, batch: Batch, refusal: remote.RemoteRefusal) -> None:
        """A server finds fault with a transaction: half of it is tried, and an item that is left alone is given up."""
        if len(batch.items) > 1:
            line.most = len(batch.items) // 2
            return
        log.warning("a server refuses a transaction", server=line.server, status=refusal.status, reason=refusal.errcode)
        for item in batch.items:
            self.refused.inc("event" if isinstance(item, OutgoingPdu) else "edu")
        line.most = None
        self.done(line, batch)

    def done(self, line: Line, batch: Batch) -> None:
        """The server has everything up to the end of a batch, or is not to have it."""
        line.failures, line.bound, line.since = 0, None, 0
        if line.cursor is not None:
            line.cursor = max(line.cursor, batch.upto)
        if batch.items:
            self.note(PeerRow(line.server, batch.upto, 0, 0))

    def fail(self, line: Line, batch: Batch | None) -> None:
        """The server could not be reached: it is tried again later, first with the same transaction."""
        line.failures = min(line.failures + 1, pauses.MOST_FAILURES)
        line.bound = batch.upto if batch is not None and batch.items else line.bound
        line.fleeting.clear()
        line.rely_on_database(self.node.position)
        longest = self.server.settings.federation.longest_backoff.seconds
        seconds = pauses.spread(pauses.after(line.failures, FIRST_PAUSE, longest))
        self.pause(line, seconds)
        retry_ts = self.server.clock.now_ms() + round(seconds * 1000)
        self.note(PeerRow(line.server, line.cursor or 0, line.failures, retry_ts))

    # cursors

    def note(self, row: PeerRow) -> None:
        """Have a cursor written soon, together with those of other servers."""
        before = self.lines.written.get(row.server)
        if before is not None and before.sent_pos > row.sent_pos:
            row = row._replace(sent_pos=before.sent_pos)
        self.lines.written[row.server] = row
        if self.saving is None:
            self.saving = self.tasks.start(self.save())

    async def save(self) -> None:
        """Write the cursors that moved, once more have had the time to."""
        try:
            await self.server.clock.sleep(SAVED_AFTER)
            while self.lines.written:
                try:
                    await self.write()
                except NodeUnavailable:
                    await self.server.clock.sleep(pauses.NODE_RETRY)
        finally:
            self.saving = None

    async def write(self) -> None:
        """Write the cursors that moved."""
        rows = list(self.lines.written.values())
        await self.node.write(peers.put, rows)
        for row in rows:
            if self.lines.written.get(row.server) is row:
                del self.lines.written[row.server]


def _show(server: Server) -> None:
    """Have `/metrics` show what waits in memory, and for how many servers there is no way."""

    def lines() -> deque[Line]:
        return deque(line for node in server.nodes for line in node.memory(Lines).held.values())

    gauge = server.telemetry.gauge
    gauge(
        "domicile_federation_waiting",
        "Events and EDUs in memory on their way to other servers.",
        lambda: sum(len(line.queue) + len(line.fleeting) for line in lines()),
    )
    gauge("domicile_federation_lines", "Servers for which something waits.", lambda: len(lines()))
    gauge(
        "domicile_federation_unreachable",
        "Servers for which something waits and whose last transaction failed.",
        lambda: sum(line.failures > 0 for line in lines()),
    )
