"""The page on which users agree that rooms of theirs cross a border."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest

from config.load import policy_from_text
from homeserver.endpoints import consent, crossing
from homeserver.pages.languages import LANGUAGES, SOURCE, language
from homeserver.residency import consent_links, consents, exposure
from homeserver.storage.consents import Consent
from tests.deployment import NAME, POLICY, Deploy, Deployment, User
from tests.endpoints.visiting import Browser
from tests.residency.asking import ASKING, asked, opened, token_of
from tests.rooms.play import CLIENT
from tests.support import aio

NAMED = ASKING.replace('name = "Iran"', 'name = "Iran"\nlanguages = ["fa"]')
PAGE = consent_links.PAGE


async def people(deploy: Deploy, policy: str = NAMED) -> tuple[Deployment, User, User]:
    deployment = await deploy(policy=policy)
    return deployment, await deployment.user("alice"), await deployment.user("bob", "paris")


async def invited(alice: User, bob: User) -> str:
    """The address that alice gets when she invites bob."""
    return asked(await alice.asks("POST", f"{CLIENT}/createRoom", {"invite": [bob.user_id]}), "FR")


async def agreed(deployment: Deployment, alice: User) -> list[Consent]:
    return await consents.of_user(deployment.node("tehran"), (await alice.caller()).user_nid)


@aio
async def test_opening_the_page_agrees_to_nothing(deploy: Deploy) -> None:
    deployment, alice, bob = await people(deploy)
    address = await invited(alice, bob)
    _, page = await opened(alice, address)
    for words in ("@alice:example.org", "Iran (IR)", "France (FR)", "who is in the room", "cannot be called back"):
        assert words in page.text
    assert "<script" not in page.text
    assert await agreed(deployment, alice) == []
    await invited(alice, bob)


@aio
async def test_what_was_agreed_to_is_written_down(deploy: Deploy) -> None:
    deployment, alice, bob = await people(deploy)
    browser, page = await opened(alice, await invited(alice, bob), "fr")
    assert (await browser.send(page, decision="agree")).status == 200
    (found,) = await agreed(deployment, alice)
    assert (found.source, found.target, found.language, found.policy_serial) == ("IR", "FR", "fr", 1)
    assert set(found.classes) == {"events", "keys", "media", "profile", "receipts", "presence"}
    assert found.shown.hex() == page.forms[0][2]["shown"]
    assert (found.given_ts, found.withdrawn_ts) == (deployment.clock.now_ms(), None)
    assert await consents.of_user(deployment.node("paris"), 1) == []


@aio
async def test_what_a_place_does_not_get_is_not_named(deploy: Deploy) -> None:
    _, alice, bob = await people(deploy, NAMED.replace('classes = ["*"]', 'classes = ["events", "keys"]'))
    _, page = await opened(alice, await invited(alice, bob))
    assert "which devices you have" in page.text
    for words in ("online", "typing", "your profile", "files are sent"):
        assert words not in page.text


@aio
async def test_who_does_not_agree_is_asked_again(deploy: Deploy) -> None:
    deployment, alice, bob = await people(deploy)
    browser, page = await opened(alice, await invited(alice, bob))
    done = await browser.send(page, decision="disagree")
    assert (done.status, "Nothing crosses" in done.text) == (200, True)
    assert await agreed(deployment, alice) == []
    assert (await browser.send(page, decision="whatever")).status == 400
    await invited(alice, bob)


@aio
async def test_the_page_is_in_the_language_of_the_browser_or_of_the_place(deploy: Deploy) -> None:
    _, alice, bob = await people(deploy)
    address = await invited(alice, bob)
    page = await Browser(alice.deployment).get(address)  # a browser that asks for no language
    assert '<html lang="fa" dir="rtl">' in page.text
    assert "فرانسه (FR)" in page.text
    assert "ایران (IR)" in page.text
    _, page = await opened(alice, address, "ru")
    assert '<html lang="ru" dir="ltr">' in page.text
    assert "Франция (FR)" in page.text


@aio
async def test_a_name_of_the_operators_own_is_not_translated(deploy: Deploy) -> None:
    _, alice, bob = await people(deploy, NAMED.replace('name = "France"', 'name = "Our <b>house</b> in Lille"'))
    page = await Browser(alice.deployment).get(await invited(alice, bob))
    assert "Our &lt;b&gt;house&lt;/b&gt; in Lille (FR)" in page.text


@aio
async def test_a_form_counts_only_from_the_browser_it_was_made_for(deploy: Deploy) -> None:
    deployment, alice, bob = await people(deploy)
    browser, page = await opened(alice, await invited(alice, bob))
    assert (await Browser(deployment).send(page, decision="agree")).status == 403
    stranger, _ = await opened(alice, await invited(alice, bob))
    assert (await stranger.send(page, decision="agree")).status == 403
    browser.headers["Sec-Fetch-Site"] = "cross-site"
    assert (await browser.send(page, decision="agree")).status == 403
    assert await agreed(deployment, alice) == []


@aio
async def test_a_link_ends(deploy: Deploy) -> None:
    deployment, alice, bob = await people(deploy)
    address = await invited(alice, bob)
    browser, page = await opened(alice, address)
    await deployment.clock.advance(consent_links.LIFETIME_MS / 1000 + 1)
    late = await Browser(deployment).ask("GET", address, accept_language="en")
    assert (late.status, "too old" in late.text) == (403, True)
    assert (await browser.send(page, decision="agree")).status == 403
    assert await agreed(deployment, alice) == []


@aio
async def test_a_link_that_was_changed_is_none(deploy: Deploy) -> None:
    deployment, alice, bob = await people(deploy)
    token = token_of(await invited(alice, bob))
    raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for at in range(len(raw)):
        changed = urlsafe_b64encode(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]).decode()
        assert (await Browser(deployment).ask("GET", f"{PAGE}?t={changed}")).status == 403, at
    for none in ("x", token[:-1], token[:40], "A" * 5000, "%C3%A9"):
        assert (await Browser(deployment).ask("GET", f"{PAGE}?t={none}")).status == 403, none
    assert (await Browser(deployment).ask("GET", PAGE)).status == 400


@aio
async def test_a_link_of_a_locked_or_closed_account_is_none(deploy: Deploy) -> None:
    deployment, alice, bob = await people(deploy)
    admin = await deployment.user("admin", admin=True)
    address = await invited(alice, bob)
    path = f"/_matrix/client/v1/admin/lock/{alice.user_id}"
    assert (await admin.asks("PUT", path, {"locked": True})).status == 200
    assert (await Browser(deployment).ask("GET", address)).status == 403
    assert (await admin.asks("PUT", path, {"locked": False})).status == 200
    assert (await Browser(deployment).ask("GET", address)).status == 200


@aio
async def test_what_has_changed_since_it_was_read_is_shown_again(deploy: Deploy) -> None:
    """Nobody agrees to what they did not read."""
    less = NAMED.replace('classes = ["*"]', 'classes = ["events", "keys"]')
    deployment, alice, bob = await people(deploy, less)
    browser, page = await opened(alice, await invited(alice, bob))
    deployment.server.policy.now = policy_from_text(NAMED, "residency.toml", NAME)
    page = await browser.send(page, decision="agree")
    assert (page.status, "has changed meanwhile" in page.text, "online" in page.text) == (403, True, True)
    assert await agreed(deployment, alice) == []
    assert (await browser.send(page, decision="agree")).status == 200
    assert len(await agreed(deployment, alice)) == 1


@aio
async def test_nobody_agrees_to_what_is_forbidden_by_now(deploy: Deploy) -> None:
    deployment, alice, bob = await people(deploy)
    address = await invited(alice, bob)
    browser, page = await opened(alice, address)
    deployment.server.policy.now = policy_from_text(POLICY, "residency.toml", NAME)
    assert (await Browser(deployment).ask("GET", address)).status == 403
    assert (await browser.send(page, decision="agree")).status == 403
    assert await agreed(deployment, alice) == []


@aio
async def test_two_who_agree_at_once(deploy: Deploy) -> None:
    deployment, alice, bob = await people(deploy)
    tabs = [await opened(alice, await invited(alice, bob)) for _ in range(4)]
    done = await asyncio.gather(*(browser.send(page, decision="agree") for browser, page in tabs))
    assert {page.status for page in done} == {200}
    assert len(await agreed(deployment, alice)) == 1


@aio
async def test_what_was_taken_back_is_asked_again(deploy: Deploy) -> None:
    deployment, alice, bob = await people(deploy)
    browser, page = await opened(alice, await invited(alice, bob))
    assert (await browser.send(page, decision="agree")).status == 200
    node, caller = deployment.node("tehran"), await alice.caller()
    await consents.withdraw(deployment.server, node, caller.user_nid, ["FR"])
    first = deployment.clock.now_ms()
    await deployment.clock.advance(5)
    await consents.withdraw(deployment.server, node, caller.user_nid, ["FR"])
    assert [each.withdrawn_ts for each in await agreed(deployment, alice)] == [first]
    browser, page = await opened(alice, await invited(alice, bob))
    assert (await browser.send(page, decision="agree")).status == 200
    assert [each.withdrawn_ts for each in await agreed(deployment, alice)] == [None]


@pytest.mark.parametrize("code", [code for code in LANGUAGES if code != SOURCE])
def test_everything_that_can_be_told_is_in_each_language(code: str) -> None:
    assert crossing.CARRIED.keys() == set(exposure.CROSSING)
    assert crossing.SEEN.keys() == set(exposure.VISIBLE)
    said = {*crossing.CARRIED.values(), *crossing.SEEN.values(), consent.HEADING, consent.LASTING}
    assert {*said, consent_links.TOO_OLD} - language(code).texts.keys() == set()
