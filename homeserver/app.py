"""The composition root: from two files of configuration to a server that answers.

The only file that knows every service: it opens the databases, registers the jobs, collects the routes, and listens.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import pkgutil
import secrets
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import fields
from hashlib import blake2b
from importlib.resources import files
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

import structlog

from config.load import load_policy, read_secret
from config.problems import Faults
from homeserver import endpoints
from homeserver.accounts import sessions
from homeserver.commands import SOCKET
from homeserver.context import CurrentPolicy, Identity, Server
from homeserver.jobs import add_jobs, watchers
from homeserver.protocol.errors import ResidencyViolation
from homeserver.protocol.signing import SigningKey, read_keys
from homeserver.runtime.clock import SystemClock
from homeserver.runtime.jobs import Jobs
from homeserver.runtime.telemetry import Public, Telemetry
from homeserver.runtime.wakeups import Wakeups
from homeserver.storage import directory, migrate
from homeserver.storage.connect import engine_for
from homeserver.storage.nodes import Node, Nodes
from homeserver.web.connections import Connections
from homeserver.web.limits import Bucket, Limits
from homeserver.web.parsing import Bounds
from homeserver.web.routes import Resource, Table
from homeserver.web.server import Listening, patience
from homeserver.web.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from config.policy import Policy
    from config.residency import NodePlace
    from config.settings import RateLimits, Settings
    from homeserver.runtime.clock import Clock
    from homeserver.storage.engine import Engine

log = structlog.get_logger("app")

SECRET_FILE = "deployment.secret"  # noqa: S105 - its name
DIRECTORY = "directory.db"
SHUTDOWN = 10.0
"""Seconds that requests and jobs get to end."""


class StartError(Exception):
    """The deployment cannot be started; the message says what to do."""


# resources ----------------------------------------------------------------------------------


@asynccontextmanager
async def opened(settings: Settings, policy: Policy, clock: Clock | None = None) -> AsyncIterator[Server]:
    """The resources of a deployment, its databases open (or down, if they cannot be reached), and closed at the end.

    A database that was never there is made; one that was, and is gone, stays down. Raises StartError.
    """
    clock = clock or SystemClock()
    telemetry = Telemetry()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    secret, fresh = _deployment_secret(settings)
    async with AsyncExitStack() as stack:
        routes = engine_for(
            "directory", f"sqlite:{DIRECTORY}", _migrations("directory"), root=settings.data_dir, clock=clock
        )
        stack.push_async_callback(routes.close)
        await routes.open(create=fresh or (not (settings.data_dir / DIRECTORY).exists() and _nothing_founded(settings)))
        if not routes.health().up:
            raise StartError(
                f"the directory {settings.data_dir / DIRECTORY} cannot be opened: {routes.health().reason}"
            )
        nodes = [await _open_node(place, settings, routes, clock, stack) for place in policy.nodes.values()]
        _show_databases(telemetry, nodes)
        yield Server(
            settings=settings,
            policy=CurrentPolicy(policy),
            identity=Identity(settings.server_name, signing_key(settings), _derived(secret, "identity")),
            nodes=Nodes(nodes, directory.Directory(routes, _derived(secret, "directory")), settings.server_name),
            clock=clock,
            wakeups=Wakeups(clock),
            jobs=Jobs(clock, telemetry),
            telemetry=telemetry,
        )


async def _open_node(place: NodePlace, settings: Settings, routes: Engine, clock: Clock, stack: AsyncExitStack) -> Node:
    new = place.name not in await routes.read(directory.founded)
    engine = engine_for(place.name, address_of(place), _migrations("node"), root=settings.data_dir, clock=clock)
    stack.push_async_callback(engine.close)
    await engine.open(create=new)
    health = engine.health()
    if not health.up:
        log.error("node is down", node=place.name, reason=health.reason)
    elif new:
        await routes.write(directory.found, place.name)
    return Node(place.name, place.jurisdiction, engine, place.media_path(settings.data_dir))


def _nothing_founded(settings: Settings) -> bool:
    """Whether no node has ever been made here: only then may a missing directory be made anew."""
    return not any(settings.data_dir.glob("*/node.db"))


def address_of(place: NodePlace) -> str:
    """The address of a node's database, with its password."""
    if place.password is None:
        return place.database
    parts = urlsplit(place.database)
    user, _, host = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}:{quote(read_secret(place.password), safe='')}@{host}"
    return urlunsplit(parts._replace(netloc=netloc))


def _migrations(kind: str) -> tuple[migrate.Migration, ...]:
    return migrate.load(files("homeserver.storage") / "schema" / kind)


