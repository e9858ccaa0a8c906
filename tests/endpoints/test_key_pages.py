"""The page on which users see which devices others encrypt for, and when their keys have changed."""

from __future__ import annotations

from homeserver.e2ee import unsigned
from homeserver.endpoints import key_pages
from homeserver.pages.languages import LANGUAGES, SOURCE, language
from homeserver.protocol.key_log import Reason
from tests.deployment import PASSWORD, SETTINGS, Deploy
from tests.e2ee.play import Identity
from tests.e2ee.test_cross_signing import confirm
from tests.endpoints.visiting import Browser
from tests.support import ON_SQLITE, aio
from tests.transparency import ghosts
from tests.transparency.ghosts import GHOST
from tests.transparency.test_ghosts import at, cast

WEEK = SETTINGS + '[encryption]\nunsigned_device_grace = "7d"\n'
STATES = (key_pages.SIGNED, key_pages.UNSIGNED, key_pages.WITHHELD, key_pages.UNLOGGED)


@ON_SQLITE
@aio
async def test_who_is_signed_in_sees_devices_and_changes(deploy: Deploy) -> None:
    deployment = await deploy(settings=WEEK)
    assert (await Browser(deployment).get(key_pages.KEYS)).path.startswith("/_domicile/login")
    alice, _, _ = await cast(deployment)
    second = await alice.another()
    await second.publish()
    await second.gets("PUT", f"/devices/{second.device_id}", {"display_name": "<b>mine</b>"})
    browser = Browser(deployment)
    assert key_pages.KEYS in str((await browser.sign_in("alice", PASSWORD)).links)
    page = await browser.get(key_pages.KEYS)
    assert [state in page.text for state in STATES] == [True, True, False, False]
    assert "<b>" not in page.text
    assert page.text.count("A device published keys.") == 2
    assert page.text.count(key_pages.WHY[Reason.CROSS_SIGNING]) == 1
    assert page.text.index("November 14, 2023") > page.text.index(second.device_id)
    await deployment.clock.advance(8 * 86_400.0)
    await unsigned.sweep(deployment.server)
    await ghosts.by_sql(deployment.node("tehran"), alice.user_id)
    again = await deploy(settings=WEEK)
    at(again, alice)
    browser = Browser(again)
    await browser.sign_in("alice", PASSWORD)
    page = await browser.get(key_pages.KEYS)
    assert [state in page.text for state in STATES] == [True, False, True, True]
    assert GHOST in page.text


@ON_SQLITE
@aio
async def test_it_says_why_nobody_is_shown_any(deploy: Deploy) -> None:
    deployment = await deploy()
    alice, _, _ = await cast(deployment)
    second = await alice.another()
    await second.publish()
    await confirm(second, Identity(alice.user_id).upload())
    browser = Browser(deployment)
    await browser.sign_in("alice", PASSWORD)
    page = await browser.get(key_pages.KEYS)
    assert page.text.count(key_pages.CONTESTED) == 2


def test_every_language_says_all_of_it() -> None:
    said = {*key_pages.WHY.values(), *STATES, key_pages.CONTESTED}
    assert key_pages.WHY.keys() == set(Reason)
    for code in LANGUAGES:
        assert code == SOURCE or said - language(code).texts.keys() == set()
