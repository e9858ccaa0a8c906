"""Several Domiciles in one process, that reach each other over real TLS in an internet of the test's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from config.sections.serving import Listener
from homeserver import app
from homeserver.context import Identity, Server
from homeserver.protocol.signing import SigningKey, sign_json
from homeserver.runtime.clock import FakeClock
from homeserver.web.connections import Connections
from homeserver.web.routes import Route, Table
from homeserver.web.server import Listening, patience
from homeserver.web.site import Site
from tests.deployment import SETTINGS, Answer, Deployment, Observed, start
from tests.federation.authority import Authority, Script, Stranger, says
from tests.federation.internet import Internet, Wired
from tests.support import Databases, finish


class Town(Deployment):
    """A Domicile with a name of its own, that others reach at port 8448."""

    def __init__(self, server: Server, site: Site[Server], observed: Observed, listening: Listening) -> None:
        super().__init__(server, site, observed)
        self.listening = listening

    @property
    def name(self) -> str:
        """Its server name."""
        return self.server.name

    @property
    def key(self) -> SigningKey:
        """What it signs with."""
        return self.server.identity.key

    async def signed(self, method: str, path: str, body: bytes, header: str | None) -> Answer:
        """Answer a request with this header ``Authorization``."""
        headers = {} if header is None else {"Authorization": header}
        response = await self.site.call(method, path, headers=headers, body=body, address="127.0.0.1")
        assert isinstance(response.body, bytes)
        return Answer(response.status, orjson.loads(response.body))


@dataclass
class World:
    """Everything that there is: an internet, an authority, one clock, and who was founded so far."""

    databases: Databases
    authority: Authority
    internet: Internet
    clock: FakeClock
    towns: list[Town]
    strangers: list[Stranger]
    more: list[Databases]

    async def town(
        self, name: str, federation: str = "", *, keys: int = 1, routes: Iterable[Route[Server]] = ()
    ) -> Town:
        """Found a Domicile; ``federation`` are further lines of that table of its settings, ``routes`` further ones."""
        directory = self.databases.directory / name
        directory.mkdir()
        databases = Databases(self.databases.kind, directory, self.databases._url)
        self.more.append(databases)
        settings = SETTINGS.replace("example.org", name) + f"[federation]\n{federation}\n"
        made = await start(databases, settings=settings, clock=self.clock)
        first, *further = (signing_key(f"{name} {number}") for number in range(keys))
        server = replace(
            made.server,
            identity=Identity(name, first, b"s" * 32, tuple(further)),
            outbound=Wired(self.internet, self.authority, self.clock, made.server.telemetry),
        )
        site, observed = app.site_of(server), Observed()
        site.observer = observed
        site.table = Table([*site.table.routes, *routes])
        limits = server.settings.limits
        listening = Listening(site, Connections(self.clock, patience(limits), limits.connections))
        listening.open([Listener(port=0, tls=self.authority.issue(name), resources=("federation",))])
        self.internet.put(name, 8448, int(listening.addresses[0].rpartition(":")[2]))
        self.towns.append(Town(server, site, observed, listening))
        return self.towns[-1]

    async def stranger(self, name: str, script: Script, port: int = 8448, *names: str) -> Stranger:
        """Somebody else who answers at a name, as a script says; the certificate is for ``names``, or the name."""
        made = Stranger(self.authority.issue(*(names or (name,))), script)
        self.strangers.append(made)
        self.internet.put(name, port, await made.open())
        return made

    async def end(self) -> None:
        """Close everything."""
        for town in self.towns:
            await town.server.outbound.close()
        for town in self.towns:
            await town.listening.close()
        for stranger in self.strangers:
            await stranger.close()
        for databases in self.more:
            await databases.close()


def signing_key(word: str) -> SigningKey:
    """A key that belongs to a word; its id too."""
    digest = hashlib.sha256(word.encode()).digest()
    return SigningKey("k" + digest.hex()[:6], digest)


def document(name: str, *keys: SigningKey, until: int, **more: Any) -> dict[str, Any]:
    """What a server with these keys says, signed by all of them."""
    made: dict[str, Any] = {
        "server_name": name,
        "verify_keys": {key.key_id: {"key": key.verify_key.base64} for key in keys},
        "old_verify_keys": {},
        "valid_until_ts": until,
        **more,
    }
    for key in keys:
        made = sign_json(made, name, key)
    return made


def telling(made: object) -> Script:
    return says(orjson.dumps(made))


def query(server_name: str) -> str:
    """The path that asks a notary for the keys of a server."""
    return f"/_matrix/key/v2/query/{quote(server_name, safe='')}"


def inhabited(databases: Databases, tmp_path: Path) -> Iterator[World]:
    """An empty world; a test fails when a town answered with a 500."""
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    made = World(databases, Authority(certificates), Internet(), FakeClock(), [], [], [])
    yield made
    finish(made.end())
    faults: list[Any] = [fault for town in made.towns for fault in town.observed.faults]
    assert faults == []


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world on SQLite, for what does not depend on the database."""
    yield from inhabited(Databases("sqlite", tmp_path), tmp_path)


@pytest.fixture
def either_world(engines: Databases, tmp_path: Path) -> Iterator[World]:
    """A world on SQLite, and one on PostgreSQL."""
    yield from inhabited(engines, tmp_path)
