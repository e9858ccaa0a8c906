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
from dataclasses import fields, replace
from functools import cache, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import structlog

from config.load import load_apart, load_application_services, load_policy, read_secret
from config.problems import Faults, Problem
from federation import authentication, port
from federation import endpoints as federation_endpoints
from federation.accounting import counted
from homeserver import endpoints, places
from homeserver.accounts import sessions
from homeserver.application_services.sending import registered
from homeserver.archives import backing_up
from homeserver.context import CurrentPolicy, Identity, Server
from homeserver.control_socket import socket_in
from homeserver.e2ee import mailbox_bound
from homeserver.jobs import Watch, add_jobs
from homeserver.media import thumbnails
from homeserver.protocol.signing import SigningKey, read_keys
from homeserver.residency import isolation
from homeserver.residency.changes import applying, chain, recovering, taking
from homeserver.residency.changes.moving import WatchedMoves
from homeserver.residency.moves import following
from homeserver.residency.proofs import auditing
from homeserver.residency.withdrawing import announcing, closing
from homeserver.runtime import memory, open_files
from homeserver.runtime.certificates import Trust
from homeserver.runtime.clock import SystemClock
from homeserver.runtime.doors import Doors
from homeserver.runtime.jobs import Jobs
from homeserver.runtime.names import SystemNames
from homeserver.runtime.outbound import Outbound
from homeserver.runtime.telemetry import Public, Telemetry
from homeserver.runtime.wakeups import Wakeups
from homeserver.storage import directory, outbox, users
from homeserver.storage.circuit import Unreachable
from homeserver.storage.connect import engine_for, peek
from homeserver.storage.nodes import Node, Nodes
from homeserver.storage.policy_versions import NotNewest
from homeserver.transparency import serving
from homeserver.web.connections import Connections
from homeserver.web.limits import Bucket, Limits
from homeserver.web.parsing import Bounds
from homeserver.web.routes import Resource, Table
from homeserver.web.server import Listening, ServerCertificate, patience
from homeserver.web.site import Site
from homeserver.web.unrecognised import Unrecognised

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from config.policy import Policy
    from config.residency import NodePlace
    from config.sections.rate_limits import RateLimits
    from config.settings import Settings
    from homeserver.runtime.clock import Clock
    from homeserver.runtime.lru import Lru
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
async def opened(settings: Settings, found: Policy | Faults, clock: Clock | None = None) -> AsyncIterator[Server]:
    """The resources of a deployment, its databases open (or down, if they cannot be reached), and closed at the end.

    ``found``: the policy that stands in residency.toml, or what is wrong with it; which one holds is said by
    `residency.changes.taking`. A database that was never there is made; one that was, and is gone, stays down. Raises
    StartError, SchemaMismatch, OSError for a data directory that cannot be used, and Faults for secrets that cannot be
    read, and for a residency.toml that has some where nothing else can be in force.
    """
    if unreadable := unreadable_secrets(settings, *([] if isinstance(found, Faults) else [found])):
        raise Faults(unreadable)
    key, *further_keys = signing_keys(settings)
    trust = trusted(settings)
    clock = clock or SystemClock()
    telemetry = Telemetry()
    secret, fresh = _deployment_secret(settings)
    async with AsyncExitStack() as stack:
        routes = engine_for(
            "directory",
            f"sqlite:{DIRECTORY}",
            places.migrations("directory"),
            root=settings.data_dir,
            clock=clock,
            sizes=places.sizes(settings),
        )
        stack.push_async_callback(routes.close)
        await routes.open(create=fresh or (not (settings.data_dir / DIRECTORY).exists() and _nothing_founded(settings)))
        if not routes.health().up:
            raise StartError(
                f"the directory of users cannot be opened: {routes.health().reason}; restore it from a backup"
            )
        identity = identity_of(settings, secret, key, *further_keys)
        policy = await _policy_in_force(settings, routes, identity, clock, found)
        there = places.OpenPlaces(settings, routes, clock)
        stack.push_async_callback(there.close_all)
        begun = await recovering.half_moved(routes, settings.server_name, settings.residency)
        named = {place.name: place for place in (*begun, *policy.nodes.values())}
        nodes = [await there.node(place) for place in named.values()]
        server = Server(
            settings=settings,
            policy=CurrentPolicy(policy),
            identity=identity,
            nodes=Nodes(nodes, directory.Directory(routes, _derived(secret, "directory")), settings.server_name),
            clock=clock,
            wakeups=Wakeups(clock),
            jobs=Jobs(clock, telemetry),
            telemetry=telemetry,
            outbound=Outbound(SystemNames(), trust, clock, telemetry, settings.federation.allow_addresses),
            remote=port,
            services=load_application_services(settings, policy),
            places=there,
        )
        stack.push_async_callback(server.outbound.close)
        await isolation.load(server)
        await announcing.load(server)
        show(server)
        auditing.show(server)
        serving.show(server)
        yield server


