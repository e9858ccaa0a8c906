"""A federation list as a treaty keeps it, and a host that serves it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from homeserver.protocol import federation_lists
from homeserver.protocol.federation_lists import FORMAT
from homeserver.protocol.signing import SigningKey
from tests.matrix.servers import GERMANY
from tests.matrix.world import both_ways
from tests.network import Network

HOST = "lists.test"
URL = f"https://{HOST}/servers.json"
KEY = SigningKey("1", b"t" * 32)
OTHER = SigningKey("1", b"o" * 32)
DAY = 24 * 60 * 60 * 1000


def policy(*keys: SigningKey, url: str = URL, refresh: str = "1h", more: str = "") -> str:
    """A policy by which everything flows to and from Germany, and nothing to unknown places, and which believes the
    list of those keys."""
    believed = ", ".join(f'"{key.verify_key.base64}"' for key in keys or [KEY])
    listed = f'[federation_list]\nkeys = [{believed}]\nurl = "{url}"\nrefresh = "{refresh}"\n'
    return GERMANY + both_ways("IR", "DE", None) + listed + more


def peer(server: str, jurisdiction: str) -> str:
    """What the policy itself says of a server."""
    return f'[[peers]]\nserver = "{server}"\njurisdiction = "{jurisdiction}"\n'


@dataclass
class Treaty:
    """What the host serves: a list, which a test changes, or something else. ``fetched``: how often it was asked."""

    network: Network
    servers: dict[str, dict[str, Any]] = field(default_factory=dict)
    serial: int = 1
    days: int = 30
    status: int = 200
    raw: bytes | None = None
    fetched: int = 0
    issued: int = 0

    def __post_init__(self) -> None:
        self.issued = self.network.clock.now_ms()
        self.network.others[HOST] = self._answer

    def _answer(self, *_: object) -> tuple[int, bytes]:
        self.fetched += 1
        return self.status, self.signed() if self.raw is None else self.raw

    def document(self, **changed: Any) -> dict[str, Any]:
        """The list, without a signature."""
        return {
            "format": FORMAT,
            "name": "Test treaty",
            "serial": self.serial,
            "issued": self.issued,
            "valid_until": self.issued + self.days * DAY,
            "servers": self.servers,
            **changed,
        }

    def signed(self, *keys: SigningKey, **changed: Any) -> bytes:
        """The list as it is served."""
        made = self.document(**changed)
        for key in keys or [KEY]:
            made = federation_lists.signed(made, key)
        return orjson.dumps(made)

    def put(self, **servers: str) -> None:
        """Serve another list, with these servers of ``.test`` in these jurisdictions."""
        self.serial += 1
        self.issued = self.network.clock.now_ms()
        self.servers = {f"{name}.test": {"jurisdiction": code} for name, code in servers.items()}
