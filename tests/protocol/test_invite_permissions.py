"""Whom a user lets invite them."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.protocol.invite_permissions import Action, read, strictest

FRIEND, STRANGER, FOE = "@friend:a.test", "@stranger:b.test", "@foe:evil.test"


@pytest.mark.parametrize(
    ("content", "friend", "stranger", "foe"),
    [
        ({}, "ALLOW", "ALLOW", "ALLOW"),
        ({"default_action": "allow"}, "ALLOW", "ALLOW", "ALLOW"),
        ({"default_action": "block"}, "BLOCK", "BLOCK", "BLOCK"),
        ({"default_action": "block", "allowed_users": [FRIEND]}, "ALLOW", "BLOCK", "BLOCK"),
        ({"default_action": "block", "allowed_servers": ["?.test"]}, "ALLOW", "ALLOW", "BLOCK"),
        ({"blocked_servers": ["evil.*"]}, "ALLOW", "ALLOW", "BLOCK"),
        ({"blocked_servers": ["*"], "allowed_users": ["@friend:*"]}, "ALLOW", "BLOCK", "BLOCK"),
        (
            {"blocked_servers": ["*"], "allowed_servers": ["a.test"], "ignored_servers": ["b.test"]},
            *("ALLOW", "IGNORE", "BLOCK"),
        ),
        ({"ignored_users": ["@*:b.test"], "allowed_servers": ["b.test"]}, "ALLOW", "IGNORE", "ALLOW"),
        ({"blocked_users": [FRIEND], "allowed_users": [FRIEND]}, "ALLOW", "ALLOW", "ALLOW"),
        ({"blocked_users": ["*"], "enabled": False}, "ALLOW", "ALLOW", "ALLOW"),
        ({"blocked_users": FOE, "allowed_users": None, "ignored_servers": [1, {}, STRANGER]}, *["ALLOW"] * 3),
    ],
)
def test_what_is_done_with_an_invitation(content: dict[str, Any], friend: str, stranger: str, foe: str) -> None:
    said = read(content)
    assert [said.of(each).name for each in (FRIEND, STRANGER, FOE)] == [friend, stranger, foe]


def test_the_strictest_holds() -> None:
    block, ignore = read({"default_action": "block"}), read({"ignored_users": ["*"]})
    assert strictest([], FRIEND) is Action.ALLOW
    assert strictest([read({}), ignore], FRIEND) is Action.IGNORE
    assert strictest([ignore, block, read({"allowed_users": ["*"]})], FRIEND) is Action.BLOCK
