"""A deployment in the test's own process: two nodes in two jurisdictions, all routes, and no socket.

The fixture ``deployment`` runs a test once on SQLite and once on PostgreSQL. ``deploy`` makes one with other settings
or another policy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from config.load import load_application_services, policy_from_text, settings_from_text
from config.placement import Attributes
from federation import port
from homeserver.accounts import callers, registration
from homeserver.accounts.registration import NewAccount
from homeserver.accounts.sessions import DeviceWish
from homeserver.context import Caller, CurrentPolicy, Identity, Server
from homeserver.credentials import policy_key
from homeserver.protocol.signing import SigningKey
from homeserver.runtime.certificates import Trust
from homeserver.runtime.clock import Clock, FakeClock
from homeserver.runtime.doors import Doors
from homeserver.runtime.jobs import Jobs
from homeserver.runtime.names import SystemNames
from homeserver.runtime.outbound import Outbound
from homeserver.runtime.telemetry import Telemetry
from homeserver.runtime.wakeups import Wakeups
from homeserver.storage import migrate
from homeserver.storage.directory import Directory
from homeserver.storage.migrate import Migration
from homeserver.storage.nodes import Node, Nodes
from homeserver.web.limits import Bucket, Limits
from homeserver.web.routes import Table
from homeserver.web.site import Site
from tests import openapi
from tests.conformance import endpoint_modules
from tests.support import Databases, finish

NAME = "example.org"
PASSWORD = "correct horse battery"

SETTINGS = f"""
server_name = "{NAME}"
public_base_url = "https://matrix.example.org"
[registration]
mode = "open"
[passwords]
time_cost = 1
memory_cost = 8
parallelism = 1
[rate_limits]
enabled = false
"""

POLICY = """
format = 1
serial = 1
[jurisdictions.IR]
name = "Iran"
[jurisdictions.FR]
name = "France"
[nodes.tehran]
jurisdiction = "IR"
database = "sqlite:tehran/node.db"
media = "file:tehran/media"
[nodes.paris]
jurisdiction = "FR"
database = "sqlite:paris/node.db"
media = "file:paris/media"
[[pins]]
token = "fr-*"
node = "paris"
[default]
node = "tehran"
"""
"""No flows: nothing crosses the border."""


def flow(source: str, *targets: str, classes: Sequence[str] = ("*",)) -> str:
    """Words of a policy: data of some classes may flow from a jurisdiction to others, and nobody is asked."""
    to, carried = (orjson.dumps(names).decode().replace(",", ", ") for names in (targets, classes))
    return f'[[flows]]\nfrom = "{source}"\nto = {to}\nclasses = {carried}\nconsent = false\n'


FLOWING = POLICY + flow("IR", "FR") + flow("FR", "IR")
"""Everything that may flows both ways."""


@dataclass(frozen=True)
class Answer:
    """What a request was answered with. ``json`` is its body, an object."""

    status: int
    json: dict[str, Any]

    @property
    def errcode(self) -> str | None:
        """The Matrix errcode."""
        return self.json.get("errcode")


@dataclass
class Observed:
    """The faults of ours that were answered with a 500."""

    faults: list[BaseException] = field(default_factory=list)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Nothing to do."""

    def failed(self, method: str, route: str, error: BaseException) -> None:
        """Remember the fault: the test fails for it when it ends."""
        self.faults.append(error)


@dataclass
class User:
    """Somebody who is logged in."""

    deployment: Deployment
    user_id: str
    device_id: str
    token: str

    async def caller(self) -> Caller:
        """Who they are to services."""
        return await callers.authenticate(self.deployment.server, self.token)

    async def asks(self, method: str, path: str, body: object = None, **query: str) -> Answer:
        """Make a request; ``path`` is used as it is."""
        return await self.deployment.asked(method, path, body, token=self.token, **query)


