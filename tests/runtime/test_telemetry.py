"""The log and the numbers say enough, and nothing about who said what."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from homeserver.runtime.telemetry import LONGEST, REDACTED, Public, Telemetry, redact, set_up_logging

TOKEN = "dom_AAAAAAAAAAAAAAAAAAAAAA_" + "x" * 43


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_its_fields(stream: io.StringIO) -> None:
    set_up_logging("info", "json", stream)
    structlog.get_logger("storage").info("database is up", node="tehran", trips=3, ratio=0.5, ok=True, nothing=None)
    (line,) = lines(stream)
    stamp = line.pop("timestamp")
    assert isinstance(stamp, str)
    assert stamp.endswith("Z")
    assert line == {
        "event": "database is up",
        "level": "info",
        "logger": "storage",
        "node": "tehran",
        "trips": 3,
        "ratio": 0.5,
        "ok": True,
        "nothing": None,
    }


def test_the_level_is_obeyed(stream: io.StringIO) -> None:
    set_up_logging("warning", "json", stream)
    log = structlog.get_logger("x")
    log.info("quiet")
    log.warning("loud")
    logging.getLogger("y").info("quiet")
    logging.getLogger("y").warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud", "loud"]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "secret",
    [
        TOKEN,
        "domr_BBBBBBBBBBBBBBBBBBBBBB_" + "y" * 43,
        "syt_YWxpY2U_abcdefghijklmnop_1a2b3c",
        "203.0.113.77",
        "2001:db8:1:2:3:4:5:6",
        "2001:db8::ff00:42:8329",
        "sara@mail.example.org",
        "+98 912 345 6789",
        "+989123456789",
    ],
)
def test_secrets_are_found_wherever_they_stand(stream: io.StringIO, form: str, secret: str) -> None:
    set_up_logging("debug", form, stream)
    log = structlog.get_logger("x")
    log.info(f"asked by {secret}, twice")
    log.info("nested", where={"list": [f"it is {secret}"], secret: 1})
    logging.getLogger("library").warning("peer %s went away", secret)
    try:
        raise ValueError(f"cannot take {secret}")
    except ValueError:
        log.exception("failed")
        logging.getLogger("library").exception("failed")
    assert secret not in stream.getvalue()
    assert stream.getvalue().count(REDACTED) >= 4


ADDRESSES = (
    "203.0.113.77",
    "203.000.113.077",
    "::ffff:203.0.113.77",
    "0:0:0:0:0:ffff:203.0.113.77",
    "64:ff9b::203.0.113.77",
    "2001:db8:5ca1:ab1e:7f3a:91c2:4d5e:6f70",
    "2001:db8::6f70",
    "2001:DB8:5ca1::",
)
AROUND = (
    "from {}.",
    "{}: refused",
    "[{}]:443",
    "{}...",
    "({},)",
    "'{}'",
    "{}/64",
    "for={};",
    "peer_{}",
    "ip{}",
    "{}%eth0",
)


@pytest.mark.parametrize("around", AROUND)
def test_of_an_address_nothing_is_left_whatever_stands_beside_it(around: str) -> None:
    for address in ADDRESSES:
        said = redact(around.format(address))
        assert not {"203", "113", "db8", "DB8", "5ca1", "6f70"} & set(re.split(r"[\W_]+", said)), said


def test_half_an_address_is_not_left_where_a_text_is_cut() -> None:
    for address in ADDRESSES:
        for left in range(len(address)):
            said = redact("x" * (LONGEST - 1 - left) + " " + address)
            assert set(said.removesuffix("…")) <= set("x " + REDACTED)


@pytest.mark.parametrize(
    "name",
    ["access_token", "Authorization", "content", "body", "ciphertext", "ip", "user_agent", "password", "new_password"],
)
def test_fields_that_are_secret_by_name(name: str) -> None:
    assert redact({name: "whatever", "kept": "whatever"}) == {name: REDACTED, "kept": "whatever"}
    assert redact({name: ["whatever"]}) == {name: REDACTED}


@pytest.mark.parametrize(
    "text",
    [
        "@sara:example.org",
        "!room:example.org",
        "$hash-of_an_event",
        "2026-01-02T03:04:05.678901Z",
        "took 12:30:59",
        "migration 0001_foundation",
        "10.5 of 11.25",
        "Python 3.11.2",
        "std::vector",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_the_servers_own_address_may_be_said(stream: io.StringIO) -> None:
    set_up_logging("info", "json", stream)
    structlog.get_logger("app").info("ready", address=Public("127.0.0.1:8008"))
    assert lines(stream)[0]["address"] == "127.0.0.1:8008"


def test_bytes_and_long_texts_are_cut_short() -> None:
    assert redact(b"\x00secret") == "[7 bytes]"
    assert len(redact("x" * 100_000)) == LONGEST + 1


def test_counters_are_rendered_for_prometheus() -> None:
    telemetry = Telemetry()
    sent = telemetry.counter("domicile_events", "Events sent.", ["node"])
    sent.inc("tehran")
    sent.inc("tehran", by=2)
    sent.inc("paris")
    assert telemetry.counter("domicile_events", "Events sent.", ["node"]) is sent
    rows = samples(telemetry)
    assert rows["domicile_events_total", ("tehran",)] == 3
    assert rows["domicile_events_total", ("paris",)] == 1


def test_a_counter_without_labels_is_there_from_the_start() -> None:
    telemetry = Telemetry()
    telemetry.counter("domicile_restarts", "Restarts.")
    assert samples(telemetry)["domicile_restarts_total", ()] == 0


def test_histograms_are_cumulative() -> None:
    telemetry = Telemetry()
    waits = telemetry.histogram("domicile_wait_seconds", "Waits.", ["kind"], bounds=[0.1, 1])
    for value in (0.05, 0.1, 0.5, 7):
        waits.observe(value, "read")
    rows = samples(telemetry)
    assert rows["domicile_wait_seconds_bucket", ("read", "0.1")] == 2
    assert rows["domicile_wait_seconds_bucket", ("read", "1.0")] == 3
    assert rows["domicile_wait_seconds_bucket", ("read", "+Inf")] == 4
    assert rows["domicile_wait_seconds_count", ("read",)] == 4
    assert rows["domicile_wait_seconds_sum", ("read",)] == pytest.approx(7.65)


def test_gauges_are_looked_up_when_asked() -> None:
    telemetry = Telemetry()
    up: dict[tuple[str, ...], float] = {("tehran",): 1.0}
    telemetry.gauge("domicile_node_up", "Whether a node answers.", lambda: up, ["node"])
    telemetry.gauge("domicile_listeners", "Long-polls.", lambda: 7)
    assert samples(telemetry)["domicile_node_up", ("tehran",)] == 1
    up["tehran",] = 0
    assert samples(telemetry)["domicile_node_up", ("tehran",)] == 0
    assert samples(telemetry)["domicile_listeners", ()] == 7


def test_a_name_has_one_kind() -> None:
    telemetry = Telemetry()
    telemetry.counter("domicile_events", "Events sent.")
    with pytest.raises(TypeError):
        telemetry.histogram("domicile_events", "Events sent.")


def test_the_process_is_measured() -> None:
    assert samples(Telemetry())["process_resident_memory_bytes", ()] > 1_000_000


def samples(telemetry: Telemetry) -> dict[tuple[str, tuple[str, ...]], float]:
    text = telemetry.render().decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class OurFault(Exception):
    """An exception of the program's own."""

    __module__ = "homeserver.storage.engine"


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_is_shown_without_the_value_that_it_quotes(stream: io.StringIO, form: str) -> None:
    set_up_logging("info", form, stream)
    said = "what somebody wrote"
    try:
        try:
            dict[str, str]()[said]
        except KeyError:
            int(said)
    except ValueError as fault:
        try:
            raise ExceptionGroup(said, [OurFault("no such table"), UnicodeError(said)]) from fault
        except ExceptionGroup:
            logging.getLogger("library").exception("failed")
            structlog.get_logger("x").exception("failed")
    shown = stream.getvalue()
    assert said not in shown.replace("said = ", "")
    for part in ("KeyError", "ValueError", "UnicodeError", "OurFault: no such table", "int(said)", "test_telemetry.py"):
        assert shown.count(part) >= 2, part


def test_an_exception_that_leads_to_itself_is_shown(stream: io.StringIO) -> None:
    set_up_logging("info", "json", stream)
    first, second = OurFault("first"), OurFault("second")
    first.__cause__, second.__cause__ = second, first
    structlog.get_logger("x").error("failed", exc_info=first)
    (line,) = lines(stream)
    assert str(line["exception"]).count("OurFault: ") == 2
