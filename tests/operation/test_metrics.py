"""`/metrics` and `/health` of the real product: what an operator watches, and nobody's name."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from homeserver import metrics
from homeserver.protocol.errors import ResidencyViolation
from homeserver.runtime.telemetry import Telemetry
from homeserver.storage.engine import Transaction
from tests.deployment import Deployment
from tests.interop.api import Api, ApiError
from tests.operation.product import Product
from tests.support import aio


class Numbers:
    """One answer of `/metrics`."""

    def __init__(self, product: Product) -> None:
        text = Api(product.base_url).fetch("GET", "/metrics").decode()
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """The number with exactly these labels. Raises ValueError unless there is one."""
        (found,) = [each.value for each in self.samples if each.name == name and each.labels == labels]
        return found

    def total(self, name: str, **labels: str) -> float:
        """The sum of all numbers that have these labels, whatever else they have."""
        return sum(each.value for each in self.samples if each.name == name and labels.items() <= each.labels.items())


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    """A deployment that is served."""
    with Product(tmp_path) as running:
        yield running


LABELS = {
    "method",
    "route",
    "status",
    "le",
    "node",
    "jurisdiction",
    "job",
    "outcome",
    "source",
    "destination",
    "direction",
    "cache",
}
"""What may be told apart: all of them come from the program and its configuration."""
WHOAMI = "/_matrix/client/v3/account/whoami"


def test_requests_are_counted_by_route_and_status(product: Product) -> None:
    alice = product.user("alice", "tehran")
    for _ in range(3):
        assert Api(product.base_url, alice.token).ask("GET", WHOAMI)
    with pytest.raises(ApiError):
        Api(product.base_url, "dom_nobody").ask("GET", WHOAMI)
    for path in ("/_matrix/client/v3/nothing/here", "/" + "x" * 100, "/_matrix/client/v3/rooms/!a:b/nothing"):
        with pytest.raises(ApiError):
            Api(product.base_url).ask("GET", path)
    numbers = Numbers(product)
    counted = "domicile_http_requests_total"
    assert numbers.value(counted, method="GET", route=WHOAMI, status="200") == 3
    assert numbers.value(counted, method="GET", route=WHOAMI, status="401") == 1
    assert numbers.value(counted, method="GET", route="(unmatched)", status="404") == 3
    assert numbers.value("domicile_http_seconds_count", method="GET", route=WHOAMI) == 4
    assert 0 < numbers.value("domicile_http_seconds_sum", method="GET", route=WHOAMI) < 60
    assert numbers.value("domicile_http_seconds_bucket", method="GET", route=WHOAMI, le="+Inf") == 4
    assert numbers.families["domicile_http_seconds"].type == "histogram"
    assert numbers.value("domicile_requests_under_way") == 1
    assert numbers.value("domicile_connections") >= 1
    assert numbers.value("process_resident_memory_bytes") > 10_000_000


def test_nobodys_name_is_a_label(product: Product) -> None:
    alice = product.user("alice", "tehran")
    room = alice.client("POST", "/createRoom", {"name": "Kitchen", "invite": []})["room_id"]
    alice.client("GET", f"/rooms/{quote(room)}/members")
    with pytest.raises(ApiError):
        alice.client("GET", f"/rooms/{quote('!gone:elsewhere.org')}/members")
    alice.client("PUT", "/profile/@alice:domicile.test/displayname", {"displayname": "Alice"})
    for sample in Numbers(product).samples:
        for label, value in sample.labels.items():
            assert label in LABELS, sample
            assert not re.search(r"alice|Alice|Kitchen|domicile\.test|elsewhere|127\.0\.0\.1", value), sample


def test_jobs_and_listeners(product: Product) -> None:
    numbers, end = Numbers(product), time.monotonic() + 60
    while numbers.total("domicile_job_runs_total") < 5:  # each runs once at the start
        assert time.monotonic() < end
        numbers = Numbers(product)
    assert numbers.total("domicile_job_runs_total", outcome="done") == numbers.total("domicile_job_runs_total")
    assert numbers.total("domicile_job_seconds_count", job="give back memory") <= 1
    assert numbers.total("domicile_job_failures") == 0
    assert numbers.value("domicile_listeners") >= 2, "what ships between the nodes listens"


def test_databases_and_what_waits_for_a_node_that_is_down(product: Product) -> None:
    """The outbox grows while the other node is away, and empties when it is back."""
    alice, bob = product.user("alice", "tehran"), product.user("bob", "paris")
    room = alice.client("POST", "/createRoom", {"invite": ["@bob:domicile.test"]})["room_id"]
    bob.client("POST", f"/join/{quote(room)}", {})
    numbers = Numbers(product)
    for node, country in (("tehran", "IR"), ("paris", "FR")):
        assert numbers.value("domicile_node_up", node=node, jurisdiction=country) == 1
        assert numbers.value("domicile_database_trips_total", node=node) > 10
        assert numbers.value("domicile_residency_violations_total", node=node) == 0
    assert {
        (each.labels["source"], each.labels["destination"])
        for each in numbers.samples
        if each.name == "domicile_outbox_rows"
    } == {("tehran", "paris"), ("paris", "tehran")}
    assert numbers.families["domicile_database_trips"].type == "counter"
    assert Api(product.base_url).ask("GET", "/health") == {"status": "ok", "nodes_down": []}
    with product.without("paris"):
        for word in ("one", "two", "three"):
            alice.client("PUT", f"/rooms/{quote(room)}/state/m.room.topic/", {"topic": word})
        numbers = Numbers(product)
        assert numbers.value("domicile_node_up", node="paris", jurisdiction="FR") == 0
        assert numbers.value("domicile_node_up", node="tehran", jurisdiction="IR") == 1
        assert numbers.value("domicile_outbox_rows", source="tehran", destination="paris") == 3
        assert Api(product.base_url).ask("GET", "/health") == {"status": "degraded", "nodes_down": ["paris"]}
    end = time.monotonic() + 60
    while Numbers(product).value("domicile_outbox_rows", source="tehran", destination="paris") > 0:
        assert time.monotonic() < end
    assert bob.client("GET", f"/rooms/{quote(room)}/state/m.room.topic/")["topic"] == "three"


@aio
async def test_refused_rows_are_shown_by_node(deployment: Deployment) -> None:
    metrics.show(deployment.server)
    paris = deployment.node("paris")

    async def misplace(tx: Transaction) -> None:
        await tx.run("INSERT INTO profiles (user_nid, field, value) VALUES (?, ?, ?)", 4711, "displayname", "x")

    for _ in range(2):
        with pytest.raises(ResidencyViolation):
            await paris.write(misplace)
    shown = (await deployment.server.telemetry.answer()).decode()
    assert 'domicile_residency_violations_total{node="paris"} 2.0' in shown
    assert 'domicile_residency_violations_total{node="tehran"} 0.0' in shown


@aio
async def test_a_number_that_cannot_be_had_keeps_no_other_back() -> None:
    telemetry = Telemetry()
    telemetry.gauge("domicile_present", "One.", lambda: 1.0)
    asked: list[str] = []

    async def fail() -> None:
        asked.append("failing")
        raise RuntimeError("no answer")

    async def hang() -> None:
        asked.append("hanging")
        await asyncio.Event().wait()

    telemetry.before_answers(fail)
    telemetry.before_answers(hang)
    assert b"domicile_present 1.0" in await telemetry.answer()
    assert asked == ["failing", "hanging"]
