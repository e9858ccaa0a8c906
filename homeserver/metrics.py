"""What `/metrics` shows of a server: its databases, what waits, its memory, jobs and listeners."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from homeserver.e2ee import mailbox_bound
from homeserver.storage import outbox
from homeserver.web.unrecognised import Unrecognised

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from homeserver.context import Server
    from homeserver.runtime.lru import Lru
    from homeserver.runtime.telemetry import Telemetry
    from homeserver.storage.engine import Engine
    from homeserver.storage.nodes import Node
    from homeserver.web.connections import Connections

log = structlog.get_logger("app")


class Metrics:
    """Counts requests for `/metrics`, and logs the faults of ours."""

    def __init__(self, telemetry: Telemetry) -> None:
        labels = ["method", "route"]
        self._requests = telemetry.counter(
            "domicile_http_requests", "Answered requests.", ["method", "route", "status"]
        )
        self._seconds = telemetry.histogram("domicile_http_seconds", "Time from request to answer.", labels)
        self._faults = telemetry.counter("domicile_http_faults", "Requests that failed by a fault of ours.", labels)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has its answer."""
        self._requests.inc(method, route, str(status))
        self._seconds.observe(seconds, method, route)

    def failed(self, method: str, route: str, error: BaseException) -> None:
        """A request failed by a fault of ours."""
        self._faults.inc(method, route)
        log.error("request failed", method=method, route=route, exc_info=error)


def show(server: Server) -> None:
    """Have `/metrics` show the state of the databases, of what waits, and of the jobs."""
    gauge, nodes = server.telemetry.gauge, server.nodes
    depths: dict[tuple[str, ...], float] = {}

    async def count(node: Node) -> None:
        waiting = await node.read(outbox.depth) if node.engine.health().up else {}
        for other in nodes:
            if other is not node:
                depths[node.name, other.name] = waiting.get(other.name, 0)

    async def count_all() -> None:
        there = {node.name for node in nodes}
        for pair in [pair for pair in depths if not there.issuperset(pair)]:
            del depths[pair]
        faults = await asyncio.gather(*(count(node) for node in nodes), return_exceptions=True)
        for fault in faults:
            if isinstance(fault, Exception):
                raise fault

    def by_node(number: Callable[[Engine], float]) -> Callable[[], Mapping[tuple[str, ...], float]]:
        return lambda: {(node.name,): number(node.engine) for node in nodes}

    def up() -> Mapping[tuple[str, ...], float]:
        return {(node.name, node.jurisdiction): float(node.engine.health().up) for node in nodes}

    def failures() -> Mapping[tuple[str, ...], float]:
        return {(name,): times for name, times in server.jobs.failing().items()}

    def isolated() -> Mapping[tuple[str, ...], float]:
        return {(code,): float(code in server.policy.isolated) for code in {node.jurisdiction for node in nodes}}

    gauge("domicile_isolated", "Whether the borders of a jurisdiction are closed.", isolated, ["jurisdiction"])
    gauge("domicile_node_up", "Whether a node's database answers.", up, ["node", "jurisdiction"])
    trips, violations = by_node(lambda engine: engine.trips), by_node(lambda engine: engine.violations)
    gauge("domicile_database_trips", "Trips to a node's database.", trips, ["node"], grows=True)
    refused = "Rows that a node refused because their owner is pinned elsewhere."
    gauge("domicile_residency_violations", refused, violations, ["node"], grows=True)
    server.telemetry.before_answers(count_all)
    waiting = "Rows on their way to another node."
    gauge("domicile_outbox_rows", waiting, lambda: depths, ["source", "destination"])
    gauge(
        "domicile_listeners", "Tasks that wait to be woken: long polls, and what ships.", lambda: server.wakeups.count
    )
    _show_caches(server)
    mailbox_bound.show(server)
    failing = "How often in a row a job has failed; those that did not are not shown."
    gauge("domicile_job_failures", failing, failures, ["job"])


def _show_caches(server: Server) -> None:
    def by_cache(number: Callable[[Lru[Any, Any]], int]) -> Callable[[], Mapping[tuple[str, ...], float]]:
        return lambda: {(node.name, cache.name): number(cache) for node in server.nodes for cache in node.caches()}

    labels, gauge = ["node", "cache"], server.telemetry.gauge
    gauge("domicile_cache_entries", "Entries that are in memory.", by_cache(len), labels)
    gauge("domicile_cache_bytes", "Memory that they take, as an estimate.", by_cache(lambda each: each.weight), labels)
    bound = "Memory that they may take; what was used longest ago makes room."
    gauge("domicile_cache_bytes_max", bound, by_cache(lambda each: each.capacity), labels)
    found, missed = "Questions that were answered from memory.", "Questions that were not."
    gauge("domicile_cache_hits", found, by_cache(lambda each: each.hits), labels, grows=True)
    gauge("domicile_cache_misses", missed, by_cache(lambda each: each.misses), labels, grows=True)


def show_connections(server: Server, connections: Connections) -> None:
    """Have `/metrics` show the load of the listeners."""
    gauge = server.telemetry.gauge
    gauge("domicile_connections", "Connections that are open.", lambda: len(connections))
    gauge("domicile_requests_under_way", "Requests that are being answered.", lambda: connections.answering)
    held = "Bytes of request bodies that are held while it is not known who sends them."
    gauge("domicile_unrecognised_bytes", held, lambda: connections.unrecognised.held)


def unrecognised_in(server: Server) -> Unrecognised:
    """What may be held of bodies of whom nobody knows yet who sends them."""
    bounds = server.settings.limits
    refused = server.telemetry.counter(
        "domicile_unrecognised_refused",
        "Request bodies that were refused because too many were held of unknown senders.",
    )
    return Unrecognised(bounds.unrecognised_bodies, bounds.max_federation_body, refused.inc)
