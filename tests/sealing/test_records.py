"""Records of sessions: written sealed, once a day, where there are custodians, and gone with whom they are about."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from config.application_services import ApplicationService
from homeserver.accounts import deactivation, devices
from homeserver.protocol.epochs import SharesTooFew
from homeserver.protocol.errors import NodeUnavailable
from homeserver.runtime.jobs import Postponed
from homeserver.sealing import noticing, writing
from homeserver.sealing.noticing import Notices
from homeserver.storage.tables import TABLES, UNARCHIVED
from homeserver.web.messages import Request
from tests.deployment import Deploy
from tests.sealing.play import ADDRESS, AGENT, KEYS, SEALING, asks, custodians, epochs_of, noticing_all, opened, rows
from tests.sealing.traces import found_in
from tests.support import ON_SQLITE, Databases, aio

DAY = 24 * 60 * 60.0


@aio
async def test_custodians_open_what_the_server_has_sealed(deploy: Deploy) -> None:
    deployment = await deploy(policy=SEALING)
    noticing_all(deployment)
    nima, tehran = await deployment.user("nima"), deployment.node("tehran")
    began = deployment.clock.now_ms()
    assert await asks(nima) == 200
    assert await rows(tehran, "SELECT box FROM sessions") == []  # no request waits for it
    await writing.keep_sealed(deployment.server)
    (record,) = await opened(tehran, nima.user_id)
    assert record == (nima.user_id, nima.device_id, ADDRESS, AGENT, began)
    with pytest.raises(SharesTooFew, match="1 of the 2"):
        await opened(tehran, nima.user_id, ["babak"])
    ((box,),) = await rows(tehran, "SELECT box FROM sessions")
    assert isinstance(box, bytes)
    assert found_in(box, [ADDRESS], [AGENT, nima.user_id, nima.device_id]) == []
    for table in TABLES:
        content = b"\n".join(
            value if isinstance(value, bytes) else str(value).encode()
            for row in await rows(tehran, f"SELECT * FROM {table}")
            for value in row
        )
        assert found_in(content, [ADDRESS], [AGENT]) == [], table


@pytest.mark.parametrize("engines", ["postgres"], indirect=True)
@aio
async def test_no_address_is_said_to_a_database_server(engines: Databases, deploy: Deploy) -> None:
    """It could be in its log, or in that of its changes."""
    await engines.make_breakable("tehran")
    said = engines.overhear("tehran")
    deployment = await deploy(policy=SEALING)
    noticing_all(deployment)
    nima, tehran = await deployment.user("nima"), deployment.node("tehran")
    assert await asks(nima) == 200
    await writing.keep_sealed(deployment.server)
    assert len(await opened(tehran, nima.user_id)) == 1
    assert b"INSERT INTO sessions" in said
    assert found_in(bytes(said), [ADDRESS], [AGENT]) == []


@ON_SQLITE
@aio
async def test_one_record_a_day_for_each_device_address_and_program(deploy: Deploy) -> None:
    deployment = await deploy(policy=SEALING)
    noticing_all(deployment)
    nima, tehran = await deployment.user("nima"), deployment.node("tehran")
    trips = tehran.engine.trips
    for _ in range(20):
        await asks(nima)
        await asks(nima, address="203.0.113.1")
        await asks(nima, agent="Other/1")
    assert tehran.engine.trips - trips <= 2  # to find the token, once; nothing for being noticed
    await writing.keep_sealed(deployment.server)
    assert {(record.address, record.user_agent) for record in await opened(tehran, nima.user_id)} == {
        (ADDRESS, AGENT),
        ("203.0.113.1", AGENT),
        (ADDRESS, "Other/1"),
    }
    await asks(nima)
    await writing.keep_sealed(deployment.server)
    assert len(await opened(tehran, nima.user_id)) == 3
    await deployment.clock.advance(DAY)
    await asks(nima)
    await writing.keep_sealed(deployment.server)
    assert len(await opened(tehran, nima.user_id)) == 4


@ON_SQLITE
@aio
async def test_without_custodians_nothing_is_noticed(deploy: Deploy) -> None:
    deployment = await deploy(policy=SEALING)
    noticing_all(deployment)
    claire, paris = await deployment.user("claire", "paris"), deployment.node("paris")
    await asks(claire)
    assert not paris.memory(Notices).waiting
    assert (await claire.asks("GET", "/_domicile/v1/residency/me")).json["sealed_sessions"] is None
    nima = await deployment.user("nima")
    told = (await nima.asks("GET", "/_domicile/v1/residency/me")).json["sealed_sessions"]
    assert told == {"custodians": 3, "threshold": 2, "kept_ms": 90 * 86_400_000}
    await writing.keep_sealed(deployment.server)
    for table in UNARCHIVED:
        assert await rows(paris, f"SELECT * FROM {table}") == []
    assert (await claire.asks("GET", "/_matrix/client/v3/devices")).json["devices"][0].keys() == {
        "device_id",
        "display_name",
    }


@ON_SQLITE
@aio
async def test_of_an_application_service_nothing_is_noticed(deploy: Deploy) -> None:
    deployment = await deploy(policy=SEALING)
    nima, tehran = await deployment.user("nima"), deployment.node("tehran")
    caller = await nima.caller()
    request = Request("GET", "/", {}, ADDRESS)
    bridge = ApplicationService(
        id="bridge",
        url=None,
        as_token="as",
        hs_token="hs",
        sender="@bot:example.org",
        server_name="example.org",
        node="tehran",
        jurisdiction="IR",
    )
    for service, waiting in ((bridge, 0), (None, 1)):
        noticing.notice(deployment.server, replace(caller, service=service), request)
        assert len(tehran.memory(Notices).waiting) == waiting


@ON_SQLITE
@aio
async def test_what_waits_is_forgotten_when_custodians_go(deploy: Deploy) -> None:
    deployment, bare = await deploy(policy=SEALING), await deploy()
    noticing_all(deployment)
    nima, tehran = await deployment.user("nima"), deployment.node("tehran")
    await asks(nima)
    deployment.server.policy.now = bare.server.policy.now
    await writing.keep_sealed(deployment.server)
    assert not tehran.memory(Notices).waiting
    assert await rows(tehran, "SELECT * FROM epochs") == []


@aio
async def test_while_a_node_is_down_nothing_waits_for_it(engines: Databases, deploy: Deploy) -> None:
    await engines.make_breakable("tehran")
    deployment = await deploy(policy=SEALING + custodians(*KEYS, code="FR"))
    noticing_all(deployment)
    nima, claire = await deployment.user("nima"), await deployment.user("claire", "paris")
    await asks(nima)
    await asks(claire)
    caller = await nima.caller()
    await engines.take_away("tehran")
    with pytest.raises(Postponed, match="tehran"):
        await writing.keep_sealed(deployment.server)
    assert len(await opened(deployment.node("paris"), claire.user_id)) == 1
    tehran = deployment.node("tehran")
    assert not tehran.memory(Notices).waiting  # no address lies in memory for as long as that
    tehran.memory(Notices).notice(caller, ADDRESS, AGENT, deployment.clock.now_ms())
    with pytest.raises(NodeUnavailable):
        await writing.seal_waiting(deployment.server, tehran)
    assert not tehran.memory(Notices).waiting
    await engines.bring_back("tehran")
    await tehran.engine.probe()
    await asks(nima)
    await writing.keep_sealed(deployment.server)
    assert len(await opened(tehran, nima.user_id)) == 1


@aio
async def test_records_go_with_the_account(deploy: Deploy) -> None:
    deployment = await deploy(policy=SEALING)
    noticing_all(deployment)
    nima, sara, tehran = await deployment.user("nima"), await deployment.user("sara"), deployment.node("tehran")
    await asks(nima)
    await asks(sara)
    await writing.keep_sealed(deployment.server)
    await asks(nima, address="203.0.113.1")  # waits when the account is closed
    await deactivation.deactivate(deployment.server, nima.user_id)
    await writing.keep_sealed(deployment.server)
    assert await opened(tehran, nima.user_id) == []
    assert len(await opened(tehran, sara.user_id)) == 1
    assert len(await rows(tehran, "SELECT * FROM device_days")) == 1


@aio
async def test_the_owner_is_shown_the_day_and_no_more(deploy: Deploy) -> None:
    deployment = await deploy(policy=SEALING)
    noticing_all(deployment)
    nima, admin = await deployment.user("nima"), await deployment.user("root", admin=True)
    await deployment.clock.advance(3 * DAY + 7 * 3600)
    await asks(nima)
    await writing.keep_sealed(deployment.server)
    day = deployment.clock.now_ms() // 86_400_000 * 86_400_000
    await deployment.clock.advance(2 * DAY)
    shown = await nima.asks("GET", "/_matrix/client/v3/devices")
    assert [device.get("last_seen_ts") for device in shown.json["devices"]] == [day]
    one = await nima.asks("GET", f"/_matrix/client/v3/devices/{nima.device_id}")
    assert one.json == {"device_id": nima.device_id, "display_name": "nima's phone", "last_seen_ts": day}
    whois = f"/_matrix/client/v3/admin/whois/{nima.user_id}"
    assert (await nima.asks("GET", whois)).json["devices"][nima.device_id] == {
        "sessions": [{"connections": [{"last_seen": day}]}]
    }
    assert (await admin.asks("GET", whois)).json["devices"] == {nima.device_id: {"sessions": [{"connections": []}]}}
    unused = (await deployment.login(nima)).json["device_id"]
    shown = await nima.asks("GET", "/_matrix/client/v3/devices")
    assert {each["device_id"]: each.get("last_seen_ts") for each in shown.json["devices"]} == {
        nima.device_id: day,
        unused: None,
    }


@ON_SQLITE
@aio
async def test_a_device_that_is_gone_has_no_day(deploy: Deploy) -> None:
    deployment = await deploy(policy=SEALING)
    noticing_all(deployment)
    nima, tehran = await deployment.user("nima"), deployment.node("tehran")
    await asks(nima)
    caller = await nima.caller()
    await devices.log_out(deployment.server, caller)
    await writing.keep_sealed(deployment.server)
    assert await rows(tehran, "SELECT * FROM device_days") == await rows(tehran, "SELECT * FROM sessions") == []


@ON_SQLITE
@aio
async def test_memory_is_bounded(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noticing, "MOST_WAITING", 5)
    monkeypatch.setattr(noticing, "MOST_KNOWN", 7)
    deployment = await deploy(policy=SEALING)
    noticing_all(deployment)
    nima, tehran = await deployment.user("nima"), deployment.node("tehran")
    for n in range(8):
        await asks(nima, address=f"203.0.113.{n}")
    assert len(tehran.memory(Notices).waiting) == 5
    await writing.keep_sealed(deployment.server)
    for n in range(8):  # those that did not fit are noticed now
        await asks(nima, address=f"203.0.113.{n}")
    await writing.keep_sealed(deployment.server)
    assert {record.address for record in await opened(tehran, nima.user_id)} == {f"203.0.113.{n}" for n in range(8)}


@ON_SQLITE
@aio
async def test_whatever_is_sent_can_be_sealed(deploy: Deploy) -> None:
    deployment = await deploy(policy=SEALING)
    noticing_all(deployment)
    nima, tehran = await deployment.user("nima"), deployment.node("tehran")
    caller = await nima.caller()
    notices = tehran.memory(Notices)
    for address, agent in [("\udcff" * 5000, "\x00\n\ud800"), ("", ""), ("unknown", "ü" * 100_000)]:
        notices.notice(caller, address, agent, deployment.clock.now_ms())
    await writing.keep_sealed(deployment.server)
    assert sorted((record.address, record.user_agent) for record in await opened(tehran, nima.user_id)) == [
        ("", ""),
        ("?" * 64, "\x00\n?"),
        ("unknown", "ü" * 400),
    ]
    assert not notices.waiting


@ON_SQLITE
@aio
async def test_many_records_leave_time_for_others(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "BATCH", 3)
    deployment = await deploy(policy=SEALING)
    noticing_all(deployment)
    nima, tehran = await deployment.user("nima"), deployment.node("tehran")
    for n in range(8):
        await asks(nima, address=f"203.0.113.{n}")
    pauses = []

    async def sleep(seconds: float) -> None:
        pauses.append((seconds, len(await opened(tehran, nima.user_id))))

    monkeypatch.setattr(deployment.clock, "sleep", sleep)
    await writing.keep_sealed(deployment.server)
    assert pauses == [(writing.PAUSE, 3), (writing.PAUSE, 6)]
    assert len(await opened(tehran, nima.user_id)) == 8
    await asks(nima, address="203.0.113.99")
    await writing.seal_last(deployment.server)
    assert len(await opened(tehran, nima.user_id)) == 9


@aio
async def test_who_seal_at_once_seal_to_one_epoch(deploy: Deploy) -> None:
    deployment = await deploy(policy=SEALING)
    noticing_all(deployment)
    nima, tehran = await deployment.user("nima"), deployment.node("tehran")
    notices, caller = tehran.memory(Notices), await nima.caller()

    async def one(n: int) -> None:
        notices.notice(caller, f"203.0.113.{n}", AGENT, deployment.clock.now_ms())
        await writing.seal_waiting(deployment.server, tehran)

    await asyncio.gather(*(one(n) for n in range(5)))
    assert len(await epochs_of(tehran)) == 1
    assert len(await opened(tehran, nima.user_id)) == 5
