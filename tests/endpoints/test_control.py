"""What the command line may ask of a running server, and what it is told when it asks amiss."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deployment import PASSWORD, Deployment
from tests.support import aio

COMMAND = "/_domicile/v1/control/"
NEW = {"localpart": "alice", "password": PASSWORD}


@aio
async def test_an_account_is_made_and_shown(deployment: Deployment) -> None:
    made = await deployment.asked("POST", COMMAND + "user-add", {**NEW, "node": "paris", "phone": "+33123456789"})
    assert made.json == {"user_id": "@alice:example.org", "node": "paris"}
    shown = await deployment.asked("POST", COMMAND + "user-show", {"user": "alice"})
    assert shown.json["threepids"] == [{"medium": "msisdn", "address": "33123456789"}]


@pytest.mark.parametrize(
    ("command", "arguments", "errcode"),
    [
        ("user-add", {}, "M_MISSING_PARAM"),
        ("user-add", {**NEW, "localpart": None}, "M_MISSING_PARAM"),
        ("user-add", {**NEW, "password": 5}, "M_BAD_JSON"),
        ("user-add", {**NEW, "phone": ["+33123456789"]}, "M_BAD_JSON"),
        ("user-add", {**NEW, "phone": "0123"}, "M_INVALID_PARAM"),
        ("user-add", {**NEW, "node": {}}, "M_BAD_JSON"),
        ("user-show", {"user": "a\0b"}, "M_BAD_JSON"),
        ("user-show", {"user": "nobody"}, "M_NOT_FOUND"),
        ("user-deactivate", {"user": 1}, "M_BAD_JSON"),
        ("user-reset-password", {"user": "alice"}, "M_MISSING_PARAM"),
        ("user-sing", {}, "M_UNRECOGNIZED"),
    ],
)
@aio
async def test_what_is_asked_amiss(
    deployment: Deployment, command: str, arguments: dict[str, Any], errcode: str
) -> None:
    await deployment.user("alice")
    answer = await deployment.asked("POST", COMMAND + command, arguments)
    assert answer.errcode == errcode
