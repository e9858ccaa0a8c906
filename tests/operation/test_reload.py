"""SIGHUP: residency.toml is read again; what is wrong with it is logged, and the policy before stays in force."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.interop.api import Api, ApiError
from tests.interop.deployment import FLOWS
from tests.operation.product import Product


@pytest.fixture
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A deployment between whose nodes nothing flows."""
    with Product(tmp_path_factory.mktemp("reload"), flows=False) as running:
        yield running


def reloaded(product: Product, pattern: str) -> str:
    """Have the policy read again, and wait for a line of the log; what was logged until then."""
    before = product.lines
    product.send(signal.SIGHUP)
    product.logged(pattern, after=before)
    return product.since(before)


def invite(sender: Api, room: str) -> None:
    """Invite Bob, who rests on the other node."""
    sender.client("POST", f"/rooms/{quote(room)}/invite", {"user_id": "@bob:domicile.test"})


def test_a_flow_that_is_added_holds_at_once_and_one_that_is_removed_no_more(product: Product) -> None:
    alice, bob = product.user("alice", "tehran"), product.user("bob", "paris")
    room = alice.client("POST", "/createRoom", {})["room_id"]
    with pytest.raises(ApiError) as denied:
        invite(alice, room)
    assert denied.value.status == 403
    assert denied.value.body["org.domicile.reason"] == "flow_denied"
    before = product.policy.read_text()
    product.policy.write_text(before.replace("serial = 1", "serial = 2") + FLOWS)
    reloaded(product, "residency policy in force.*serial=2")
    invite(alice, room)
    assert bob.client("POST", f"/join/{quote(room)}", {})["room_id"] == room
    product.policy.write_text(before.replace("serial = 1", "serial = 3"))
    reloaded(product, "residency policy in force.*serial=3")
    other = alice.client("POST", "/createRoom", {})["room_id"]
    with pytest.raises(ApiError) as denied:
        invite(alice, other)
    assert denied.value.status == 403


def test_a_file_with_faults_changes_nothing_and_every_fault_is_logged(product: Product) -> None:
    alice = product.user("alice", "tehran")
    product.user("bob", "paris")
    room = alice.client("POST", "/createRoom", {})["room_id"]
    good = product.policy.read_text()
    better = good.replace("serial = 1", "serial = 2") + FLOWS
    faulty = better.replace('classes = ["*"]', 'classes = ["evnts"]').replace('to = ["FR"]', 'to = ["XQ"]')
    product.policy.write_text(faulty)
    said = reloaded(product, "not reloaded.*stays in force")
    assert re.search(r"residency\.toml:\d+: flows\[0\]\.to.*XQ", said)
    assert re.search(r"residency\.toml:\d+: flows\[1\]\.classes.*events", said)
    assert "Traceback" not in said
    with pytest.raises(ApiError) as denied:
        invite(alice, room)
    assert denied.value.status == 403
    product.policy.unlink()
    said = reloaded(product, "not reloaded.*stays in force")
    assert "cannot be read: No such file" in said
    product.policy.write_text(better)
    reloaded(product, "residency policy in force")
    invite(alice, room)


@pytest.mark.parametrize(
    ("old", "new", "named", "advice"),
    [
        ("sqlite:paris/node.db", "sqlite:elsewhere/node.db", "paris", "restart"),
        ("file:tehran/media", "file:elsewhere/media", "tehran", "restart"),
        ('[nodes.paris]\njurisdiction = "FR"', '[nodes.paris]\njurisdiction = "IR"', "paris", "residency plan"),
        (
            "[[pins]]",
            '[nodes.lyon]\njurisdiction = "FR"\ndatabase = "sqlite:l/node.db"\nmedia = "file:l/media"\n[[pins]]',
            "lyon",
            "restart",
        ),
    ],
    ids=["database", "media", "jurisdiction", "added"],
)
def test_changed_nodes_are_refused(product: Product, old: str, new: str, named: str, advice: str) -> None:
    """They need a restart, or a plan where data would have to move; the line says so, and which they are."""
    changed = product.policy.read_text().replace(old, new, 1).replace("serial = 1", "serial = 2")
    product.policy.write_text(changed + FLOWS)
    said = reloaded(product, "not reloaded.*stays in force")
    assert advice in said
    assert named in said
    alice = product.user("alice", "tehran")
    product.user("bob", "paris")
    room = alice.client("POST", "/createRoom", {})["room_id"]
    with pytest.raises(ApiError) as denied:
        invite(alice, room)
    assert denied.value.status == 403
    assert not (product.folder / "data" / "elsewhere").exists()


SERVICE = """
[[application_services]]
registration = "bridge.yaml"
node = "tehran"
"""
REGISTRATION = """
id: bridge
url: null
as_token: a-token-of-the-bridge
hs_token: a-token-for-the-bridge
sender_localpart: _bridge_bot
namespaces: {users: [{exclusive: true, regex: "@_bridge_.*"}]}
"""


def registers(product: Product, name: str) -> int:
    """The status of the answer to a service that registers a user."""
    body = {"type": "m.login.application_service", "username": name, "inhibit_login": True}
    try:
        Api(product.base_url, "a-token-of-the-bridge").client("POST", "/register", body)
    except ApiError as refused:
        return refused.status
    return 200


def test_application_services_come_and_go(product: Product) -> None:
    without = product.settings.read_text()
    assert registers(product, "_bridge_one") == 401
    product.add(SERVICE)
    said = reloaded(product, "the application services were not reloaded; those before stay registered")
    assert re.search(r"bridge\.yaml: cannot be read", said)
    assert registers(product, "_bridge_one") == 401
    (product.folder / "bridge.yaml").write_text(REGISTRATION)
    reloaded(product, "application services in force.*bridge")
    assert registers(product, "_bridge_one") == 200
    said = reloaded(product, "certificates in use")
    assert "application services" not in said, "nothing has changed"
    (product.folder / "bridge.yaml").write_text(REGISTRATION.replace("hs_token", "ha_token"))
    said = reloaded(product, "the application services were not reloaded")
    assert "hs_token: is missing" in said
    assert "a-token-of-the-bridge" not in said
    assert registers(product, "_bridge_two") == 200
    product.settings.write_text(without + "\n[users]\npresence = false\n")
    said = reloaded(product, "other changes, which hold after a restart")
    assert "application services in force" in said
    assert registers(product, "_bridge_three") == 401
