"""Outgoing requests: whom they reach, what of the answer is believed, and what a hostile server cannot do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.runtime.addresses import is_denied
from homeserver.runtime.certificates import Trust
from homeserver.runtime.clock import FakeClock, SystemClock
from homeserver.runtime.exchange import Fault, Unreachable
from homeserver.runtime.names import SystemNames
from homeserver.runtime.outbound import IDLE, Outbound, Place, Target, place_of
from homeserver.runtime.telemetry import Telemetry
from tests.federation.authority import Asked, Authority, Script, Stranger, says, silence, writes
from tests.federation.internet import Internet, Wired
from tests.support import aio

LOOPBACK = [ip_network("127.0.0.0/8")]
MIB = 2**20


@asynccontextmanager
async def stranger(
    directory: Path, script: Script, *names: str, expired: bool = False
) -> AsyncIterator[tuple[Stranger, Wired, Place]]:
    """A server named ``a.test`` in an internet of its own, and what asks it."""
    authority = Authority(directory)
    made = Stranger(authority.issue(*(names or ("a.test",)), expired=expired), script)
    internet = Internet()
    internet.put("a.test", 8448, await made.open())
    outbound = Wired(internet, authority)
    try:
        yield made, outbound, Place((Target("a.test", 8448),), "a.test", "a.test")
    finally:
        await outbound.close()
        await made.close()


async def gone(outbound: Outbound) -> bool:
    """Whether all connections end by themselves: what was aborted is lost some turns of the event loop later."""
    for _ in range(20):
        await asyncio.sleep(0)
    return outbound.connections == 0


async def fault_of(asking: Awaitable[object]) -> Fault:
    with pytest.raises(Unreachable) as raised:
        await asking
    return raised.value.fault


# what is sent -------------------------------------------------------------------------------


@aio
async def test_a_request_arrives_as_it_was_asked(tmp_path: Path) -> None:
    async with stranger(tmp_path, says(b'{"a": 1}', X_Thing="one")) as (made, outbound, place):
        answer = await outbound.request(
            "PUT", place, "/x?y=%2F", headers={"Content-Type": "application/json"}, body=b"{}", most=100, seconds=5
        )
        assert (answer.status, answer.body, answer.headers["x-thing"]) == (200, b'{"a": 1}', "one")
        (asked,) = made.asked
        assert asked.line == "PUT /x?y=%2F HTTP/1.1"
        assert asked.header("host") == "a.test"
        assert asked.header("content-type") == "application/json"
        assert asked.body == b"{}"
        assert asked.sni == "a.test"
        assert outbound.telemetry.counter("domicile_outbound_requests", "", []).value("200") == 1
        assert outbound.telemetry.counter("domicile_outbound_bytes", "", []).value("in") == 8


@aio
async def test_a_request_cannot_be_two(tmp_path: Path) -> None:
    async with stranger(tmp_path, says(b"{}")) as (made, outbound, place):
        for target, headers in (("/a b", {}), ("/a\r\nX: y", {}), ("a", {}), ("/a", {"X": "y\r\nZ: z"})):
            with pytest.raises(ValueError, match="line"):
                await outbound.request("GET", place, target, headers=headers, most=10, seconds=5)
        assert made.asked == []


# whom it leads to ---------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "expired"), [(("b.test",), False), (("127.0.0.1",), False), (("a.test",), True)])
@aio
async def test_nobody_is_asked_whose_certificate_is_another(
    tmp_path: Path, names: tuple[str, ...], expired: bool
) -> None:
    async with stranger(tmp_path, says(b"{}"), *names, expired=expired) as (made, outbound, place):
        assert await fault_of(outbound.request("GET", place, "/", most=10, seconds=5)) is Fault.CERTIFICATE
        assert made.asked == []
        assert outbound.telemetry.counter("domicile_outbound_connections", "", []).value("certificate") == 1


@aio
async def test_a_wildcard_covers_one_label(tmp_path: Path) -> None:
    async with stranger(tmp_path, says(b"{}"), "*.b.test") as (_, outbound, base):
        place = Place(base.targets, "a.b.test", "a.b.test")
        assert (await outbound.request("GET", place, "/", most=10, seconds=5)).status == 200
        deeper = Place(place.targets, "x.a.b.test", "x.a.b.test")
        assert await fault_of(outbound.request("GET", deeper, "/", most=10, seconds=5)) is Fault.CERTIFICATE


@aio
async def test_only_known_authorities_are_believed_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    made = Stranger(Authority(tmp_path).issue("127.0.0.1"), says(b"{}"))
    port = await made.open()
    other = Authority(tmp_path / "other", "other")
    place = Place((Target("127.0.0.1", port),), "127.0.0.1", f"127.0.0.1:{port}")
    for trust, fault in (
        (Trust(), Fault.CERTIFICATE),
        (Trust(other.ca_file), Fault.CERTIFICATE),
        (Trust(tmp_path / "authority.pem"), None),
        (Trust(verify=False), None),
    ):
        outbound = Outbound(SystemNames(), trust, SystemClock(), Telemetry(), LOOPBACK)
        asking = outbound.request("GET", place, "/", most=10, seconds=5)
        if fault is None:
            assert (await asking).status == 200
        else:
            assert await fault_of(asking) is fault
        await outbound.close()
    assert {asked.sni for asked in made.asked} == {None}  # an address is never named
    await made.close()


@aio
async def test_the_next_address_is_tried(tmp_path: Path) -> None:
    async with stranger(tmp_path, says(b"{}")) as (_, outbound, place):
        outbound.internet.hosts["a.test"].insert(0, "8.9.9.9")  # where nobody listens
        assert (await outbound.request("GET", place, "/", most=10, seconds=5)).status == 200
        assert outbound.internet.dialled == [("8.9.9.9", 8448), ("8.0.0.1", 8448)]


@aio
async def test_a_name_without_address_and_a_dead_port(tmp_path: Path) -> None:
    async with stranger(tmp_path, says(b"{}")) as (_, outbound, _place):
        nowhere = Place((Target("b.test", 8448),), "b.test", "b.test")
        assert await fault_of(outbound.request("GET", nowhere, "/", most=10, seconds=5)) is Fault.NAME
        outbound.internet.failing.add("b.test")
        assert await fault_of(outbound.request("GET", nowhere, "/", most=10, seconds=5)) is Fault.NAME
        dead = Place((Target("a.test", 9),), "a.test", "a.test")
        assert await fault_of(outbound.request("GET", dead, "/", most=10, seconds=5)) is Fault.CONNECTION


# the deny-list ------------------------------------------------------------------------------

PRIVATE = [
    *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.16.0.1", "172.31.255.255"),
    *("192.168.1.1", "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.7", "224.0.0.251"),
    *("255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1"),
    *("64:ff9b:1::1", "fe80::1", "fc00::1", "fd12:3456::1", "ff02::1", "fec0::1", "2001:db8::1", "2001::1"),
    *("2002:7f00:1::1", "100::1", "3fff::1", "::127.0.0.1"),
]
PUBLIC = [
    *("8.8.8.8", "1.1.1.1", "172.32.0.1", "192.0.1.1", "2606:4700::1111", "2a00:1450::1", "64:ff9b::808:808"),
    "::ffff:8.8.8.8",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_denied(address: str) -> None:
    assert is_denied(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_not(address: str) -> None:
    assert not is_denied(ip_address(address))


@given(st.ip_addresses())
def test_no_address_that_python_calls_private_passes(address: object) -> None:
    found = ip_address(str(address))
    if found.is_private or found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified:
        assert is_denied(found)
        assert not is_denied(found, [ip_network(found)]) or found.version == 6


def test_what_the_operator_allows_is_exempt_in_every_form() -> None:
    allowed = [ip_network("10.0.0.0/8")]
    for address in ("10.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1"):
        assert not is_denied(ip_address(address), allowed)
    assert is_denied(ip_address("192.168.0.1"), allowed)


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1"])
@aio
async def test_a_name_that_leads_inside_is_not_followed(tmp_path: Path, address: str) -> None:
    async with stranger(tmp_path, says(b"{}")) as (made, outbound, place):
        outbound.internet.hosts["a.test"] = [address]
        outbound.internet.ports[address, 8448] = next(iter(outbound.internet.ports.values()))
        assert await fault_of(outbound.request("GET", place, "/", most=10, seconds=5)) is Fault.DENIED
        assert outbound.internet.dialled == []
        assert made.connections == 0


@aio
async def test_an_address_of_ours_is_skipped_and_the_public_one_used(tmp_path: Path) -> None:
    async with stranger(tmp_path, says(b"{}")) as (_, outbound, place):
        outbound.internet.hosts["a.test"].insert(0, "10.0.0.1")
        assert (await outbound.request("GET", place, "/", most=10, seconds=5)).status == 200
        assert outbound.internet.dialled == [("8.0.0.1", 8448)]


@aio
async def test_the_second_answer_of_dns_changes_nothing(tmp_path: Path) -> None:
    """DNS rebinding: the address that was judged is the address that is dialled, from one look-up."""
    async with stranger(tmp_path, says(b"{}")) as (_, outbound, place):
        internet = outbound.internet
        answers = iter([["8.0.0.1"], ["127.0.0.1"]])

        async def turning(host: str) -> list[object]:
            internet.lookups.append(host)
            return [ip_address(address) for address in next(answers)]

        internet.addresses = turning  # type: ignore[method-assign, assignment]
        assert (await outbound.request("GET", place, "/", most=10, seconds=5)).status == 200
        assert internet.lookups == ["a.test"]
        assert internet.dialled == [("8.0.0.1", 8448)]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:7f00:1]", "localhost"])
@aio
async def test_the_real_machine_is_not_reached_under_any_name(host: str) -> None:
    outbound = Outbound(SystemNames(), Trust(verify=False), SystemClock(), Telemetry())
    async with _plain_listener() as (port, connections):
        asking = outbound.get(f"https://{host}:{port}/", most=10, seconds=5)
        assert await fault_of(asking) in (Fault.DENIED, Fault.NAME)
        assert connections == []
    await outbound.close()


@asynccontextmanager
async def _plain_listener() -> AsyncIterator[tuple[int, list[object]]]:
    connections: list[object] = []

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], connections
    finally:
        server.close()


# redirects ----------------------------------------------------------------------------------


def redirecting(steps: dict[str, str]) -> Script:
    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        path = asked.line.split()[1]
        location = steps.get(path)
        await (says(b"{}", 302, Location=location) if location else says(path.encode()))(asked, writer)

    return script


@aio
async def test_redirects_are_followed_only_when_asked(tmp_path: Path) -> None:
    steps = {"/a": "/b", "/b": "https://a.test:8448/c?d"}
    async with stranger(tmp_path, redirecting(steps)) as (_, outbound, place):
        assert (await outbound.request("GET", place, "/a", most=100, seconds=5)).status == 302
        assert await fault_of(outbound.get("https://a.test:8448/a", most=100, seconds=5)) is Fault.BROKEN
        assert (await outbound.get("https://a.test:8448/a", most=100, seconds=5, redirects=2)).body == b"/c?d"


@aio
async def test_a_loop_of_redirects_ends(tmp_path: Path) -> None:
    async with stranger(tmp_path, redirecting({"/a": "/b", "/b": "/a"})) as (made, outbound, _):
        assert await fault_of(outbound.get("https://a.test:8448/a", most=100, seconds=5, redirects=5)) is Fault.BROKEN
        assert len(made.asked) == 6


@pytest.mark.parametrize(
    ("location", "fault"),
    [
        ("https://127.0.0.1:8448/", Fault.DENIED),
        ("https://inside.test:8448/", Fault.DENIED),
        ("https://[::1]:8448/", Fault.DENIED),
        ("https://2130706433:8448/", Fault.NAME),
        ("http://a.test/", Fault.BROKEN),
        ("file:///etc/passwd", Fault.BROKEN),
        ("gopher://a.test/", Fault.BROKEN),
        ("//user:secret@a.test:8448/", Fault.BROKEN),
        ("https://a.test:99999/", Fault.BROKEN),
        ("https://[::1/", Fault.BROKEN),
        ("https://a.test:8448/\x01", Fault.BROKEN),
    ],
)
@aio
async def test_a_redirect_leads_nowhere_else(tmp_path: Path, location: str, fault: Fault) -> None:
    async with stranger(tmp_path, redirecting({"/a": location})) as (made, outbound, _):
        outbound.internet.hosts["inside.test"] = ["10.0.0.1"]
        assert await fault_of(outbound.get("https://a.test:8448/a", most=100, seconds=5, redirects=5)) is fault
        assert len(made.asked) == 1


# answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\n\r\n{}",
        b"HTTP/1.1 200\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 103 Hints\r\nX: y\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
@aio
async def test_forms_of_an_answer(tmp_path: Path, answer: bytes) -> None:
    for parts in ((answer,), tuple(answer[at : at + 1] for at in range(len(answer)))):
        async with stranger(tmp_path, writes(*parts)) as (_, outbound, place):
            got = await outbound.request("GET", place, "/", most=10, seconds=5)
            assert (got.status, got.body) == (200, b"{}")
            assert "x" not in got.headers


@aio
async def test_an_answer_without_body(tmp_path: Path) -> None:
    async with stranger(tmp_path, writes(b"HTTP/1.1 204 No\r\n\r\n", close=False)) as (made, outbound, place):
        for _ in range(2):
            assert (await outbound.request("GET", place, "/", most=10, seconds=5)).body == b""
        assert made.connections == 1


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (writes(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", close=False), Fault.TOO_LARGE),
        (writes(CHUNKED, *[b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 20), Fault.TOO_LARGE),
        (writes(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 65536] * 20), Fault.TOO_LARGE),
        (writes(b"HTTP/1.1 200 OK\r\n", *[b"X: " + b"y" * 8000 + b"\r\n"] * 200), Fault.TOO_LARGE),
        (writes(b"HTTP/1.1 200 OK\r\nX: ", *[b"y" * 8192] * 200), Fault.TOO_LARGE),
        (writes(*[b"HTTP/1.1 102 Processing\r\n\r\n" * 100] * 100), Fault.TOO_LARGE),
        (writes(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}"), Fault.CONNECTION),
        (writes(CHUNKED + b"2\r\n{}\r\n"), Fault.CONNECTION),
        (writes(b"HTTP/1.1 200 OK\r\nContent-Len"), Fault.CONNECTION),
        (writes(b""), Fault.CONNECTION),
        (writes(b"SSH-2.0-OpenSSH_9\r\n"), Fault.BROKEN),
        (writes(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", close=False), Fault.BROKEN),
        (writes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"), Fault.BROKEN),
        (
            writes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", close=False),
            Fault.BROKEN,
        ),
        (says(b"\x1f\x8b\x08", Content_Encoding="gzip"), Fault.BROKEN),
        (silence, Fault.TIMEOUT),
    ],
)
@aio
async def test_hostile_answers(tmp_path: Path, script: Script, fault: Fault) -> None:
    async with stranger(tmp_path, script) as (_, outbound, place):
        seconds = 0.3 if fault is Fault.TIMEOUT else 10.0
        assert await fault_of(outbound.request("GET", place, "/", most=MIB, seconds=seconds)) is fault
        assert outbound.telemetry.counter("domicile_outbound_requests", "", []).value(fault) == 1
        assert await gone(outbound)


@aio
async def test_a_dripping_answer_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    async def drip(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)  # what is tested is that this goes on

    async with stranger(tmp_path, drip) as (_, outbound, place):
        assert await fault_of(outbound.request("GET", place, "/", most=MIB, seconds=0.3)) is Fault.TIMEOUT
        assert await gone(outbound)


@aio
async def test_a_server_that_never_shakes_hands(tmp_path: Path) -> None:
    authority, internet = Authority(tmp_path), Internet()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    internet.put("a.test", 8448, server.sockets[0].getsockname()[1])
    outbound = Wired(internet, authority)
    place = Place((Target("a.test", 8448),), "a.test", "a.test")
    assert await fault_of(outbound.request("GET", place, "/", most=10, seconds=0.3)) is Fault.TIMEOUT
    assert await gone(outbound)
    server.close()


# connections --------------------------------------------------------------------------------


@aio
async def test_a_connection_is_used_again(tmp_path: Path) -> None:
    async with stranger(tmp_path, says(b"{}")) as (made, outbound, place):
        for _ in range(3):
            await outbound.request("GET", place, "/", most=10, seconds=5)
        assert (made.connections, len(made.asked)) == (1, 3)
        other = Place(place.targets, "a.test", "b.test")
        await outbound.request("GET", other, "/", most=10, seconds=5)
        assert made.connections == 2


@aio
async def test_two_requests_at_once_do_not_share(tmp_path: Path) -> None:
    async with stranger(tmp_path, says(b"{}")) as (made, outbound, place):
        await asyncio.gather(*(outbound.request("GET", place, f"/{n}", most=10, seconds=5) for n in range(5)))
        assert (made.connections, len(made.asked)) == (5, 5)


@pytest.mark.parametrize(
    "surplus",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nBAD", b"garbage", b"\r\n\r\nHTTP/1.1 200 OK\r\n"],
)
@aio
async def test_an_answer_that_nobody_asked_for_is_nobodys(tmp_path: Path, surplus: bytes) -> None:
    script = writes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" + surplus, close=False)
    async with stranger(tmp_path, script) as (made, outbound, place):
        for _ in range(3):
            assert (await outbound.request("GET", place, "/", most=10, seconds=5)).body == b"{}"
        assert made.connections == 3


@aio
async def test_a_connection_that_was_closed_meanwhile_costs_nothing(tmp_path: Path) -> None:
    async with stranger(tmp_path, says(b"{}")) as (made, outbound, place):
        await outbound.request("PUT", place, "/", most=10, seconds=5)
        await made.drop()
        assert (await outbound.request("PUT", place, "/", most=10, seconds=5)).status == 200
        assert made.connections == 2


@aio
async def test_what_was_begun_and_broken_off_is_not_repeated(tmp_path: Path) -> None:
    answers: list[Callable[[Asked, asyncio.StreamWriter], Awaitable[object]]] = [says(b"{}"), writes(b"HTTP/1.1 2")]

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await answers.pop(0)(asked, writer)

    async with stranger(tmp_path, script) as (made, outbound, place):
        await outbound.request("PUT", place, "/", most=10, seconds=5)
        assert await fault_of(outbound.request("PUT", place, "/", most=10, seconds=5)) is Fault.CONNECTION
        assert len(made.asked) == 2


@aio
async def test_an_idle_connection_ends(tmp_path: Path) -> None:
    clock = FakeClock()
    authority, internet = Authority(tmp_path), Internet()
    made = Stranger(authority.issue("a.test"), says(b"{}"))
    internet.put("a.test", 8448, await made.open())
    outbound = Wired(internet, authority, clock)
    place = Place((Target("a.test", 8448),), "a.test", "a.test")
    await outbound.request("GET", place, "/", most=10, seconds=5)
    await clock.advance(IDLE / 2)
    await outbound.request("GET", place, "/", most=10, seconds=5)
    assert (made.connections, outbound.connections) == (1, 1)
    await clock.advance(IDLE)
    assert await gone(outbound)
    await made.close()


@aio
async def test_a_request_that_is_given_up_leaves_no_connection(tmp_path: Path) -> None:
    async with stranger(tmp_path, silence) as (made, outbound, place):
        task = asyncio.ensure_future(outbound.request("GET", place, "/", most=10, seconds=50))
        await made.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await gone(outbound)


@aio
async def test_closing_ends_what_is_under_way(tmp_path: Path) -> None:
    async with stranger(tmp_path, silence) as (made, outbound, place):
        task = asyncio.ensure_future(outbound.request("GET", place, "/", most=10, seconds=50))
        await made.arrived.wait()
        await outbound.close()
        assert await fault_of(task) is Fault.CONNECTION


def test_places_of_addresses() -> None:
    place, target = place_of("https://A.test/x?y=z#w")
    assert (place.certificate, place.host, place.targets, target) == (
        "a.test",
        "a.test",
        (Target("a.test", 443),),
        "/x?y=z",
    )
    place, target = place_of("https://[2001:db8::1]:8448")
    assert (place.certificate, place.host, target) == ("2001:db8::1", "[2001:db8::1]:8448", "/")
