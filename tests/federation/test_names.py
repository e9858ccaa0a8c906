"""DNS, asked of a real name server on 127.0.0.1."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

import pytest
from twisted.internet import defer
from twisted.names import common, dns, error, server

from homeserver.runtime.names import MOST, NamesUnavailable, Service, SystemNames
from tests.support import aio

A: Any = dns.Record_A  # the constructors of twisted.names are untyped
AAAA: Any = dns.Record_AAAA
SRV: Any = dns.Record_SRV
CNAME: Any = dns.Record_CNAME


class Zone(common.ResolverBase):
    """Answers with records; a name without any does not exist, one with an exception fails with it."""

    def __init__(self, records: dict[str, list[Any] | Exception]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.records = records

    def _lookup(self, name: bytes, cls: int, kind: int, timeout: object) -> defer.Deferred[Any]:
        found = self.records.get(name.decode())
        if found is None:
            return defer.fail(error.DNSNameError(name))
        if isinstance(found, Exception):
            return defer.fail(found)
        header: Any = dns.RRHeader
        answers = [
            header(name, record.TYPE, dns.IN, 60, record) for record in found if record.TYPE in (kind, dns.CNAME)
        ]
        return defer.succeed((answers, [], []))


@asynccontextmanager
async def zone(records: dict[str, list[Any] | Exception]) -> AsyncIterator[SystemNames]:
    from twisted.internet import reactor

    listening: Any = reactor
    factory: Any = server.DNSServerFactory
    protocol: Any = dns.DNSDatagramProtocol
    port = listening.listenUDP(0, protocol(factory(clients=[Zone(records)])), interface="127.0.0.1")
    try:
        yield SystemNames([("127.0.0.1", port.getHost().port)])
    finally:
        port.stopListening()


@aio
async def test_addresses_of_both_kinds() -> None:
    records: dict[str, list[Any] | Exception] = {
        "a.test": [AAAA("2001:db8::1"), A("192.0.2.1"), A("192.0.2.2")],
        "six.test": [AAAA("2001:db8::6")],
        "alias.test": [CNAME("a.test"), A("192.0.2.1")],
        "empty.test": [],
    }
    async with zone(records) as names:
        assert await names.addresses("a.test") == [
            ip_address(text) for text in ("192.0.2.1", "192.0.2.2", "2001:db8::1")
        ]
        assert await names.addresses("six.test") == [ip_address("2001:db8::6")]
        assert await names.addresses("alias.test") == [ip_address("192.0.2.1")]
        assert await names.addresses("empty.test") == []
        assert await names.addresses("absent.test") == []
        assert ip_address("127.0.0.1") in await names.addresses("localhost")  # of the file of hosts


@aio
async def test_a_large_answer_is_cut() -> None:
    async with zone({"a.test": [A(f"192.0.2.{n}") for n in range(25)]}) as names:
        assert len(await names.addresses("a.test")) == MOST


@aio
async def test_services() -> None:
    async with zone({"_x._tcp.a.test": [SRV(1, 2, 8448, "b.test")], "_y._tcp.a.test": [SRV(0, 0, 0, b"")]}) as names:
        assert await names.services("_x._tcp.a.test") == [Service(1, 2, "b.test", 8448)]
        assert [record.host for record in await names.services("_y._tcp.a.test")] == [""]
        assert await names.services("_z._tcp.a.test") == []


@pytest.mark.parametrize("name", ["broken.test", f"{'x' * 64}.test", "a..test"])
@aio
async def test_no_answer_is_not_absence(name: str) -> None:
    async with zone({"broken.test": RuntimeError("the zone is broken")}) as names:
        for asking in (names.addresses(name), names.services(name)):
            with pytest.raises(NamesUnavailable):
                await asking
