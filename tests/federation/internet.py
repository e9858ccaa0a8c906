"""An internet of the test's own: names with addresses that look public, all of which are ports of 127.0.0.1."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from twisted.internet.interfaces import IStreamClientEndpoint

from homeserver.runtime.addresses import Address, Network
from homeserver.runtime.certificates import Trust
from homeserver.runtime.clock import Clock, SystemClock
from homeserver.runtime.names import NamesUnavailable, Service
from homeserver.runtime.outbound import Outbound
from homeserver.runtime.telemetry import Telemetry
from tests.federation.authority import Authority


@dataclass
class Internet:
    """Names, and where their ports really are. ``lookups`` are the names that DNS was asked for, in order."""

    hosts: dict[str, list[str]] = field(default_factory=dict)
    srv: dict[str, list[Service]] = field(default_factory=dict)
    ports: dict[tuple[str, int], int] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    lookups: list[str] = field(default_factory=list)
    dialled: list[tuple[str, int]] = field(default_factory=list)

    def put(self, host: str, port: int, really: int) -> None:
        """Let a host answer on a port."""
        address = self.hosts.setdefault(host, [f"8.0.0.{len(self.hosts) + 1}"])[0]
        self.ports[address, port] = really

    async def addresses(self, host: str) -> list[Address]:
        """See `homeserver.runtime.names.Names`."""
        self.lookups.append(host)
        if host in self.failing:
            raise NamesUnavailable(host)
        return [ip_address(address) for address in self.hosts.get(host, [])]

    async def services(self, name: str) -> list[Service]:
        """See `homeserver.runtime.names.Names`."""
        self.lookups.append(name)
        if name in self.failing:
            raise NamesUnavailable(name)
        return self.srv.get(name, [])


class Wired(Outbound):
    """An `Outbound` whose sockets lead into an `Internet`."""

    def __init__(
        self,
        internet: Internet,
        authority: Authority,
        clock: Clock | None = None,
        telemetry: Telemetry | None = None,
        allowed: Iterable[Network] = (),
    ) -> None:
        self.internet = internet
        self.telemetry = telemetry or Telemetry()
        super().__init__(internet, Trust(authority.ca_file), clock or SystemClock(), self.telemetry, allowed)

    def _endpoint(self, address: Address, port: int) -> IStreamClientEndpoint:
        self.internet.dialled.append((str(address), port))
        really = self.internet.ports.get((str(address), port))
        return super()._endpoint(ip_address("127.0.0.1"), 1 if really is None else really)
