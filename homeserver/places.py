"""From a node's place in the policy to the node, open: when the deployment is opened, and while it runs."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

from config.load import load_application_services, read_secret
from config.problems import Faults
from homeserver.protocol.errors import NodeUnavailable
from homeserver.storage import directory, migrate
from homeserver.storage.connect import Sizes, engine_for
from homeserver.storage.nodes import Node

if TYPE_CHECKING:
    from config.policy import Policy
    from config.problems import Problem
    from config.residency import NodePlace
    from config.settings import Settings
    from homeserver.context import Server
    from homeserver.jobs import Watch
    from homeserver.runtime.clock import Clock
    from homeserver.storage.engine import Engine


def address_of(place: NodePlace) -> str:
    """The address of a node's database, with its password."""
    if place.password is None:
        return place.database
    parts = urlsplit(place.database)
    user, _, host = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}:{quote(read_secret(place.password), safe='')}@{host}"
    return urlunsplit(parts._replace(netloc=netloc))


def migrations(kind: str) -> tuple[migrate.Migration, ...]:
    """The migrations of a kind of database, ``directory`` or ``node``."""
    return migrate.load(files("homeserver.storage") / "schema" / kind)


def sizes(settings: Settings) -> Sizes:
    """What each database may take."""
    return Sizes(settings.storage.readers, settings.storage.cache, settings.storage.connections)


def unreadable_passwords(policy: Policy) -> list[Problem]:
    """What is wrong with the files of passwords that a policy names."""
    found: list[Problem] = []
    for place in policy.nodes.values():
        if place.password is not None:
            try:
                read_secret(place.password)
            except Faults as faults:
                found += faults.problems
    return found


class OpenPlaces:
    """The nodes that are open. A database that was never there is made; one that was, and is gone, stays down.

    ``watch``, once requests are answered: what runs for each node.
    """

    def __init__(self, settings: Settings, routes: Engine, clock: Clock) -> None:
        self._settings = settings
        self._routes = routes
        self._clock = clock
        self._engines: dict[str, Engine] = {}
        self.watch: Watch | None = None

    @property
    def serving(self) -> bool:
        """See `Places.serving`."""
        return self.watch is not None

    def faults(self, policy: Policy) -> list[str]:
        """See `Places.faults`."""
        found = [str(problem) for problem in unreadable_passwords(policy)]
        try:
            load_application_services(self._settings, policy)
        except Faults as faults:
            found += [str(problem) for problem in faults.problems]
        return found

    def address(self, place: NodePlace) -> str:
        """See `Places.address`."""
        return address_of(place)

    async def node(self, place: NodePlace) -> Node:
        """The node of a place, open, or down if its database cannot be reached. Raises SchemaMismatch."""
        new = place.name not in await self._routes.read(directory.founded)
        engine = engine_for(
            place.name,
            address_of(place),
            migrations("node"),
            root=self._settings.data_dir,
            clock=self._clock,
            sizes=sizes(self._settings),
        )
        self._engines[place.name] = engine
        await engine.open(create=new)
        if new and engine.health().up:
            await self._routes.write(directory.found, place.name)
        return Node(place.name, place.jurisdiction, engine, place.media_path(self._settings.data_dir))

    async def open(self, server: Server, place: NodePlace) -> Node:
        """See `Places.open`."""
        try:
            node = await self.node(place)
        except BaseException:
            await self._let_go(place.name)
            raise
        if not node.engine.health().up:
            await self._let_go(place.name)
            raise NodeUnavailable(place.name)
        server.nodes.add(node)
        if self.watch is not None:
            self.watch.admit(node)
        return node

    async def close(self, server: Server, name: str) -> None:
        """See `Places.close`."""
        server.nodes.remove(name)
        if self.watch is not None:
            await self.watch.dismiss(name)
        await self._let_go(name)

    async def close_all(self) -> None:
        """Let go of all databases."""
        for name in list(self._engines):
            await self._let_go(name)

    async def _let_go(self, name: str) -> None:
        engine = self._engines.pop(name, None)
        if engine is not None:
            await engine.close()
