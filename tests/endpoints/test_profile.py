"""Profiles, over the routes: who may read them where, and what a change causes."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.accounts.profile import CHANGED
from homeserver.storage import chores
from tests.deployment import FLOWING, POLICY, Deploy, Deployment
from tests.support import aio

PROFILE = "/_matrix/client/v3/profile"
ALICE = f"{PROFILE}/@alice:example.org"


@aio
async def test_setting_reading_and_deleting(deployment: Deployment) -> None:
    alice, bob = await deployment.user("alice"), await deployment.user("bob")
    assert (await bob.asks("GET", ALICE)).json == {}
    values = {
        "displayname": "آلیس 🌷",
        "avatar_url": "mxc://example.org/abc",
        "m.tz": "Asia/Tehran",
        "org.example.pronouns": [{"summary": "she", "n": 1.5}],
        "org.example.nothing": None,
    }
    for name, value in values.items():
        assert (await alice.asks("PUT", f"{ALICE}/{name}", {name: value, "other": 1})).json == {}
    for path in (ALICE, "/_matrix/client/unstable/uk.tcpip.msc4133/profile/@alice:example.org"):
        assert (await bob.asks("GET", path)).json == values
    for name, value in values.items():
        assert (await bob.asks("GET", f"{ALICE}/{name}")).json == {name: value}
        assert (await alice.asks("DELETE", f"{ALICE}/{name}")).json == {}
        assert (await alice.asks("DELETE", f"{ALICE}/{name}")).json == {}
        answer = await bob.asks("GET", f"{ALICE}/{name}")
        assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
    assert (await bob.asks("GET", ALICE)).json == {}


@aio
async def test_an_empty_name_or_avatar_removes_it(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    for name, value in (("displayname", "Alice"), ("avatar_url", "mxc://example.org/abc")):
        await alice.asks("PUT", f"{ALICE}/{name}", {name: value})
        assert (await alice.asks("PUT", f"{ALICE}/{name}", {name: ""})).status == 200
        assert (await alice.asks("GET", f"{ALICE}/{name}")).status == 404


@pytest.mark.parametrize(
    ("name", "value", "errcode"),
    [
        ("displayname", 5, "M_BAD_JSON"),
        ("displayname", None, "M_BAD_JSON"),
        ("displayname", "x" * 257, "M_INVALID_PARAM"),
        ("displayname", "a\0b", "M_INVALID_PARAM"),
        ("avatar_url", "https://example.org/a.png", "M_INVALID_PARAM"),
        ("avatar_url", "mxc://example.org/../etc", "M_INVALID_PARAM"),
        ("m.tz", ["Europe/Paris"], "M_BAD_JSON"),
        ("nickname", "x", "M_INVALID_PARAM"),
        ("Org.example", "x", "M_INVALID_PARAM"),
        ("org.example.bad!", "x", "M_INVALID_PARAM"),
        ("a." + "x" * 254, "x", "M_KEY_TOO_LARGE"),
        ("org.example.big", "x" * 65_536, "M_PROFILE_TOO_LARGE"),
    ],
)
@aio
async def test_what_is_refused(deployment: Deployment, name: str, value: object, errcode: str) -> None:
    alice = await deployment.user("alice")
    answer = await alice.asks("PUT", f"{ALICE}/{name}", {name: value})
    assert (answer.status, answer.errcode) == (400, errcode)
    assert (await alice.asks("GET", ALICE)).json == {}


@aio
async def test_the_whole_profile_is_bounded(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    for part in ("a", "b"):
        body = {f"org.example.{part}": "x" * 32_000}
        assert (await alice.asks("PUT", f"{ALICE}/org.example.{part}", body)).status == 200
    answer = await alice.asks("PUT", f"{ALICE}/org.example.c", {"org.example.c": "x" * 2000})
    assert answer.errcode == "M_PROFILE_TOO_LARGE"


@aio
async def test_the_value_must_be_there(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    assert (await alice.asks("PUT", f"{ALICE}/displayname", {"avatar_url": "x"})).errcode == "M_MISSING_PARAM"
    assert (await alice.asks("PUT", f"{ALICE}/displayname", b"x")).errcode == "M_NOT_JSON"


@aio
async def test_nobody_changes_the_profile_of_somebody_else(deployment: Deployment) -> None:
    await deployment.user("alice")
    bob = await deployment.user("bob")
    assert (await bob.asks("PUT", f"{ALICE}/displayname", {"displayname": "Bob"})).errcode == "M_FORBIDDEN"
    assert (await bob.asks("DELETE", f"{ALICE}/displayname")).errcode == "M_FORBIDDEN"
    assert (await deployment.asked("PUT", f"{ALICE}/displayname", {"displayname": "x"})).status == 401


@aio
async def test_who_is_not_here(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    answer = await alice.asks("GET", f"{PROFILE}/@nobody:example.org")
    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
    border = await alice.asks("GET", f"{PROFILE}/@alice:elsewhere.org")
    assert (border.status, border.json["org.domicile.reason"]) == (403, "flow_denied")
    assert (await deployment.asked("GET", f"{PROFILE}/@alice:elsewhere.org")).status == 404
    assert (await alice.asks("GET", f"{PROFILE}/nobody")).errcode == "M_INVALID_PARAM"


@aio
async def test_a_profile_crosses_a_border_only_by_a_flow(deploy: Deploy) -> None:
    closed = await deploy()
    alice, bob = await closed.user("alice", "tehran"), await closed.user("bob", "paris")
    await alice.asks("PUT", f"{ALICE}/displayname", {"displayname": "Alice"})
    for path in (ALICE, f"{ALICE}/displayname"):
        answer = await bob.asks("GET", path)
        assert (answer.status, answer.json["org.domicile.reason"]) == (403, "flow_denied")
        assert answer.json["org.domicile.flow"] == {"from": "IR", "to": "FR", "class": "profile"}
        assert (await closed.asked("GET", path)).json["org.domicile.flow"]["to"] == "unknown"
        assert (await alice.asks("GET", path)).status == 200


@aio
async def test_a_profile_crosses_a_border_by_a_flow(deploy: Deploy) -> None:
    deployment = await deploy(policy=FLOWING)
    alice, bob = await deployment.user("alice", "tehran"), await deployment.user("bob", "paris")
    await alice.asks("PUT", f"{ALICE}/displayname", {"displayname": "Alice"})
    assert (await bob.asks("GET", f"{ALICE}/displayname")).json == {"displayname": "Alice"}


@aio
async def test_a_profile_is_public_where_the_policy_says_so(deploy: Deploy) -> None:
    flow = '[[flows]]\nfrom = "IR"\nto = ["unknown"]\nclasses = ["profile"]\n'
    deployment = await deploy(policy=POLICY + flow)
    alice = await deployment.user("alice", "tehran")
    await alice.asks("PUT", f"{ALICE}/displayname", {"displayname": "Alice"})
    assert (await deployment.asked("GET", ALICE)).json == {"displayname": "Alice"}


@aio
async def test_a_changed_name_asks_for_member_events(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    node = (await alice.caller()).node

    async def asked() -> int:
        return len(await node.read(chores.waiting, CHANGED, 100))

    async def change(name: str, value: Any) -> None:
        assert (await alice.asks("PUT", f"{ALICE}/{name}", {name: value})).status == 200

    with deployment.server.wakeups.listen([chores.key(node.name, CHANGED)]) as ear:
        await change("displayname", "Alice")
        assert await ear.wait(1.0)
    assert await asked() == 1
    await change("displayname", "Alice")  # nothing new
    await change("m.tz", "Asia/Tehran")  # not in member events
    assert await asked() == 1
    await change("avatar_url", "mxc://example.org/abc")
    await alice.asks("DELETE", f"{ALICE}/displayname")
    await alice.asks("DELETE", f"{ALICE}/displayname")
    assert await asked() == 3