def _deployment_secret(settings: Settings) -> tuple[bytes, bool]:
    """The secret from which keys of hashes come, and whether it was made just now."""
    if settings.deployment_secret is not None:
        return read_secret(settings.deployment_secret).encode(), False
    path = settings.data_dir / SECRET_FILE
    if path.exists():
        return path.read_bytes().strip(), False
    if (settings.data_dir / DIRECTORY).exists():
        raise StartError(f"{path} is gone, and without it nobody's data can be found: restore it from a backup")
    secret = secrets.token_urlsafe(32).encode()
    draft = path.with_suffix(".new")
    with open(draft, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(secret + b"\n")
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    return secret, True


def _derived(secret: bytes, purpose: str) -> bytes:
    """A key of its own for each purpose."""
    return blake2b(secret, digest_size=32, person=purpose.encode()).digest()


def signing_key(settings: Settings) -> SigningKey:
    """The key that the deployment signs with. Raises StartError."""
    try:
        keys = read_keys(read_secret(settings.signing_key))
    except (OSError, ValueError) as error:
        raise StartError(f"the signing key cannot be read: {error}; `domicile init` makes one") from None
    if not keys:
        raise StartError("the file of the signing key holds none; `domicile init` makes one")
    return keys[0]


# metrics ------------------------------------------------------------------------------------


class Metrics:
    """Counts requests for `/metrics`, and logs the faults of ours."""

    def __init__(self, telemetry: Telemetry) -> None:
        labels = ["method", "route"]
        self._requests = telemetry.counter(
            "domicile_http_requests", "Answered requests.", ["method", "route", "status"]
        )
        self._seconds = telemetry.histogram("domicile_http_seconds", "Time from request to answer.", labels)
        self._faults = telemetry.counter("domicile_http_faults", "Requests that failed by a fault of ours.", labels)
        self._violations = telemetry.counter(
            "domicile_residency_violations", "Rows that were refused because their owner is pinned elsewhere.", []
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has its answer."""
        self._requests.inc(method, route, str(status))
        self._seconds.observe(seconds, method, route)

    def failed(self, method: str, route: str, error: BaseException) -> None:
        """A request failed by a fault of ours."""
        self._faults.inc(method, route)
        if isinstance(error, ResidencyViolation):
            self._violations.inc()
        log.error("request failed", method=method, route=route, exc_info=error)


def _show_databases(telemetry: Telemetry, nodes: list[Node]) -> None:
    def up() -> Mapping[tuple[str, ...], float]:
        return {(node.name, node.jurisdiction): float(node.engine.health().up) for node in nodes}

    def trips() -> Mapping[tuple[str, ...], float]:
        return {(node.name,): float(node.engine.trips) for node in nodes}

    telemetry.gauge("domicile_node_up", "Whether a node's database answers.", up, ["node", "jurisdiction"])
    telemetry.gauge("domicile_database_trips", "Trips to a node's database since the start.", trips, ["node"])


# serving ------------------------------------------------------------------------------------


def routes_of(server: Server) -> Table[Server]:
    """Every endpoint."""
    modules = [
        importlib.import_module(f"{endpoints.__name__}.{found.name}")
        for found in pkgutil.iter_modules(endpoints.__path__)
    ]
    return Table.of(*modules)


def site_of(server: Server) -> Site[Server]:
    """What answers requests."""
    settings = server.settings
    return Site(
        server,
        routes_of(server),
        authenticate=lambda token: sessions.authenticate(server, token),
        observer=Metrics(server.telemetry),
        seconds=server.clock.monotonic,
        limits=Limits(buckets(settings.rate_limits), server.clock.monotonic) if settings.rate_limits.enabled else None,
        max_body=settings.limits.max_body,
        max_federation_body=settings.limits.max_federation_body,
    )


def buckets(limits: RateLimits) -> dict[str, Bucket]:
    """The rate limits by name."""
    named = {field.name: getattr(limits, field.name) for field in fields(limits) if field.name != "enabled"}
    return {name: Bucket(limit.per_second, limit.burst) for name, limit in named.items()}


async def serve(settings: Settings, policy: Policy, stop: asyncio.Event, reload: asyncio.Event) -> None:
    """Serve until ``stop`` is set; ``reload`` being set reads the residency policy and the certificates again.

    Raises StartError, and OSError for an address that cannot be had.
    """
    async with opened(settings, policy) as server:
        site = site_of(server)
        bounds = settings.limits
        connections = Connections(server.clock, patience(bounds), bounds.connections)
        listening = Listening(site, connections, Bounds(head=bounds.max_headers))
        listening.open(settings.listeners)
        control = settings.data_dir / SOCKET
        control.unlink(missing_ok=True)
        listening.open_socket(control, [Resource.CONTROL.value], mode=0o600)
        add_jobs(server)
        server.jobs.start()
        watching = [asyncio.ensure_future(watcher) for watcher in watchers(server)]
        reachable = [Public(address) for address in listening.addresses if not address.startswith("unix:")]
        log.info("ready", listening=reachable)
        if settings.conformance_mode:
            log.warning("conformance mode: plaintext is accepted; this server is for tests only")
        reloading = asyncio.ensure_future(_reload(server, listening, reload))
        try:
            await stop.wait()
        finally:
            log.info("stopping")
            server.wakeups.stop()
            reloading.cancel()
            await listening.close(SHUTDOWN)
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, reloading, return_exceptions=True)
            await server.jobs.stop(SHUTDOWN)
    log.info("stopped")


async def _reload(server: Server, listening: Listening, asked: asyncio.Event) -> None:
    while True:
        await asked.wait()
        asked.clear()
        try:
            reload_policy(server)
            listening.reload_certificates()
        except Faults as faults:
            log.error("the residency policy was not reloaded; the one before stays in force", faults=str(faults))
        except Exception as error:
            log.error("not reloaded", reason=str(error))


def reload_policy(server: Server) -> None:
    """Read residency.toml again and put it in force. Raises Faults, and StartError for what needs a restart."""
    policy = load_policy(server.settings.residency, server.name)
    running = {node.name: node.jurisdiction for node in server.nodes}
    if {place.name: place.jurisdiction for place in policy.nodes.values()} != running:
        raise StartError("the nodes of the residency policy have changed: restart the server to take them over")
    server.policy.now = policy
    log.info("residency policy in force", serial=policy.serial)
