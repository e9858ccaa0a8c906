"""Sealed sessions under an order: wrong shares open nothing, and what is told is what was ordered."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import pytest

from config.disclosure import DISCLOSABLE
from homeserver.control.declared import declared_of
from homeserver.disclosure import opening
from homeserver.protocol import epochs
from homeserver.protocol.epochs import EpochSecret
from homeserver.protocol.errors import DisclosureRefused
from homeserver.sealing import writing
from homeserver.storage.engine import Transaction
from tests.deployment import Deploy
from tests.disclosure.bureau import CUSTODIANS, DAY, PHONE, Bureau
from tests.sealing.play import ADDRESS, AGENT, asks, noticing_all
from tests.support import ON_SQLITE, aio

SEALED = ["ip_addresses", "user_agents", "last_seen"]


async def used(bureau: Bureau, *names: str, address: str = ADDRESS) -> None:
    """Have people use their devices, and what is noticed written."""
    for name in names:
        user = bureau.people[name]
        assert await asks(user, address=address) == 200
    await writing.keep_sealed(bureau.deployment.server)


async def words(bureau: Bureau, order: dict[str, Any], *names: str) -> dict[str, list[str]]:
    """The shares of custodians for an order, by epoch."""
    handed = await bureau.command("disclose-shares", **bureau.named(order))
    return {
        str(each["epoch"]): [
            epochs.open_share(b64decode(each["shares"][name]), bytes(CUSTODIANS[name])).words for name in names
        ]
        for each in handed["epochs"]
    }


@aio
async def test_custodians_together_open_what_is_in_scope_and_nothing_else(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    noticing_all(bureau.deployment)
    began = bureau.now
    await used(bureau, "sara", "hamid")
    await bureau.deployment.clock.advance(DAY / 1000)
    await used(bureau, "sara", address="203.0.113.9")
    order = await bureau.approved(fields=[*SEALED, "phone_number"], until=began + DAY)
    answer = await bureau.open(order, shares=await words(bureau, order, "leila", "nasrin"))
    assert answer["accounts"] == [
        {
            "user_id": "@sara:example.org",
            "phone_number": [PHONE],
            "sessions": [{"ip_address": ADDRESS, "user_agent": AGENT, "seen": began}],
        }
    ]
    both = await bureau.approved("sara", "hamid", fields=["ip_addresses"], until=began + 9 * DAY)
    opened = await bureau.open(both, shares=await words(bureau, both, "omid", "leila"))
    assert [each["sessions"] for each in opened["accounts"]] == [
        [{"ip_address": ADDRESS}],
        [{"ip_address": ADDRESS}, {"ip_address": "203.0.113.9"}],
    ]
    shown = str(await bureau.shown())
    for said in (ADDRESS, AGENT, "sara", PHONE):
        assert said not in shown
    log = str(await bureau.command("admin-log"))
    for said in (ADDRESS, PHONE, *(await words_of_nobody(bureau))):
        assert said not in log


@ON_SQLITE
@aio
async def test_each_field_is_told_alone(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy, fields=DISCLOSABLE)
    noticing_all(bureau.deployment)
    began = bureau.now
    await used(bureau, "sara")
    parts: dict[str, dict[str, Any]] = {
        "ip_addresses": {"sessions": [{"ip_address": ADDRESS}]},
        "user_agents": {"sessions": [{"user_agent": AGENT}]},
        "last_seen": {"sessions": [{"seen": began}]},
        "phone_number": {"phone_number": [PHONE]},
        "email_address": {"email_address": []},
        "registration_time": {"registration_time": began},
    }
    assert parts.keys() == set(DISCLOSABLE)
    for name, part in parts.items():
        order = await bureau.approved(fields=[name], since=began - 1)
        (account,) = (await bureau.open(order, shares=await words(bureau, order, "leila", "omid")))["accounts"]
        assert account == {"user_id": "@sara:example.org", **part}
    since = await bureau.approved(fields=SEALED, since=began + 1)
    (account,) = (await bureau.open(since, shares=await words(bureau, since, "leila", "omid")))["accounts"]
    assert account["sessions"] == []


@ON_SQLITE
@aio
async def test_a_record_that_was_put_to_another_account_by_hand_is_not_told_of_it(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    noticing_all(bureau.deployment)
    await used(bureau, "sara")
    await used(bureau, "hamid", address="203.0.113.9")
    hamid = (await bureau.people["hamid"].caller()).user_nid
    assert await bureau.tehran.write(_give_all, hamid) == 2
    order = await bureau.approved("hamid", fields=["ip_addresses"])
    (account,) = (await bureau.open(order, shares=await words(bureau, order, "leila", "omid")))["accounts"]
    assert account["sessions"] == [{"ip_address": "203.0.113.9"}]


async def _give_all(tx: Transaction, user_nid: int) -> int:
    return await tx.run("UPDATE sessions SET user_nid = ?", user_nid)


async def words_of_nobody(bureau: Bureau) -> list[str]:
    """What could be in a log that must not: the texts of orders, and the first words of shares."""
    order = await bureau.approved(fields=SEALED)
    shares = await words(bureau, order, "leila")
    return ["Court 3", "17/4", *(" ".join(each.split()[:5]) for held in shares.values() for each in held)]


@ON_SQLITE
@aio
async def test_shares_that_are_not_right_open_nothing_and_the_register_says_so(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    noticing_all(bureau.deployment)
    await used(bureau, "sara")
    await bureau.deployment.clock.advance(8 * DAY / 1000)
    await used(bureau, "sara")
    order = await bureau.approved(fields=SEALED, until=bureau.now + DAY, expires=bureau.now + DAY)
    right = await words(bureau, order, "leila", "omid")
    (first, (one, two)), (second, others) = right.items()
    misspelt = " ".join([*one.split()[:-1], "academic" if one.split()[-1] != "academic" else "acid"])
    tries: dict[str, tuple[str, list[str]]] = {
        "was not copied well": ("share_refused", [misspelt, two]),
        "was entered as share 1": ("share_refused", [one, one.upper()]),
        "of another epoch": ("share_refused", [one, others[0]]),
        "1 of the 2 shares": ("shares_missing", [one]),
        "0 of the 2 shares": ("shares_missing", []),
    }
    for words_of_it, (why, entered) in tries.items():
        with pytest.raises(DisclosureRefused, match=words_of_it) as refused:
            await bureau.open(order, shares={first: entered, second: others})
        assert refused.value.why == why
    with pytest.raises(DisclosureRefused, match="0 of the 2"):
        await bureau.open(order, shares={first: [one, two]})
    assert (await bureau.kinds())[-6:] == ["failed"] * 6
    (account,) = (await bureau.open(order, shares=right))["accounts"]
    assert len(account["sessions"]) == 2


@ON_SQLITE
@aio
async def test_what_is_too_old_and_has_yet_to_be_destroyed_is_not_told(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    noticing_all(bureau.deployment)
    await used(bureau, "sara")
    await bureau.deployment.clock.advance(30 * DAY / 1000)
    await used(bureau, "sara", address="203.0.113.9")
    order = await bureau.approved(fields=["ip_addresses"], until=bureau.now + DAY, expires=bureau.now + 90 * DAY)
    right = await words(bureau, order, "leila", "omid")
    assert len(right) == 2
    await bureau.deployment.clock.advance(65 * DAY / 1000)
    newest = await words(bureau, order, "leila", "omid")
    assert list(newest) == list(right)[1:]
    (account,) = (await bureau.open(order, shares=right))["accounts"]
    assert account["sessions"] == [{"ip_address": "203.0.113.9"}]


@ON_SQLITE
@aio
async def test_custodians_are_handed_nothing_before_an_order_is_approved(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    noticing_all(bureau.deployment)
    await used(bureau, "sara", "hamid")
    order = await bureau.request(fields=SEALED)
    for name in ("parisa", "reza"):
        with pytest.raises(DisclosureRefused, match="of 2 approvals"):
            await bureau.command("disclose-shares", **bureau.named(order))
        await bureau.approve(order, name)
    assert len((await bureau.command("disclose-shares", **bureau.named(order)))["epochs"]) == 1
    plain = await bureau.approved("hamid")
    assert (await bureau.command("disclose-shares", **bureau.named(plain)))["epochs"] == []


@ON_SQLITE
@aio
async def test_secrets_are_wiped_whatever_comes(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    bureau = await Bureau.opened(deploy)
    noticing_all(bureau.deployment)
    await used(bureau, "sara")
    order = await bureau.approved(fields=SEALED)
    shares = await words(bureau, order, "leila", "omid")
    made: list[EpochSecret] = []
    combine = epochs.combine

    def remembered(*arguments: Any) -> EpochSecret:
        made.append(combine(*arguments))
        return made[-1]

    async def fails(*_: Any) -> None:
        raise RuntimeError("broken off")

    monkeypatch.setattr(epochs, "combine", remembered)
    with monkeypatch.context() as patch:
        patch.setattr(opening, "_account", fails)
        with pytest.raises(RuntimeError):
            await bureau.open(order, shares=shares)
    await bureau.open(order, shares=shares)
    assert [bytes(each._key) for each in made] == [bytes(32)] * 2


def test_what_opens_is_not_kept_of_a_command() -> None:
    declared = declared_of("disclose-open")
    assert declared.kept({"node": "tehran", "number": 1, "shares": {"1": ["words"]}}, persons=True) == {
        "node": "tehran",
        "number": 1,
    }
    assert declared.door is None
