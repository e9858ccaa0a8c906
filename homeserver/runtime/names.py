"""What DNS says: addresses of hosts, and the servers of a service. The answers are bounded, and none is believed to
be safe to connect to (outbound.py judges each address)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any, Final, NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as NoAnswer
from twisted.internet.error import CannotListenError
from twisted.names import client, dns, hosts, resolve
from twisted.names.error import DNSNameError, ResolverError

from homeserver.runtime.addresses import Address

PATIENCE: Final = (1, 2, 4)
"""Seconds that each attempt to get an answer waits."""
MOST: Final = 16
"""Records of one answer that are looked at."""

_RESOLVER: Any = client.Resolver  # the constructors of twisted.names are untyped
_CHAIN: Any = resolve.ResolverChain
_HOSTS: Any = hosts.Resolver


class NamesUnavailable(Exception):
    """DNS gave no answer, so that nothing is known; the text says why."""


class Service(NamedTuple):
    """One SRV record. ``host`` is empty when the domain says that it has no such service."""

    priority: int
    weight: int
    host: str
    port: int


class Names(Protocol):
    """What looks names up."""

    async def addresses(self, host: str) -> list[Address]:
        """The addresses of a host, in the order in which to try them; none when it does not exist.

        Raises NamesUnavailable.
        """
        ...

    async def services(self, name: str) -> list[Service]:
        """The SRV records of a name such as ``_matrix-fed._tcp.example.org``; none when there are none.

        Raises NamesUnavailable.
        """
        ...


class SystemNames:
    """The machine's file of hosts, and the name servers of its resolv.conf; ``servers`` instead of those if given."""

    def __init__(self, servers: Sequence[tuple[str, int]] = ()) -> None:
        self._servers = list(servers)
        self._made: Any = None

    async def addresses(self, host: str) -> list[Address]:
        """See `Names`. IPv4 comes first: a machine whose IPv6 leads nowhere would wait for it at each connection."""
        asked = self._chain
        lookups = (_asked(asked.lookupAddress, host), _asked(asked.lookupIPV6Address, host))
        both: Sequence[list[Any] | BaseException] = await asyncio.gather(*lookups, return_exceptions=True)
        faults = [fault for fault in both if isinstance(fault, BaseException)]
        found = [record for records in both if isinstance(records, list) for record in records]
        if faults and not found:
            raise faults[0]
        return [ip_address(bytes(record.address)) for record in found if record.TYPE in (dns.A, dns.AAAA)]

    async def services(self, name: str) -> list[Service]:
        """See `Names`."""
        return [
            Service(record.priority, record.weight, record.target.name.decode("ascii", "replace"), record.port)
            for record in await _asked(self._chain.lookupService, name)
            if isinstance(record, dns.Record_SRV)
        ]

    @property
    def _chain(self) -> Any:
        if self._made is None:  # not before: it takes the reactor, which a process chooses when it starts
            asking = _RESOLVER(None if self._servers else "/etc/resolv.conf", self._servers, PATIENCE)
            self._made = _CHAIN([_HOSTS(), asking])
        return self._made


async def _asked(lookup: Callable[[str], Deferred[Any]], name: str) -> list[Any]:
    """The records of the answer; none when the name, or the kind of record, does not exist."""
    try:
        answers, _, _ = await lookup(name).asFuture(asyncio.get_running_loop())
    except DNSNameError:
        return []
    except (NoAnswer, ResolverError, CannotListenError, OSError, ValueError) as fault:  # most are ValueErrors
        raise NamesUnavailable(f"{name} could not be looked up: {type(fault).__name__}") from None
    return [answer.payload for answer in answers[:MOST]]
