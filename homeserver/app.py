"""The composition root: from two files of configuration to a server that answers.

The only file that knows every service: it opens the databases, registers the jobs, collects the routes, and listens.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import pkgutil
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import fields, replace
from functools import cache, partial
from typing import TYPE_CHECKING

import structlog

from config.load import load_apart, load_application_services, load_policy
from config.problems import Faults
from federation import authentication, port
from federation import endpoints as federation_endpoints
from federation.accounting import counted
from homeserver import credentials, endpoints, metrics, places
from homeserver.accounts import callers
from homeserver.application_services.sending import registered
from homeserver.archives import backing_up
from homeserver.context import CurrentPolicy, Identity, Server
from homeserver.control_socket import socket_in
from homeserver.credentials import StartError
from homeserver.jobs import Watch, add_jobs
from homeserver.media import store, thumbnails
from homeserver.passport import build
from homeserver.residency import isolation
from homeserver.residency.changes import applying, chain, recovering, taking
from homeserver.residency.changes.moving import WatchedMoves
from homeserver.residency.listing import holding, pulling
from homeserver.residency.moves import following
from homeserver.residency.proofs import auditing
from homeserver.residency.withdrawing import announcing, closing
from homeserver.runtime import memory, open_files
from homeserver.runtime.clock import SystemClock
from homeserver.runtime.doors import Doors
from homeserver.runtime.jobs import Jobs
from homeserver.runtime.names import SystemNames
from homeserver.runtime.outbound import Outbound
from homeserver.runtime.telemetry import Public, Telemetry
from homeserver.runtime.wakeups import Wakeups
from homeserver.sealing import noticing, writing
from homeserver.storage import directory, users
from homeserver.storage.circuit import Unreachable
from homeserver.storage.connect import engine_for, peek
from homeserver.storage.nodes import Nodes
from homeserver.storage.policy_versions import NotNewest
from homeserver.transparency import peers, serving, statements
from homeserver.web.connections import Connections
from homeserver.web.limits import Bucket, Limits
from homeserver.web.parsing import Bounds
from homeserver.web.routes import Resource, Table
from homeserver.web.server import Listening, patience
from homeserver.web.site import Site

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from config.policy import Policy
    from config.residency import NodePlace
    from config.sections.rate_limits import RateLimits
    from config.settings import Settings
    from homeserver.runtime.clock import Clock
    from homeserver.storage.engine import Engine

log = structlog.get_logger("app")

SHUTDOWN = 10.0
"""Seconds that requests and jobs get to end."""


# resources ----------------------------------------------------------------------------------


@asynccontextmanager
async def opened(settings: Settings, found: Policy | Faults, clock: Clock | None = None) -> AsyncIterator[Server]:
    """The resources of a deployment, its databases open (or down, if they cannot be reached), and closed at the end.

    ``found``: the policy that stands in residency.toml, or what is wrong with it; which one holds is said by
    `residency.changes.taking`. A database that was never there is made; one that was, and is gone, stays down. Raises
    StartError, SchemaMismatch, OSError for a data directory that cannot be used, and Faults for secrets that cannot be
    read, and for a residency.toml that has some where nothing else can be in force.
    """
    if unreadable := credentials.unreadable_secrets(settings, *([] if isinstance(found, Faults) else [found])):
        raise Faults(unreadable)
    key, *further_keys = credentials.signing_keys(settings)
    trust = credentials.trusted(settings)
    clock = clock or SystemClock()
    telemetry = Telemetry()
    secret, fresh = credentials.deployment_secret(settings)
    async with AsyncExitStack() as stack:
        routes = await _opened_directory(stack, settings, clock, new=fresh)
        identity = credentials.identity_of(settings, secret, key, *further_keys)
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
            nodes=Nodes(
                nodes, directory.Directory(routes, credentials.derived(secret, "directory")), settings.server_name
            ),
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
        for load in (isolation.load, announcing.load, holding.load):
            await load(server)
        for show in (metrics.show, auditing.show, serving.show, peers.show, holding.show):
            show(server)
        yield server


async def _opened_directory(stack: AsyncExitStack, settings: Settings, clock: Clock, *, new: bool) -> Engine:
    """The directory's database, which is closed with the stack. ``new``: there may be none yet. Raises StartError."""
    routes = engine_for(
        "directory",
        f"sqlite:{credentials.DIRECTORY}",
        places.migrations("directory"),
        root=settings.data_dir,
        clock=clock,
        sizes=places.sizes(settings),
    )
    stack.push_async_callback(routes.close)
    known = (settings.data_dir / credentials.DIRECTORY).exists()
    await routes.open(create=new or not (known or _something_founded(settings)))
    if not routes.health().up:
        raise StartError(f"the directory of users cannot be opened: {routes.health().reason}; restore it from a backup")
    return routes


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
    if unreadable := credentials.unreadable_secrets(settings, policy):
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


def _something_founded(settings: Settings) -> bool:
    """Whether a node was ever made here: then a missing directory is not made anew."""
    return any(settings.data_dir.glob("*/node.db"))


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
        authenticate=partial(callers.authenticate, server),
        identify=partial(callers.identify, server),
        unlimited=lambda request: callers.is_unlimited(server, request.token()),
        verify=partial(authentication.verify, server),
        notice=partial(noticing.notice, server),
        observer=metrics.Metrics(server.telemetry),
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
    if faults := credentials.unusable_certificates(settings):
        raise StartError("; ".join(faults))
    async with AsyncExitStack() as stack:
        server = replace(await stack.enter_async_context(opened(settings, found)), mover=WatchedMoves())
        bounds = settings.limits
        connections = Connections(
            server.clock, patience(bounds), _capacity(bounds.connections), metrics.unrecognised_in(server)
        )
        metrics.show_connections(server, connections)
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
        server.jobs.add("make shelves for media", partial(store.prepare_all, server))
        server.jobs.start()
        server.jobs.poke("make shelves for media")
        memory.settle()
        watch = Watch(server)
        if isinstance(server.places, places.OpenPlaces):
            server.places.watch = watch
        reachable = [Public(address) for address in listening.addresses if not address.startswith("unix:")]
        log.info("residency policy in force", serial=server.policy.now.serial)
        log.info("program", build=await asyncio.to_thread(build.running))
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
            await pulling.stop(server)
            await watch.stop()
            await asyncio.gather(reloading, return_exceptions=True)
            await server.jobs.stop(SHUTDOWN)
            await writing.seal_last(server)
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
            reason = "; ".join(credentials.unusable_certificates(server.settings)) or credentials.reason_of(error)
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
    if unreadable := credentials.unreadable_secrets(server.settings, found):
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
    statements.wake(server)
    log.info("residency policy in force", serial=policy.serial)
