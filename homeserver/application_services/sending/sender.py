"""Sends application services what is for them: a task for each, exactly one transaction under way, in order.

Invariants: a transaction is in the database, to the byte, before it is sent the first time, and stays the same however
often it is repeated, over restarts too, unless the policy lets something in it out no more: then it is made anew; the
place up to which a service has been told moves only when it has answered with success. A service that cannot be reached
costs a timer.

spec: application-service-api/#pushing-events
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import structlog

from config.placement import Attributes
from homeserver.accounts import registration
from homeserver.accounts.registration import NewAccount
from homeserver.application_services.asking import ask
from homeserver.application_services.ping import heard_key
from homeserver.application_services.sending.gathering import Place, Typists, gather
from homeserver.application_services.sending.repeating import may_be_sent
from homeserver.protocol.errors import NodeUnavailable, UserInUse
from homeserver.protocol.identifiers import localpart_of
from homeserver.rooms import ticks
from homeserver.rooms.application_services import read_aliases
from homeserver.runtime import pauses
from homeserver.runtime.exchange import Unreachable
from homeserver.storage import application_services as stored
from homeserver.storage.application_services import Pending

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from config.application_services import ApplicationService
    from config.policy import Policy
    from homeserver.context import Server
    from homeserver.runtime.wakeups import Listener
    from homeserver.storage.application_services import Standing
    from homeserver.storage.nodes import Node

log = structlog.get_logger("application_services")

FIRST_PAUSE: Final = 1.0
"""Seconds after the first failure; doubles each time."""

LONGEST_PAUSE: Final = 300.0

ISOLATION_PAUSE: Final = 10.0
"""Seconds until it is asked again whether an isolation lies between a node and a service."""

PATIENCE: Final = 60.0
"""Seconds that a service may take for a transaction."""

WRITTEN_AFTER: Final = 1000
"""Positions that may pass before it is written that nothing of them was for a service."""

KEPT: Final = 1_000_000
"""What waits on a node for services; beyond that the oldest is dropped."""


async def send(server: Server, service: ApplicationService) -> None:
    """Send a service what is for it, until cancelled."""
    await _Sender(server, service).run()


async def introduce(server: Server) -> None:
    """Make what services need: an account for the own user of each, on its node; and forget those that are gone. For
    nodes that are down it is tried again and again."""
    todo = {node.name for node in server.nodes}
    while todo:
        for name in sorted(todo):
            try:
                await _introduce(server, server.nodes[name])
                todo.discard(name)
            except NodeUnavailable:
                continue
        if todo:
            await server.clock.sleep(pauses.NODE_RETRY)


async def _introduce(server: Server, node: Node) -> None:
    await read_aliases(server, [node])
    here = server.services.on(node.name)
    await node.write(stored.keep_only, [service.id for service in here if service.url is not None])
    for service in here:
        await ensure_own_user(server, service)


async def ensure_own_user(server: Server, service: ApplicationService) -> bool:
    """Make the account of a service's own user, if there is none; False when it rests on another node.

    Raises NodeUnavailable.
    """
    node = await server.nodes.of_user(service.sender)
    if node is None:
        wanted = NewAccount(
            localpart=localpart_of(service.sender),
            password=None,
            attributes=Attributes(node=service.node, named_by="service", may_ask=False),
            service=service,
        )
        with suppress(UserInUse):
            await registration.register(server, wanted)
        node = await server.nodes.of_user(service.sender)
    if node is None or node.name != service.node:
        log.error("the user of an application service is pinned elsewhere", service=service.id, node=service.node)
        return False
    return True


async def trim(server: Server) -> None:
    """Drop the oldest of what has been waiting for services that do not take it, where it is too much. A job."""
    dropped = server.telemetry.counter(
        "domicile_application_service_dropped", "What was dropped because a service did not take it.", ["node"]
    )
    for node in server.nodes:
        if server.services.on(node.name) and node.engine.health().up:
            gone = await node.write(stored.trim, KEPT)
            if gone:
                dropped.inc(node.name, by=gone)
                log.warning("what waited for application services was dropped", node=node.name, count=gone)


class Senders:
    """What sends to services (``directory.memory(Senders)``), by id."""

    def __init__(self) -> None:
        self.held: dict[str, _Sender] = {}

    def keep_only(self, ids: Iterable[str]) -> None:
        """Forget what sent to services that are gone."""
        kept = set(ids)
        self.held = {name: each for name, each in self.held.items() if name in kept}

    def behind(self) -> dict[tuple[str, ...], float]:
        """How many positions lie between each service and the end of its node's stream."""
        return {(name,): float(max(each.node.position - each.place.pos, 0)) for name, each in self.held.items()}