async def _policy_in_force(
    settings: Settings, routes: Engine, identity: Identity, clock: Clock, found: Policy | Faults
) -> Policy:
    file = os.fspath(settings.residency) if isinstance(found, Faults) else found.file
    founded = await routes.read(directory.founded)

    async def inhabited(place: NodePlace) -> bool:
        if place.name not in founded:
            return False
        try:
            return bool(await peek(places.address_of(place), "residents", users.ANY_RESIDENT, root=settings.data_dir))
        except (Unreachable, Faults):
            return True  # as far as anybody knows

    if await _finished(settings, routes):
        try:
            found = load_policy(file, settings.server_name)
        except Faults as faults:
            found = faults
    try:
        policy = await taking.at_start(routes, identity, clock, found, file, inhabited)
    except chain.BrokenChain as broken:
        raise StartError(str(broken)) from None
    if unreadable := unreadable_secrets(settings, policy):
        raise Faults(unreadable)
    return policy


async def _finished(settings: Settings, routes: Engine) -> bool:
    """Bring to its end what was cut off when a plan had just come into force; whether there was anything to do."""
    try:
        notes = await recovering.recover(routes, settings.residency)
    except OSError as error:
        log.error("the file of the policy could not be replaced", reason=str(error))
        return False
    for note in notes or ():
        log.warning("a plan has come into force", note=note)
    return notes is not None


def _nothing_founded(settings: Settings) -> bool:
    """Whether no node has ever been made here: only then may a missing directory be made anew."""
    return not any(settings.data_dir.glob("*/node.db"))


