"""docs/operations.md names every number that the server shows, and none that it does not; its examples are valid."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from config.load import policy_from_text, settings_from_text
from config.starter import initial_files
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
    own = ("domicile_federation_", "domicile_application_service_", "domicile_policy_server_", "domicile_peer_key_log_")
    of_peers = {name for name in named if name.startswith(own)}  # each is there once it counts
    assert of_peers == set(re.findall(rf'"((?:{"|".join(own)})\w+)"', _sources()))
    beginnings = ("domicile_outbound_", *own)
    assert named - of_peers == {name for name in shown if not name.startswith(beginnings)}


def _sources() -> str:
    paths = [path for top in ("homeserver", "federation") for path in (ROOT / top).rglob("*.py")]
    return "".join(path.read_text(encoding="utf-8") for path in paths)


def test_the_grace_of_the_manual_is_that_of_the_server() -> None:
    assert f"get {SHUTDOWN:.0f} seconds to end" in PAGE.read_text(encoding="utf-8")


def test_the_examples_about_other_servers_do_what_is_said_of_them() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("## Other servers")[2].partition("\n## ")[0]
    *served, allowed = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    files = initial_files("example.org", ["FR"])
    settings = settings_from_text("\n".join([files["domicile.toml"], *served]), environ={})
    assert [(each.port, each.tls is not None) for each in settings.listeners] == [(8008, False), (8448, True)]
    assert "federation" in settings.listeners[0].resources, "a proxy needs no listener more"
    assert settings.federation.allow_addresses
    assert settings.federation.ca_file
    before = policy_from_text(files["residency.toml"])
    assert before.room_may_span({"FR", "unknown"}), "nothing flows at first"
    policy = policy_from_text(files["residency.toml"] + allowed)
    (peer,) = tomllib.loads(allowed)["peers"]
    assert policy.jurisdiction_of_server("chat." + peer["server"].removeprefix("*.")) == peer["jurisdiction"] == "DE"
    assert policy.room_may_span({"FR", "DE", "unknown"}) == []