class Deployment:
    """A running deployment."""

    def __init__(self, server: Server, site: Site[Server], observed: Observed) -> None:
        self.server = server
        self.site = site
        self.observed = observed

    def node(self, name: str) -> Node:
        """A node by name: ``tehran`` or ``paris``."""
        return self.server.nodes[name]

    @property
    def clock(self) -> FakeClock:
        """The clock, when it is one that the test moves."""
        assert isinstance(self.server.clock, FakeClock)
        return self.server.clock

    async def asked(
        self, method: str, path: str, body: object = None, *, token: str | None = None, **query: str
    ) -> Answer:
        """Answer a request; ``body`` is JSON, or bytes as they are. The answer must have the form that is specified."""
        raw = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        if query:
            path += "?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        response = await self.site.call(method, path, headers=headers, body=raw, address="127.0.0.1")
        content = response.body
        if not isinstance(content, bytes):
            assert isinstance(content, list | tuple)
            content = b"".join(content)
        assert self.answer_faults(method, path.partition("?")[0], response.status, content) == []
        return Answer(response.status, orjson.loads(content))

    def answer_faults(self, method: str, path: str, status: int, content: bytes) -> list[str]:
        """How an answer differs from what the specification says of it."""
        if status >= 400:
            return list(openapi.error_faults(status, content))
        operation = openapi.operation(method, self.site.table.match(method, path)[0].path)
        if operation is None or not operation.gives_json(status):
            return []
        return list(operation.answer_faults(status, orjson.loads(content)))

    async def user(self, localpart: str, node: str = "tehran", *, admin: bool = False) -> User:
        """Make an account on a node and log in; the password is PASSWORD."""
        made = await registration.register(
            self.server,
            NewAccount(
                localpart=localpart,
                password=PASSWORD,
                attributes=Attributes(node=node),
                admin=admin,
                device=DeviceWish(display_name=f"{localpart}'s phone"),
            ),
        )
        assert made.login is not None
        return User(self, made.user_id, made.login.device_id, made.login.access_token)

    async def login(self, user: User, **body: object) -> Answer:
        """Log in once more by password."""
        identifier = {"type": "m.id.user", "user": user.user_id}
        asked = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD, **body}
        return await self.asked("POST", "/_matrix/client/v3/login", asked)


Deploy = Callable[..., Awaitable[Deployment]]


# What is the same for every deployment of this process, and is never changed.


@cache
def migrations(database: str) -> tuple[Migration, ...]:
    """The migrations of a ``node`` or of the ``directory``."""
    return migrate.load(files("homeserver.storage") / "schema" / database)


@cache
def routes_of_homeserver() -> Table[Server]:
    """The routes of every endpoint but the federation's."""
    return Table.of(*(module for module in endpoint_modules() if module.__name__.startswith("homeserver.")))


@cache
def system_trust() -> Trust:
    """The authorities that the system believes: reading them takes milliseconds."""
    return Trust()


async def start(
    databases: Databases, *, settings: str = SETTINGS, policy: str = POLICY, clock: Clock | None = None
) -> Deployment:
    """Start a deployment on these databases; a second one on the same databases finds what the first one left."""
    clock = clock or FakeClock()
    read = settings_from_text(settings, str(databases.directory / "domicile.toml"))
    rules = policy_from_text(policy, "residency.toml", read.server_name)
    nodes = []
    for place in rules.nodes.values():
        engine = await databases.open(place.name, migrations("node"))
        node = Node(place.name, place.jurisdiction, engine, Path(databases.directory, place.name, "media"))
        await node.start()
        nodes.append(node)
    routes = await databases.open("directory", migrations("directory"))
    telemetry = Telemetry()
    server = Server(
        settings=read,
        policy=CurrentPolicy(rules),
        identity=Identity(
            read.server_name, SigningKey("test", b"k" * 32), b"s" * 32, policy_key=policy_key(read, b"s" * 32)
        ),
        nodes=Nodes(nodes, Directory(routes, b"d" * 32), read.server_name),
        clock=clock,
        wakeups=Wakeups(clock),
        jobs=Jobs(clock, telemetry),
        telemetry=telemetry,
        outbound=Outbound(SystemNames(), system_trust(), clock, telemetry),
        remote=port,
        services=load_application_services(read, rules),
    )
    observed = Observed()
    site = Site(
        server,
        routes_of_homeserver(),
        authenticate=lambda token: callers.authenticate(server, token),
        identify=partial(callers.identify, server) if server.services else None,
        unlimited=lambda request: callers.is_unlimited(server, request.token()),
        doors=server.nodes.directory.memory(Doors),
        observer=observed,
        seconds=clock.monotonic,
        limits=Limits(_buckets(server), clock.monotonic) if read.rate_limits.enabled else None,
    )
    return Deployment(server, site, observed)


def _buckets(server: Server) -> dict[str, Bucket]:
    limits = server.settings.rate_limits
    names = [name for name in limits.__dataclass_fields__ if name != "enabled"]
    return {name: Bucket(getattr(limits, name).per_second, getattr(limits, name).burst) for name in names}


@pytest.fixture
def deploy(engines: Databases) -> Iterator[Deploy]:
    """What starts deployments (see `start`); a test fails when one of them answered with a 500."""
    started: list[Deployment] = []

    async def start_one(**kwargs: Any) -> Deployment:
        made = await start(engines, **kwargs)
        started.append(made)
        return made

    yield start_one
    assert [fault for made in started for fault in made.observed.faults] == []


@pytest.fixture
def deployment(deploy: Deploy) -> Deployment:
    """A deployment whose policy lets nothing flow."""

    async def one() -> Deployment:
        return await deploy()

    return finish(one())