class _Sender:
    """Sends to one service."""

    def __init__(self, server: Server, service: ApplicationService) -> None:
        self.server = server
        self.service = service
        self.node = server.nodes[service.node]
        self.place = Place(0, 0)
        self.written = 0
        self.failures = 0
        self.retry_ts = 0
        self.pending: Pending | None = None
        self.asked: Policy | None = None
        """The policy that lets out what waits; None: not asked yet."""
        self.typists = Typists()
        self.ready = asyncio.Event()
        counter = server.telemetry.counter
        self.outcomes = counter(
            "domicile_application_service_transactions",
            "Transactions to application services, by what came of them.",
            ["service", "outcome"],
        )
        senders = server.nodes.directory.memory(Senders)
        senders.held[service.id] = self
        server.telemetry.gauge(
            "domicile_application_service_behind",
            "Positions of its node's stream that an application service has not been told of, or is not to be.",
            senders.behind,
            ["service"],
        )

    @property
    def news_key(self) -> tuple[str, str]:
        return ("application service", self.service.id)

    @property
    def is_isolated(self) -> bool:
        """Whether nothing may go to the service for now."""
        return self.server.policy.now.holds(self.node.jurisdiction, self.service.jurisdiction)

    async def run(self) -> None:
        """Until cancelled."""
        follower = partial(self.server.wakeups.wake, self.news_key)
        self.node.followers.append(follower)
        try:
            await self.attempt(self.begin)
            with self.server.wakeups.listen([heard_key(self.service)]) as heard:
                while not self.server.wakeups.stopping:
                    await self.attempt(partial(self.work, heard))
        finally:
            self.node.followers.remove(follower)

    async def attempt(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do a step; one that fails by the node or by a fault of ours is done again."""
        while not self.server.wakeups.stopping:
            try:
                await step()
                return
            except NodeUnavailable:
                await self.server.clock.sleep(pauses.NODE_RETRY)
            except Exception:
                log.exception("sending to an application service failed", service=self.service.id)
                await self.server.clock.sleep(FIRST_PAUSE)

    async def begin(self) -> None:
        """Learn how far the service is."""
        await self.node.start()
        while not await ensure_own_user(self.server, self.service):
            await self.server.clock.sleep(LONGEST_PAUSE)
        standing: Standing = await self.node.write(
            stored.begin, self.service.id, self.service.sender, self.node.position
        )
        self.place = Place(standing.sent_pos, ticks.now(self.node))
        self.written = standing.sent_pos
        self.failures, self.retry_ts, self.pending = standing.failures, standing.retry_ts, standing.pending
        self.ready.set()

    async def work(self, heard: Listener) -> None:
        """Send one transaction, or wait for something to send, or for the end of an isolation."""
        if self.is_isolated:
            await self.server.clock.sleep(ISOLATION_PAUSE)
            return
        if self.pending is None:
            with self.server.wakeups.listen([self.news_key]) as listener:
                await self.gather()
                if self.pending is None:
                    await listener.wait()
                    return
        await self.rest(heard)
        await self.deliver()

    async def gather(self) -> None:
        """Make the next transaction, if there is something for it."""
        while self.pending is None:
            before, typists, policy = self.place.pos, Typists(self.typists), self.server.policy.now
            found = await gather(self.server, self.node, self.service, self.place, typists)
            if found.contents:
                body = found.contents.body(self.service)
                pending = Pending(f"{found.place.pos}.{token_hex(6)}", found.place.pos, body)
                await self.node.write(stored.keep, self.service.id, pending)
                self.pending, self.place, self.typists, self.asked = pending, found.place, typists, policy
                return
            self.place, self.typists = found.place, typists
            if self.place.pos - self.written > WRITTEN_AFTER:
                await self.node.write(stored.done, self.service.id, self.place.pos)
                self.written = self.place.pos
            if self.place.pos == before or self.place.pos >= self.node.position:
                return

    async def rest(self, heard: Listener) -> None:
        """Leave the service alone as long as that is due, unless it has shown since the last time that it is there."""
        left = (self.retry_ts - self.server.clock.now_ms()) / 1000
        if self.failures and left > 0:
            await heard.wait(min(left, LONGEST_PAUSE))

    async def deliver(self) -> None:
        """Send the transaction that waits, unless an isolation has begun since it does."""
        pending = self.pending
        if pending is None or self.server.wakeups.stopping or await self.withdraw(pending) or self.is_isolated:
            return
        path = f"/transactions/{quote(pending.txn_id, safe='')}"
        try:
            answer = await ask(
                self.server,
                self.service,
                "PUT",
                f"/_matrix/app/v1{path}",
                old_path=path,
                body=pending.body,
                seconds=PATIENCE,
            )
        except Unreachable as fault:
            await self.fail(fault.fault.value)
            return
        if not 200 <= answer.status < 300:
            await self.fail(str(answer.status))
            return
        self.outcomes.inc(self.service.id, "sent")
        if self.failures:
            log.info("an application service is back", service=self.service.id)
        await self.node.write(stored.done, self.service.id, pending.upto)
        self.pending, self.failures, self.retry_ts, self.written = None, 0, 0, pending.upto
        self.place = Place(max(self.place.pos, pending.upto), self.place.tick)

    async def withdraw(self, pending: Pending) -> bool:
        """Forget the transaction that waits, in order to make another, if the policy lets it out no more."""
        policy = self.server.policy.now
        if policy is self.asked:
            return False
        if await may_be_sent(self.server, self.node, self.service, pending.body):
            self.asked = policy
            return False
        log.info("a transaction is made anew, since the policy has changed", service=self.service.id)
        await self.node.write(stored.withdraw, self.service.id)
        self.pending, self.place = None, Place(self.written, self.place.tick)
        return True

    async def fail(self, reason: str) -> None:
        """The service has not taken the transaction: it gets the same one later."""
        self.outcomes.inc(self.service.id, "failed")
        self.failures = min(self.failures + 1, pauses.MOST_FAILURES)
        seconds = pauses.spread(pauses.after(self.failures, FIRST_PAUSE, LONGEST_PAUSE))
        self.retry_ts = self.server.clock.now_ms() + round(seconds * 1000)
        if self.failures in (1, 5) or self.failures % 20 == 0:
            log.warning(
                "an application service does not take its transactions",
                service=self.service.id,
                reason=reason,
                failures=self.failures,
            )
        await self.node.write(stored.failed, self.service.id, self.failures, self.retry_ts)
