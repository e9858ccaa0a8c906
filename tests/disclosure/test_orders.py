"""An order from the paper to the phone number, and everything that it lacks on the way: refused, and written down."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from homeserver.protocol.errors import DisclosureRefused, InvalidParam, NotFound
from homeserver.protocol.signing import SigningKey
from homeserver.storage.directory import Kind
from tests.deployment import Deploy
from tests.disclosure.bureau import DAY, PHONE, Bureau, policy, signed
from tests.support import ON_SQLITE, aio


def why(refused: pytest.ExceptionInfo[DisclosureRefused]) -> str:
    return str(refused.value.fields["org.domicile.disclosure_refused"])


@aio
async def test_an_order_is_recorded_approved_and_opened_once(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    order = await bureau.request("sara", "hamid", fields=["phone_number", "registration_time"])
    assert order["order"]["accounts"] == ["@hamid:example.org", "@sara:example.org"]
    assert (await bureau.approve(order, "parisa"))["given"] == ["parisa"]
    assert await bureau.approve(order, "reza") == {"order": "tehran/1", "given": ["parisa", "reza"], "needed": 2}
    made = bureau.now
    answer = await bureau.open(order)
    assert answer == {
        "order": "tehran/1",
        "accounts": [
            {"user_id": "@hamid:example.org", "phone_number": [], "registration_time": made},
            {"user_id": "@sara:example.org", "phone_number": [PHONE], "registration_time": made},
        ],
    }
    with pytest.raises(DisclosureRefused, match="opened already") as again:
        await bureau.open(order)
    assert why(again) == "not_open"
    assert await bureau.kinds() == ["requested", "approved", "approved", "opened", "failed"]
    shown = str(await bureau.shown())
    assert "Court 3" in shown
    for secret in ("sara", "hamid", PHONE, "17/4", "parisa", "reza"):
        assert secret not in shown
    assert (await bureau.command("disclose-list"))["orders"][0]["state"] == "opened"


REFUSED_AT_ONCE: dict[str, dict[str, Any]] = {
    "beyond_ceiling": {"fields": ["phone_number", "email_address"]},
    "account_elsewhere": {"accounts": ["sara", "marie"]},
    "wrong_jurisdiction": {"jurisdiction": "FR", "node": "tehran"},
    "expired": {"expires": 1},
}


@ON_SQLITE
@aio
async def test_an_order_that_cannot_be_carried_out_is_recorded_and_refused(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    for word, wished in REFUSED_AT_ONCE.items():
        with pytest.raises(DisclosureRefused) as refused:
            await bureau.request(**wished)
        assert why(refused) == word
    with pytest.raises(DisclosureRefused) as nowhere:
        await bureau.request("marie", jurisdiction="FR")
    assert why(nowhere) == "beyond_ceiling", "there is no ceiling in France"
    assert await bureau.kinds() == ["requested", "refused"] * 4
    (register,) = (await bureau.shown())["registers"]
    told = [each["details"]["why"] for each in register["records"] if each["entry"]["kind"] == "refused"]
    assert told == list(REFUSED_AT_ONCE)
    order = await bureau.command("disclose-show", node="tehran", number=1)
    assert order["state"] == "refused"
    with pytest.raises(DisclosureRefused):
        await bureau.approve(order, "parisa")
    assert (await bureau.shown("FR"))["registers"][0]["head"]["counts"]["refused"] == 1


@ON_SQLITE
@aio
async def test_what_is_no_order_is_not_recorded(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    wrong: list[dict[str, Any]] = [
        {"accounts": []},
        {"fields": []},
        {"authority": " "},
        {"document_sha256": "paper"},
        {"since": 5, "until": 5},
        {"node": "berlin"},
        {"jurisdiction": "DE"},
        {"accounts": ["@:"]},
    ]
    for wished in wrong:
        with pytest.raises(InvalidParam):
            await bureau.request(**wished)
    assert await bureau.kinds() == []


@ON_SQLITE
@aio
async def test_an_approval_counts_once_and_only_from_an_approver_for_this_order(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    order, other = await bureau.request(), await bureau.request("hamid")
    stranger = SigningKey("1", b"s" * 32)
    tries = {
        "bad_signature": signed(order, "parisa", stranger),
        "no_approver": signed(order, "nobody", stranger),
        "other_order": signed(other, "parisa"),
    }
    for word, approval in tries.items():
        with pytest.raises(DisclosureRefused) as refused:
            await bureau.command("disclose-approve", node="tehran", number=1, approval=approval)
        assert why(refused) == word
    with pytest.raises(InvalidParam):
        await bureau.command("disclose-approve", node="tehran", number=1, approval={"type": "yes"})
    await bureau.approve(order, "parisa")
    with pytest.raises(DisclosureRefused) as twice:
        await bureau.approve(order, "parisa")
    assert why(twice) == "approved_already"
    with pytest.raises(DisclosureRefused, match="1 of 2") as few:
        await bureau.open(order)
    assert why(few) == "approvals_missing"
    assert await bureau.kinds() == ["requested"] * 2 + ["failed"] * 3 + ["approved", "failed", "failed"]
    with pytest.raises(NotFound):
        await bureau.open({"order": {"node": "tehran", "number": 9}})


@ON_SQLITE
@aio
async def test_the_policy_of_the_day_holds_beside_that_of_the_order(deploy: Deploy) -> None:
    from config.load import policy_from_text

    bureau = await Bureau.opened(deploy)
    order = await bureau.approved()
    server = bureau.deployment.server
    for word, rules in {
        "beyond_ceiling": policy(fields=["ip_addresses"], serial=2),
        "approvals_missing": policy(approvals=3, serial=2),
    }.items():
        server.policy.now = policy_from_text(rules, "residency.toml", server.name)
        with pytest.raises(DisclosureRefused) as refused:
            await bureau.open(order)
        assert why(refused) == word
    nobody = policy(serial=2).partition("[disclosure.IR.approvers]")[0]
    server.policy.now = policy_from_text(nobody, "residency.toml", server.name)
    with pytest.raises(DisclosureRefused) as refused:
        await bureau.open(order)
    assert why(refused) == "no_approvers"
    server.policy.now = policy_from_text(policy(approvals=1, approvers=["shirin"]), "residency.toml", server.name)
    await bureau.approve(order, "shirin")
    with pytest.raises(DisclosureRefused, match="1 of 2"):
        await bureau.open(order)
    server.policy.now = policy_from_text(policy(), "residency.toml", server.name)
    assert (await bureau.open(order))["accounts"][0]["phone_number"] == [PHONE]


@ON_SQLITE
@aio
async def test_what_is_narrowed_is_approved_again_and_never_wider(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    order = await bureau.approved("sara", "hamid", fields=["phone_number", "registration_time"], since=5)
    named = bureau.named(order)
    for wider in (
        {"since": 4},
        {"accounts": ["sara", "marie"]},
        {"expires": bureau.now + 30 * DAY},
        {"fields": ["last_seen"]},
        {"until": bureau.now + 2 * DAY},
        {},
    ):
        with pytest.raises(InvalidParam):
            await bureau.command("disclose-narrow", **named, reason="more", **wider)
    await bureau.command("disclose-narrow", **named, reason="too much", accounts=["sara"], fields=["phone_number"])
    with pytest.raises(DisclosureRefused, match="0 of 2"):
        await bureau.open(order)
    with pytest.raises(DisclosureRefused) as old:
        await bureau.approve(order, "shirin")
    assert why(old) == "other_order"
    narrowed = await bureau.command("disclose-show", **named)
    await bureau.approve(narrowed, "parisa", "shirin")
    assert (await bureau.open(order))["accounts"] == [{"user_id": "@sara:example.org", "phone_number": [PHONE]}]
    assert "too much" not in str(await bureau.shown())


@ON_SQLITE
@aio
async def test_what_was_refused_cannot_be_opened(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    order = await bureau.approved()
    await bureau.command("disclose-refuse", **bureau.named(order), reason="not competent")
    with pytest.raises(DisclosureRefused, match="was refused"):
        await bureau.open(order)
    with pytest.raises(DisclosureRefused):
        await bureau.command("disclose-refuse", **bureau.named(order), reason="again")
    with pytest.raises(DisclosureRefused, match="was refused"):
        await bureau.approve(order, "shirin")
    assert (await bureau.kinds())[-4:] == ["refused", "failed", "failed", "failed"]


@ON_SQLITE
@aio
async def test_who_has_moved_away_meanwhile_is_not_disclosed(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    order = await bureau.approved()
    await bureau.tehran.write(_unsettle, "@sara:example.org")
    with pytest.raises(DisclosureRefused) as refused:
        await bureau.open(order)
    assert why(refused) == "account_elsewhere"


@ON_SQLITE
@aio
async def test_what_has_yet_to_be_erased_of_who_has_moved_is_not_disclosed(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    order = await bureau.approved()
    nodes = bureau.deployment.server.nodes
    await nodes.directory.reroute(Kind.USER, "sara", "paris")
    for attempt in (bureau.open(order), bureau.request(), bureau.approve(order, "shirin")):
        with pytest.raises(DisclosureRefused) as refused:
            await attempt
        assert why(refused) == "account_elsewhere"


async def _unsettle(tx: Any, user_id: str) -> None:
    await tx.run(
        "UPDATE users SET user_id = '@moved:example.org' WHERE user_id = ?",
        user_id,
    )


@ON_SQLITE
@aio
async def test_only_what_was_there_before_the_end_of_the_period_is_told(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    order = await bureau.approved(fields=["phone_number", "registration_time"], until=bureau.now)
    (account,) = (await bureau.open(order))["accounts"]
    assert account == {"user_id": "@sara:example.org", "phone_number": [], "registration_time": None}


@aio
async def test_an_order_opens_once_for_two_who_open_it_together(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    order = await bureau.approved()
    answers = await asyncio.gather(bureau.open(order), bureau.open(order), return_exceptions=True)
    assert sorted(type(each).__name__ for each in answers) == ["DisclosureRefused", "dict"]
    assert (await bureau.kinds())[-2:] == ["opened", "failed"]
