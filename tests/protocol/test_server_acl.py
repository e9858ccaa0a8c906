"""Server access control lists. spec: client-server-api/#mroomserver_acl"""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.protocol import server_acl
from tests.protocol.rooms import ALICE, Sent


def allowed(name: str, **content: Any) -> bool:
    return server_acl.allows(Sent("$1", "!r:a.example", "m.room.server_acl", ALICE, content, ""), name)


def test_without_a_list_everybody_may() -> None:
    assert server_acl.allows(None, "a.example")
    assert not server_acl.allows(None, "no server name")


@pytest.mark.parametrize("name", ["evil.example", "evil.example:8448", "EVIL.example:1", "eVil.Example"])
def test_port_and_case_do_not_count(name: str) -> None:
    assert not allowed(name, allow=["*"], deny=["Evil.example"])
    assert allowed(name, allow=["evil.EXAMPLE"], deny=["good.example"])


def test_patterns() -> None:
    lists = {"allow": ["*.example"], "deny": ["*.evil.example", "?.example"]}
    assert allowed("good.example", **lists)
    assert allowed("evil.example", **lists)
    assert not allowed("very.evil.example", **lists)
    assert not allowed("x.example", **lists)
    assert not allowed("good.example.org", **lists), "a pattern is for the whole name"


def test_nobody_is_allowed_who_is_not_named() -> None:
    assert not allowed("a.example")
    assert not allowed("a.example", deny=[])
    assert not allowed("a.example", allow="*")
    assert not allowed("a.example", allow=[7, None, {"*": "*"}])
    assert allowed("a.example", allow=[7, "*"], deny="a.example")


@pytest.mark.parametrize("name", ["1.2.3.4", "1.2.3.4:8448", "[2001:db8::1]", "[2001:db8::1]:443"])
def test_addresses(name: str) -> None:
    assert not allowed(name, allow=["*"], allow_ip_literals=False)
    assert allowed(name, allow=["*"])
    assert allowed(name, allow=["*"], allow_ip_literals="false"), "what is no boolean counts as true"
    assert not allowed(name, allow=["*"], deny=["1.2.*", "[[]2001*", "[2001:db8::1]"])


def test_a_name_is_no_address() -> None:
    assert allowed("a.example", allow=["*"], allow_ip_literals=False)
    assert allowed("1.2.3.4.example", allow=["*"], allow_ip_literals=False)
