"""``domicile check``: what would keep a deployment from serving, beyond faults in its files. It changes nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from config.load import load_application_services
from config.problems import Faults
from homeserver import credentials, places
from homeserver.protocol import policy_chain
from homeserver.protocol.policy_chain import Link
from homeserver.residency.changes import chain
from homeserver.storage import directory, migrate, policy_versions
from homeserver.storage.circuit import Unreachable
from homeserver.storage.connect import peek

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from config.policy import Policy
    from config.residency import NodePlace
    from config.settings import Settings


async def problems(settings: Settings, policy: Policy) -> list[str]:
    """Everything that is wrong, one sentence each."""
    found = [str(problem) for problem in credentials.unreadable_secrets(settings, policy)]
    for usable in (
        credentials.signing_keys,
        credentials.trusted,
        lambda settings: credentials.policy_key(settings, b""),
    ):
        try:
            usable(settings)
        except credentials.StartError as error:
            found.append(str(error))
        except Faults:
            pass  # one of the unreadable secrets
    try:
        load_application_services(settings, policy)
    except Faults as faults:
        found += [str(problem) for problem in faults.problems]
    found += filter(None, [credentials.lost_secret(settings)])
    found += await _versions(settings)
    found += credentials.unusable_certificates(settings)
    found += _folders(settings, policy)
    found += [line async for line in _databases(settings, policy)]
    return found


async def _versions(settings: Settings) -> list[str]:
    """What is wrong with the chain of the policy's versions."""
    if not (settings.data_dir / credentials.DIRECTORY).exists():
        return []
    try:
        secret = credentials.known_secret(settings)
        if secret is None:
            return []
        identity = credentials.identity_of(settings, secret, *credentials.signing_keys(settings))
        here = f"sqlite:{credentials.DIRECTORY}"
        rows = await peek(here, "policy_versions", policy_versions.ALL, root=settings.data_dir)
    except (credentials.StartError, Faults, OSError, Unreachable):
        return []  # which is said elsewhere
    links = [Link(serial, bytes(record), text) for serial, record, text in rows]
    key = identity.residency_key.verify_key
    return chain.worded(policy_chain.chain_faults(links, settings.server_name, key))


def _folders(settings: Settings, policy: Policy) -> Iterator[str]:
    yield from _folder("data_dir", settings.data_dir)
    for place in policy.nodes.values():
        yield from _folder(f"node {place.name}: media", place.media_path(settings.data_dir))
        if place.engine == "sqlite":
            yield from _folder(f"node {place.name}: database", place.database_path(settings.data_dir).parent)


def _folder(what: str, path: Path) -> Iterator[str]:
    """Can the server write there, or make the directory?"""
    there = next(step for step in (path, *path.parents) if step.exists())
    if not there.is_dir():
        yield f"{what}: {there} is not a directory"
    elif not os.access(there, os.W_OK | os.X_OK):
        yield f"{what}: {there} cannot be written to by this user"


async def _databases(settings: Settings, policy: Policy) -> AsyncIterator[str]:
    """Does each answer, belong to its node, and have a schema that this program knows?"""
    root = settings.data_dir
    founded: set[str] = set()
    if (root / credentials.DIRECTORY).exists():
        here = f"sqlite:{credentials.DIRECTORY}"
        try:
            ledger = await peek(here, "migrations", migrate.READ, root=root)
            migrate.pending("directory", places.migrations("directory"), ledger, create=False)
            founded = {name for (name,) in await peek(here, "founded_nodes", directory.FOUNDED, root=root)}
        except (Unreachable, migrate.SchemaMismatch) as fault:
            yield f"the directory of users: {_line(fault)}"
    for place in policy.nodes.values():
        try:
            await _database(place, settings, place.name in founded)
        except (Unreachable, migrate.SchemaMismatch) as fault:
            yield f"node {place.name}: {_line(fault)}"
        except Faults:
            pass  # its password is one of the unreadable secrets


async def _database(place: NodePlace, settings: Settings, founded: bool) -> None:
    if place.engine == "sqlite" and not place.database_path(settings.data_dir).exists():
        if founded:
            raise Unreachable(f"{place.database_path(settings.data_dir)} is gone: restore it from a backup")
        return
    ledger = await peek(places.address_of(place), "migrations", migrate.READ, root=settings.data_dir)
    migrate.pending(place.name, places.migrations("node"), ledger, create=not founded)


def _line(fault: Exception) -> str:
    return " ".join(str(fault).split())
