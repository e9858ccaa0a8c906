"""A clock that had run ahead, and a key log that began anew: neither lets an order live longer, or open twice, and what
an operator does about it is told to everybody."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.disclosure import lapsing, opening, register
from homeserver.protocol.errors import Conflict, DisclosureRefused, InvalidParam
from homeserver.storage import disclosures, key_log
from homeserver.transparency import sequencing
from tests.deployment import Deploy
from tests.disclosure.bureau import DAY, Bureau, policy
from tests.disclosure.test_register import _put_back, checked, stranger
from tests.disclosure.test_sealed import SEALED, used, words
from tests.sealing.play import noticing_all
from tests.support import ON_SQLITE, aio
from tests.transparency.test_key_log import _lose

AHEAD = 4000 * DAY


async def findings(bureau: Bureau) -> str:
    """What the doctor finds."""
    return str((await bureau.command("doctor", node="tehran"))["findings"])


@aio
async def test_who_sets_a_clock_right_that_had_run_ahead_says_so_and_goes_on(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    server, clock = bureau.deployment.server, bureau.deployment.clock
    first, last = await bureau.approved(), await bureau.approved(expires=bureau.now + 2 * AHEAD)
    hidden = await bureau.request("hamid", expires=bureau.now + 2 * AHEAD, gag_until=bureau.now + 2 * AHEAD)
    with pytest.raises(Conflict, match="nothing to do"):
        await bureau.command("disclose-clock", node="tehran", reason="why not")
    clock._start_ms += AHEAD
    await lapsing.lapse_all(server)
    assert "still to come" not in await findings(bureau)
    clock._start_ms -= AHEAD
    for attempt in (bureau.open(last), bureau.request(), bureau.approve(last, "shirin")):
        with pytest.raises(DisclosureRefused, match=r"has seen 2034-11-06.*domicile disclose clock tehran") as refused:
            await attempt
        assert refused.value.why == "clock_set_back"
    assert "has seen 2034-11-06 22:13 UTC, which is still to come" in await findings(bureau)
    with pytest.raises(InvalidParam):
        await bureau.command("disclose-clock", node="tehran", reason=" ")
    done = await bureau.command("disclose-clock", node="tehran", reason="a wrong time server")
    assert done == {"node": "tehran", "seen": bureau.now + AHEAD, "ended": ["tehran/2", "tehran/3"]}
    assert "still to come" not in await findings(bureau)
    for order, why in ((first, "has expired"), (last, "was refused"), (hidden, "was refused")):
        with pytest.raises(DisclosureRefused, match=why):
            await bureau.open(order)
    assert (await bureau.open(await bureau.approved()))["accounts"], "nothing goes on"
    shown = await bureau.shown()
    records = checked(shown)
    (entry,) = [each for each in records if each["entry"]["kind"] == "clock"]
    assert entry["details"] == {"seen": done["seen"], "reason": "a wrong time server"}
    assert (entry["entry"]["ts"], entry["entry"]["order"]) == (done["seen"] - AHEAD, 0)
    assert [each["details"]["why"] for each in records if each["entry"]["kind"] == "refused" and "details" in each] == [
        *("clock_set_back", "clock_set_back")
    ]
    (found,) = shown["registers"]
    assert (found["fault"], found["head"]["gagged"]) == (None, 1)
    stranger().check_register("example.org", found, found["key"]["key"], found["records"])


@ON_SQLITE
@aio
async def test_what_was_over_by_the_clock_that_ran_ahead_stays_over(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    clock = bureau.deployment.clock
    order = await bureau.approved(gag_until=bureau.now + DAY)
    clock._start_ms += AHEAD
    with pytest.raises(DisclosureRefused, match="has expired"):  # the job has yet to come to it
        await bureau.open(order)
    clock._start_ms -= AHEAD
    await bureau.command("disclose-clock", node="tehran", reason="a wrong time server")
    kinds = await bureau.kinds()
    assert kinds[-4:] == ["failed", "expired", "unsealed", "clock"]
    with pytest.raises(DisclosureRefused, match="has expired"):
        await bureau.open(order)


@aio
async def test_an_order_that_was_opened_does_not_open_again_when_the_log_began_anew(deploy: Deploy) -> None:
    bureau = await Bureau.opened(deploy)
    server, tehran = bureau.deployment.server, bureau.tehran
    order, other = await bureau.approved(), await bureau.request("hamid")
    before = await tehran.read(disclosures.entries), await tehran.read(disclosures.head)
    leaves = (await tehran.read(key_log.progress)).size
    await bureau.open(order)
    while await sequencing.hash_waiting(server, tehran):
        pass
    await tehran.write(_put_back, *before)
    await tehran.write(_lose, server, tehran, leaves)
    again = Bureau(await deploy(policy=policy()))
    again.deployment.clock._start_ms = bureau.now
    await again.command("log-begin-anew", node="tehran", reason="restored from a backup")
    assert not await again.tehran.read(register.is_stated)
    with pytest.raises(DisclosureRefused, match="was refused"):
        await again.open(order)
    assert await again.tehran.read(register.is_stated)
    with pytest.raises(DisclosureRefused, match="was refused"):
        await again.approve(other, "parisa")
    records = checked(await again.shown())
    assert [each["details"]["why"] for each in records if each["entry"]["kind"] == "refused"] == ["log_began_anew"] * 2
    assert (await again.open(await again.approved()))["accounts"], "nothing goes on"
    await lapsing.lapse_all(again.deployment.server)
    assert (await again.kinds()).count("refused") == 2


@ON_SQLITE
@aio
async def test_an_order_that_lacked_an_approval_a_moment_ago_is_not_opened_without_its_shares(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    bureau = await Bureau.opened(deploy)
    noticing_all(bureau.deployment)
    await used(bureau, "sara")
    order = await bureau.request(fields=SEALED)
    await bureau.approve(order, "parisa")
    looked, read = opening._epochs, bureau.tehran.read

    async def then_approved(fn: Any, *arguments: Any) -> Any:
        found = await read(fn, *arguments)
        if fn is looked:
            await bureau.approve(order, "reza")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(bureau.tehran, "read", then_approved)
        with pytest.raises(DisclosureRefused, match="Meanwhile something has changed") as refused:
            await bureau.open(order)
    assert refused.value.why == "shares_missing"
    (account,) = (await bureau.open(order, shares=await words(bureau, order, "leila", "omid")))["accounts"]
    assert len(account["sessions"]) == 1