def _deployment_secret(settings: Settings) -> tuple[bytes, bool]:
    """The secret from which keys of hashes come, and whether it was made just now."""
    known = known_secret(settings)
    if known is not None:
        return known, False
    path = settings.data_dir / SECRET_FILE
    if lost := lost_secret(settings):
        raise StartError(lost)
    secret = secrets.token_urlsafe(32).encode()
    draft = path.with_suffix(".new")
    with open(draft, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(secret + b"\n")
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    return secret, True


def known_secret(settings: Settings) -> bytes | None:
    """The deployment secret, if there is one already. Raises Faults, OSError."""
    if settings.deployment_secret is not None:
        return read_secret(settings.deployment_secret).encode()
    path = settings.data_dir / SECRET_FILE
    return path.read_bytes().strip() if path.exists() else None


def lost_secret(settings: Settings) -> str:
    """What to say when the deployment secret was made once and is gone; empty when it is not so."""
    path = settings.data_dir / SECRET_FILE
    if settings.deployment_secret is not None or path.exists() or not (settings.data_dir / DIRECTORY).exists():
        return ""
    return f"{path} is gone, and without it nobody's data can be found: restore it from a backup"


def identity_of(settings: Settings, secret: bytes, key: SigningKey, *further_keys: SigningKey) -> Identity:
    """The deployment's name and keys. Raises StartError, and Faults for the policy server's key."""
    recommends = policy_key(settings, secret)
    return Identity(settings.server_name, key, _derived(secret, "identity"), further_keys, recommends)


def _derived(secret: bytes, purpose: str) -> bytes:
    """A key of its own for each purpose."""
    return blake2b(secret, digest_size=32, person=purpose.encode()).digest()


def signing_keys(settings: Settings) -> list[SigningKey]:
    """The deployment's keys that are in use; it signs with the first. Raises StartError, and Faults when their file
    cannot be read."""
    text = read_secret(settings.signing_key)
    try:
        keys = read_keys(text)
    except ValueError as error:
        raise StartError(f"the signing key is none: {error}; restore it from a backup") from None
    if not keys:
        raise StartError("the file of the signing key holds none; restore it from a backup")
    ids = [key.key_id for key in keys] + [old.id for old in settings.federation.old_keys]
    if twice := next((key_id for key_id in ids if ids.count(key_id) > 1), None):
        raise StartError(f"there are two signing keys {twice}: another server could not tell which is meant")
    return keys


def policy_key(settings: Settings, secret: bytes) -> SigningKey | None:
    """The key with which the deployment recommends events as a policy server; None when it is none. It follows from the
    deployment secret unless the settings name another.

    Raises StartError, and Faults when its file cannot be read.
    """
    table = settings.policy_server
    if not table.enabled:
        return None
    if table.signing_key is None:
        return SigningKey("policy_server", _derived(secret, "policy server"))
    try:
        keys = read_keys(read_secret(table.signing_key))
    except ValueError as error:
        raise StartError(f"the key of the policy server is none: {error}") from None
    if len(keys) != 1:
        raise StartError(f"the file of the policy server's key holds {len(keys)}: it signs with one")
    if keys[0].verify_key.raw in [key.verify_key.raw for key in signing_keys(settings)]:
        raise StartError("the key of the policy server is a signing key of this server: it needs one of its own")
    return keys[0]


def trusted(settings: Settings) -> Trust:
    """The authorities whose certificates of other servers are believed. Raises StartError."""
    federation = settings.federation
    try:
        return Trust(federation.ca_file, verify=federation.verify_certificates)
    except Exception as error:
        raise StartError(
            f"{federation.ca_file} is no file of certificates that can be used: "
            + _reason(error, *filter(None, [federation.ca_file]))
        ) from None


def unreadable_secrets(settings: Settings, *policies: Policy) -> list[Problem]:
    """What is wrong with the files of secrets that the configuration names."""
    registration = settings.registration
    named = [settings.signing_key, settings.deployment_secret, registration.shared_secret, registration.tokens]
    named.append(settings.policy_server.signing_key)
    named.append(None if settings.email is None else settings.email.password)
    named.append(None if settings.sms is None else settings.sms.secret)
    named += [provider.client_secret for provider in settings.identity_providers]
    named.append(None if settings.turn is None else settings.turn.secret)
    found: list[Problem] = []
    for secret in named:
        if secret is not None:
            try:
                read_secret(secret)
            except Faults as faults:
                found += faults.problems
    for policy in policies:
        found += places.unreadable_passwords(policy)
    return found


def unusable_certificates(settings: Settings) -> list[str]:
    """What is wrong with the certificates of the listeners, one sentence each."""
    found = []
    for listener in settings.listeners:
        if listener.tls is not None:
            try:
                ServerCertificate(listener.tls.certificate, listener.tls.key)
            except Exception as error:
                certificate, key = listener.tls.certificate, listener.tls.key
                reason = _reason(error, certificate, key)
                found.append(f"{certificate} and {key} are no certificate with its key that can be used: {reason}")
    return found


def _reason(error: Exception, *paths: Path) -> str:
    """Why a certificate cannot be used: the file that cannot be read, or what OpenSSL says, as a person says it."""
    for path in paths:
        try:
            path.read_bytes()
        except OSError as unreadable:
            return f"{path.name} cannot be read: {unreadable.strerror}"
    stack = error.args[0] if error.args else ()
    if not isinstance(stack, list | tuple):
        return str(error)
    said = [str(entry[-1]) for entry in stack if isinstance(entry, tuple) and entry]
    return ", ".join(words for words in said if words and words != "system lib") or "it cannot be read"


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


# serving ------------------------------------------------------------------------------------


@cache
def routes_of(*, federation: bool) -> Table[Server]:
    """Every endpoint; those for other servers only where there is federation."""
    packages = [endpoints, federation_endpoints] if federation else [endpoints]
    modules = [
        importlib.import_module(f"{package.__name__}.{found.name}")
        for package in packages
        for found in pkgutil.iter_modules(package.__path__)
    ]
    declared: Table[Server] = Table.of(*modules)
    return Table(counted(each) for each in declared.routes)


def site_of(server: Server) -> Site[Server]:
    """What answers requests."""
    settings = server.settings
    return Site(
        server,
        routes_of(federation=settings.federation.enabled),
        authenticate=partial(sessions.authenticate, server),
        identify=partial(sessions.identify, server),
        unlimited=lambda request: sessions.is_unlimited(server, request.token()),
        verify=partial(authentication.verify, server),
        observer=Metrics(server.telemetry),
        seconds=server.clock.monotonic,
        doors=server.nodes.directory.memory(Doors),
        limits=Limits(buckets(settings.rate_limits), server.clock.monotonic) if settings.rate_limits.enabled else None,
        max_body=settings.limits.max_body,
        max_federation_body=settings.limits.max_federation_body,
    )


def buckets(limits: RateLimits) -> dict[str, Bucket]:
    """The rate limits by name."""
    named = {field.name: getattr(limits, field.name) for field in fields(limits) if field.name != "enabled"}
    return {name: Bucket(limit.per_second, limit.burst) for name, limit in named.items()}


async def serve(
    settings: Settings, found: Policy | Faults, stop: asyncio.Event, reload: asyncio.Event, config: Path
) -> None:
    """Serve until ``stop`` is set; ``reload`` being set reads the residency policy, the application services and the
    certificates again. ``config``: the file of the settings.

    Raises what `opened` raises, and StartError for a listener that cannot be had.
    """
    if faults := unusable_certificates(settings):
        raise StartError("; ".join(faults))
    async with AsyncExitStack() as stack:
        server = replace(await stack.enter_async_context(opened(settings, found)), mover=WatchedMoves())
        bounds = settings.limits
        connections = Connections(
            server.clock, patience(bounds), _capacity(bounds.connections), unrecognised_in(server)
        )
        show_connections(server, connections)
        listening = Listening(site_of(server), connections, Bounds(head=bounds.max_headers))
        control = stack.enter_context(socket_in(settings.data_dir))
        control.unlink(missing_ok=True)
        await following.settle(server)
        try:
            listening.open(settings.listeners)
            listening.open_socket(control, [Resource.CONTROL.value], mode=0o600)
        except OSError as error:
            raise StartError(
                f"{str(error).rstrip('.')}: free the address, or choose another in [[listeners]]"
            ) from None
        add_jobs(server)
        server.jobs.start()
        memory.settle()
        watch = Watch(server)
        if isinstance(server.places, places.OpenPlaces):
            server.places.watch = watch
        reachable = [Public(address) for address in listening.addresses if not address.startswith("unix:")]
        log.info("residency policy in force", serial=server.policy.now.serial)
        log.info("ready", listening=reachable)
        if settings.conformance_mode:
            log.warning("conformance mode: plaintext is accepted; this server is for tests only")
        reloading = asyncio.ensure_future(_reload(server, listening, reload, config))
        try:
            await stop.wait()
        finally:
            log.info("stopping")
            server.wakeups.stop()
            reloading.cancel()
            await listening.close(SHUTDOWN)
            await applying.stop(server)
            await backing_up.stop(server)
            await closing.stop(server)
            await watch.stop()
            await asyncio.gather(reloading, return_exceptions=True)
            await server.jobs.stop(SHUTDOWN)
            await thumbnails.close(server)
    log.info("stopped")


def _capacity(wanted: int) -> int:
    """How many connections of clients there may be."""
    possible = open_files.room_for(wanted)
    if possible < wanted:
        log.warning("the system allows too few open files for limits.connections", wanted=wanted, possible=possible)
    return possible


async def _reload(server: Server, listening: Listening, asked: asyncio.Event, config: Path) -> None:
    while True:
        await asked.wait()
        asked.clear()
        try:
            await reload_policy(server)
        except Faults as faults:
            for problem in faults.problems:
                log.error("fault in the residency policy", fault=str(problem))
            log.error("the residency policy was not reloaded; the one before stays in force")
        except StartError as error:
            log.error("the residency policy was not reloaded; the one before stays in force", reason=str(error))
        except Exception:
            log.exception("the residency policy was not reloaded; the one before stays in force")
        try:
            await reload_services(server, config)
        except Faults as faults:
            for problem in faults.problems:
                log.error("fault in the application services", fault=str(problem))
            log.error("the application services were not reloaded; those before stay registered")
        except Exception:
            log.exception("the application services were not reloaded")
        try:
            listening.reload_certificates()
        except Exception as error:
            reason = "; ".join(unusable_certificates(server.settings)) or _reason(error)
            log.error("a certificate was not reloaded; the one before stays in use", reason=reason)
        else:
            log.info("certificates in use")


async def reload_services(server: Server, config: Path) -> None:
    """Read again which application services domicile.toml names, and their registrations; nothing else of it.

    Raises Faults.
    """
    settings, _ = load_apart(config)
    services = load_application_services(settings, server.policy.now)
    if set(services) != set(server.services):
        await registered.put_in_force(server, services)
    if replace(settings, application_services=()) != replace(server.settings, application_services=()):
        log.warning("domicile.toml has other changes, which hold after a restart")


async def reload_policy(server: Server) -> None:
    """Read residency.toml again and put it in force. Raises Faults, and StartError for what cannot simply be taken."""
    found = load_policy(server.settings.residency, server.name)
    if unreadable := unreadable_secrets(server.settings, found):
        raise Faults(unreadable)
    routes = server.nodes.directory.engine
    if server.nodes.directory.memory(applying.Applying).busy:
        raise StartError("a plan is being applied at the moment")
    try:
        policy, why = await taking.again(routes, server.identity, server.clock, server.policy.now, found)
    except (chain.BrokenChain, NotNewest) as broken:
        raise StartError(str(broken)) from None
    if why:
        raise StartError(why)
    server.policy.now = policy
    log.info("residency policy in force", serial=policy.serial)
