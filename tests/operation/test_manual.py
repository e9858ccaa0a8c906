"""docs/operations.md names every number that the server shows, and none that it does not."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from homeserver.app import SHUTDOWN
from tests.interop.api import Api
from tests.operation.product import Product

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "operations.md"


def test_the_numbers_of_the_manual_are_those_of_the_server(tmp_path: Path) -> None:
    with Product(tmp_path) as product:
        text = Api(product.base_url).fetch("GET", "/metrics").decode()
    shown = {family.name for family in text_string_to_metric_families(text) if family.name.startswith("domicile_")}
    named = {name.removesuffix("_total") for name in re.findall(r"`(domicile_\w+)`", PAGE.read_text(encoding="utf-8"))}
    of_peers = {name for name in named if name.startswith("domicile_federation_")}  # each is there once it counts
    assert of_peers <= set(re.findall(r'"(domicile_federation_\w+)"', _sources()))
    beginnings = ("domicile_outbound_", "domicile_federation_")
    assert named - of_peers == {name for name in shown if not name.startswith(beginnings)}


def _sources() -> str:
    paths = [path for top in ("homeserver", "federation") for path in (ROOT / top).rglob("*.py")]
    return "".join(path.read_text(encoding="utf-8") for path in paths)


def test_the_grace_of_the_manual_is_that_of_the_server() -> None:
    assert f"get {SHUTDOWN:.0f} seconds to end" in PAGE.read_text(encoding="utf-8")
