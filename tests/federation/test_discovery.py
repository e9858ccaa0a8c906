"""Resolving server names: each case of the specification, what is remembered how long, and hostile answers."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation import discovery
from federation.caching import lifetime_of
from federation.discovery import HOUR, MINUTE, find
from homeserver.runtime.exchange import Fault, Unreachable
from homeserver.runtime.names import Service
from homeserver.runtime.outbound import Place, Target
from tests.federation.authority import Changing, Script, Stranger, says, silence
from tests.federation.towns import Town, World
from tests.support import aio

FED, OLD = "_matrix-fed._tcp.", "_matrix._tcp."


def delegating(to: object, **headers: str) -> Script:
    return says(orjson.dumps({"m.server": to}), 200, **headers)


async def well_known(world: World, script: Script, name: str = "b.test") -> Stranger:
    return await world.stranger(name, script, 443)


async def fault_of(town: Town, name: str) -> Fault:
    with pytest.raises(Unreachable) as raised:
        await find(town.server, name)
    return raised.value.fault


# the cases ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("8.1.2.3", Place((Target("8.1.2.3", 8448),), "8.1.2.3", "8.1.2.3")),
        ("8.1.2.3:1", Place((Target("8.1.2.3", 1),), "8.1.2.3", "8.1.2.3:1")),
        ("[2600::1]", Place((Target("2600::1", 8448),), "2600::1", "[2600::1]")),
        ("[2600::1]:65535", Place((Target("2600::1", 65535),), "2600::1", "[2600::1]:65535")),
        ("b.test:80", Place((Target("b.test", 80),), "b.test", "b.test:80")),
    ],
)
@aio
async def test_addresses_and_ports_ask_nobody(world: World, name: str, place: Place) -> None:
    town = await world.town("a.test")
    assert await find(town.server, name) == place
    assert world.internet.lookups == []


@pytest.mark.parametrize(
    ("delegate", "place"),
    [
        ("8.1.2.3", Place((Target("8.1.2.3", 8448),), "8.1.2.3", "8.1.2.3")),
        ("[2600::1]:9", Place((Target("2600::1", 9),), "2600::1", "[2600::1]:9")),
        ("c.test:9", Place((Target("c.test", 9),), "c.test", "c.test:9")),
        ("c.test", Place((Target("c.test", 8448),), "c.test", "c.test")),
    ],
)
@aio
async def test_a_delegation(world: World, delegate: str, place: Place) -> None:
    town = await world.town("a.test")
    made = await well_known(world, delegating(delegate))
    assert await find(town.server, "b.test") == place
    assert [(asked.line, asked.header("host"), asked.sni) for asked in made.asked] == [
        ("GET /.well-known/matrix/server HTTP/1.1", "b.test", "b.test")
    ]


@pytest.mark.parametrize("delegates", [True, False])
@pytest.mark.parametrize("service", [FED, OLD])
@aio
async def test_services(world: World, service: str, delegates: bool) -> None:
    town = await world.town("a.test")
    host = "c.test" if delegates else "b.test"
    if delegates:
        await well_known(world, delegating(host))
    world.internet.srv[service + host] = [Service(1, 0, "d.test", 5), Service(0, 0, "e.test", 6)]
    if service == FED:
        world.internet.srv[OLD + host] = [Service(0, 0, "never.test", 7)]
    assert await find(town.server, "b.test") == Place((Target("e.test", 6), Target("d.test", 5)), host, host)


@aio
async def test_neither_well_known_nor_services(world: World) -> None:
    town = await world.town("a.test")
    assert await find(town.server, "b.test") == Place((Target("b.test", 8448),), "b.test", "b.test")
    assert world.internet.lookups == ["b.test", FED + "b.test", OLD + "b.test"]


@aio
async def test_a_domain_that_says_it_has_no_server(world: World) -> None:
    town = await world.town("a.test")
    world.internet.srv[FED + "b.test"] = [Service(0, 0, "", 0)]
    assert (await find(town.server, "b.test")).targets == ()


@aio
async def test_services_share_by_weight(world: World) -> None:
    town = await world.town("a.test")
    records = [Service(0, 0, "none.test", 1), Service(0, 30, "heavy.test", 1), Service(0, 10, "light.test", 1)]
    world.internet.srv[FED + "b.test"] = records
    first = []
    for _ in range(400):
        first.append((await find(town.server, "b.test")).targets[0].host)
        town.server.nodes.directory.memory(discovery.Known).services.clear()
    assert first.count("none.test") < 5
    assert 2 < first.count("heavy.test") / first.count("light.test") < 5  # 3, give or take


@pytest.mark.parametrize("name", ["", "b.test:0", "b.test:65536", "b_c.test", "b.test/x", "é.test", "[::1", "@b.test"])
@aio
async def test_what_is_no_server_name_is_not_looked_for(world: World, name: str) -> None:
    town = await world.town("a.test")
    assert await fault_of(town, name) is Fault.NAME
    assert world.internet.lookups == []


@aio
async def test_no_answer_of_dns_is_not_taken_for_no_record(world: World) -> None:
    """Else whoever can silence DNS for a moment chooses which port of a host is believed."""
    town = await world.town("a.test")
    world.internet.failing.add(FED + "b.test")
    assert await fault_of(town, "b.test") is Fault.NAME
    world.internet.failing.clear()
    assert (await find(town.server, "b.test")).host == "b.test"


# the answer of a well-known -----------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        says(b"", 404),
        says(b'{"m.server": "c.test"}', 404),
        says(b"{}"),
        says(b"[]"),
        says(b"no json"),
        says(b"\xff"),
        delegating(7),
        delegating(""),
        delegating("https://c.test"),
        delegating("c.test/x"),
        delegating("c.test\r\nX: y"),
        says(b'{"m.server": "c.test", "x": "' + b"x" * 10_000_000 + b'"}'),
        says(b"[" * 40_000),
        says(b"", 302, Location="https://127.0.0.1/"),
        says(b"", 302, Location="https://inside.test/"),
        says(b"", 302, Location="http://b.test/"),
        says(b"", 302, Location="https://b.test/.well-known/matrix/server"),
    ],
)
@aio
async def test_an_answer_that_is_none_counts_for_nothing(world: World, script: Script) -> None:
    town = await world.town("a.test")
    made = await well_known(world, script)
    world.internet.hosts["inside.test"] = ["192.168.1.1"]
    assert (await find(town.server, "b.test")).host == "b.test"
    assert 1 <= len(made.asked) <= 6
    assert all(address.startswith("8.") for address, _ in world.internet.dialled)


@aio
async def test_a_content_type_does_not_matter(world: World) -> None:
    town = await world.town("a.test")
    await well_known(world, delegating("c.test:1", Content_Type="text/html"))
    assert (await find(town.server, "b.test")).host == "c.test:1"


@aio
async def test_redirects_of_a_well_known(world: World) -> None:
    town = await world.town("a.test")
    await well_known(world, says(b"", 301, Location="https://www.b.test/x?y"))
    await well_known(world, delegating("c.test:1"), "www.b.test")
    assert (await find(town.server, "b.test")).host == "c.test:1"


@aio
async def test_a_well_known_of_another_certificate(world: World) -> None:
    town = await world.town("a.test")
    made = await world.stranger("b.test", delegating("evil.test:1"), 443, "evil.test")
    assert (await find(town.server, "b.test")).host == "b.test"
    assert made.asked == []


@aio
async def test_a_well_known_that_never_comes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "PATIENCE", 0.2)
    town = await world.town("a.test")
    await well_known(world, silence)
    assert (await find(town.server, "b.test")).host == "b.test"


@aio
async def test_a_delegation_is_not_delegated_further(world: World) -> None:
    town = await world.town("a.test")
    await well_known(world, delegating("c.test"))
    other = await well_known(world, delegating("b.test"), "c.test")
    assert (await find(town.server, "b.test")).host == "c.test"
    assert other.asked == []


# how long it holds --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 24 * HOUR),
        ({"Cache_Control": "public, max-age=7200"}, 2 * HOUR),
        ({"Cache_Control": "max-age=99999999"}, 48 * HOUR),
        ({"Cache_Control": "max-age=1"}, 5 * MINUTE),
        ({"Cache_Control": "no-store"}, 5 * MINUTE),
        ({"Cache_Control": "max-age=soon"}, 24 * HOUR),
        ({"Expires": "Wed, 15 Nov 2023 01:13:20 GMT"}, 3 * HOUR),
        ({"Expires": "0"}, 5 * MINUTE),
        ({"Cache_Control": "max-age=3600", "Expires": "0"}, HOUR),
    ],
)
@aio
async def test_lives_of_answers(world: World, headers: dict[str, str], seconds: float) -> None:
    town = await world.town("a.test")  # it is 2023-11-14T22:13:20Z
    made = await well_known(world, delegating("c.test:1", **headers))
    await find(town.server, "b.test")
    await world.clock.advance(seconds - 1)
    await find(town.server, "b.test")
    assert len(made.asked) == 1
    await world.clock.advance(1)
    await find(town.server, "b.test")
    assert len(made.asked) == 2


@aio
async def test_failures_are_repeated_less_and_less_often(world: World) -> None:
    town = await world.town("a.test")
    made = await well_known(world, says(b"", 404))
    pauses: list[int] = []
    since = 0
    await find(town.server, "b.test")
    while len(pauses) < 7:
        await world.clock.advance(MINUTE)
        since += 1
        before = len(made.asked)
        await find(town.server, "b.test")
        if len(made.asked) > before:
            pauses.append(since)
            since = 0
    assert pauses == [2, 4, 8, 16, 32, 60, 60]


@aio
async def test_what_a_host_said_survives_its_trouble_but_not_its_word(world: World) -> None:
    town = await world.town("a.test")
    script = Changing(delegating("c.test:1", Cache_Control="max-age=3600"))
    await well_known(world, script)
    assert (await find(town.server, "b.test")).host == "c.test:1"
    script.script = says(b"", 503)
    await world.clock.advance(HOUR)
    assert (await find(town.server, "b.test")).host == "c.test:1"  # in trouble: it is still meant
    await world.clock.advance(46 * HOUR)
    assert (await find(town.server, "b.test")).host == "c.test:1"
    await world.clock.advance(HOUR)
    assert (await find(town.server, "b.test")).host == "b.test"  # 48 hours are the most
    script.script = delegating("c.test:1")
    await world.clock.advance(HOUR)
    assert (await find(town.server, "b.test")).host == "c.test:1"
    script.script = says(b"", 404)
    await world.clock.advance(24 * HOUR)
    assert (await find(town.server, "b.test")).host == "b.test"  # it says that it delegates no more


@aio
async def test_services_are_remembered_for_minutes(world: World) -> None:
    town = await world.town("a.test")
    await find(town.server, "b.test")
    world.internet.srv[FED + "b.test"] = [Service(0, 0, "d.test", 5)]
    assert (await find(town.server, "b.test")).targets == (Target("b.test", 8448),)
    await world.clock.advance(5 * MINUTE)
    assert (await find(town.server, "b.test")).targets == (Target("d.test", 5),)


@given(st.dictionaries(st.sampled_from(["cache-control", "expires"]), st.text(max_size=40)), st.integers(0, 2**33))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a machine may be busy
def test_no_header_breaks_it(headers: dict[str, str], now: int) -> None:
    life = lifetime_of(headers, float(now))
    assert life is None or life >= 0


# what we say --------------------------------------------------------------------------------


@aio
async def test_our_own_well_known(world: World) -> None:
    delegating_town = await world.town("a.test", 'delegate_to = "matrix.a.test:443"')
    answer = await delegating_town.asked("GET", "/.well-known/matrix/server")
    assert (answer.status, answer.json) == (200, {"m.server": "matrix.a.test:443"})
    town = await world.town("b.test")
    assert (await town.asked("GET", "/.well-known/matrix/server")).errcode == "M_NOT_FOUND"


@aio
async def test_our_implementation(world: World) -> None:
    town = await world.town("a.test")
    answer = await town.asked("GET", "/_matrix/federation/v1/version")
    assert answer.status == 200
    assert answer.json["server"]["name"] == "Domicile"
    assert answer.json["server"]["version"].split(".")[0].isdigit()


@aio
async def test_without_federation_nothing_of_it_is_served(world: World, tmp_path: Path) -> None:
    town = await world.town("a.test", 'enabled = false\ndelegate_to = "b.test"')
    for path in ("/.well-known/matrix/server", "/_matrix/federation/v1/version", "/_matrix/key/v2/server"):
        assert (await town.asked("GET", path)).errcode == "M_UNRECOGNIZED"
