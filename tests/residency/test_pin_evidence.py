"""Why somebody was pinned is written with their account, on their node, and goes with it."""

from __future__ import annotations

import pytest

from config.placement import Attributes
from homeserver.accounts import administration, registration, registration_tokens
from homeserver.accounts.registration import NewAccount
from homeserver.control import commands
from homeserver.storage import users
from homeserver.storage.engine import Transaction
from tests.deployment import POLICY, Deploy
from tests.support import aio

RULES = POLICY.replace(
    "[default]",
    """[[pins]]
phone_prefix = "+33"
node = "paris"
[[pins]]
phone_prefix = "+98"
token = "two-*"
node = "paris"
[[pins]]
choice = true
nodes = ["tehran", "paris"]
[default]""",
)


@pytest.mark.parametrize(
    ("attributes", "node", "how", "rule"),
    [
        (Attributes(phone="33123456789"), "paris", "phone", 'phone_prefix = "+33"'),
        (Attributes(token="fr-7"), "paris", "token", 'token = "fr-*"'),
        (
            Attributes(phone="98123456789", token="two-1"),
            "paris",
            "phone and token",
            'phone_prefix = "+98", token = "two-*"',
        ),
        (Attributes(choice="paris"), "paris", "choice", "choice = true"),
        (Attributes(may_ask=False), "tehran", "default", ""),
        (Attributes(node="paris"), "paris", "admin", ""),
        (Attributes(node="paris", named_by="service"), "paris", "service", ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@aio
async def test_the_reason_is_kept(deploy: Deploy, attributes: Attributes, node: str, how: str, rule: str) -> None:
    deployment = await deploy(policy=RULES)
    if attributes.token is not None:
        await registration_tokens.create(deployment.server, attributes.token)
    made = await registration.register(
        deployment.server, NewAccount(localpart="somebody", password=None, attributes=attributes)
    )
    assert made.node == node
    shown = await administration.show(deployment.server, made.user_id)
    assert shown.pinned is not None
    assert (shown.pinned.how, shown.pinned.rule) == (how, rule)
    assert shown.pinned.ts == shown.account.created_ts
    told = (await commands.perform(deployment.server, "user-show", {"user": "somebody"}))["pinned"]
    assert told == {"how": how, "rule": rule, "ts": shown.account.created_ts}


@aio
async def test_who_came_before_evidence_was_kept_is_shown_without(deploy: Deploy) -> None:
    deployment = await deploy()
    user = await deployment.user("parisa")
    await deployment.node("tehran").write(_forget, user.user_id)
    assert (await administration.show(deployment.server, user.user_id)).pinned is None


async def _forget(tx: Transaction, user_id: str) -> None:
    await tx.run("DELETE FROM pins WHERE user_nid = ?", await users.nid(tx, user_id))
