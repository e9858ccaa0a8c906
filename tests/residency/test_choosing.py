"""Users who choose where their data is to rest, by their client, on the page of the stage, or while they make an
account on pages; and that a pin stays what it was."""

from __future__ import annotations

import re
from typing import Any

import pytest

from homeserver.pages import rendering
from homeserver.pages.languages import language
from homeserver.storage import pins
from homeserver.storage.pins import PinEvidence
from tests.accounts.post import Post, post
from tests.deployment import NAME, PASSWORD, POLICY, SETTINGS, Answer, Deploy, Deployment, User, start
from tests.endpoints.test_threepids import prove_phone
from tests.endpoints.visiting import Browser, Page
from tests.support import Databases, aio

__all__ = ["post"]

REGISTER = "/_matrix/client/v3/register"
STAGE = "org.domicile.node"
DUMMY = {"type": "m.login.dummy"}
PAGE = f"/_matrix/client/v3/auth/{STAGE}/fallback/web"
NAMED = POLICY.replace('name = "Iran"', 'name = "Iran"\nlanguages = ["fa", "xx", "az-Arab"]').replace(
    'name = "France"', 'name = "France"\nlanguages = ["fr"]'
)
RULE = '[[pins]]\nchoice = true\nnodes = ["tehran", "paris"]\n'
CHOOSING = NAMED.replace("[default]", RULE + "[default]")
BY_PHONE = NAMED.replace(
    "[default]", '[[pins]]\nphone_prefix = "+33"\nnode = "paris"\n' + RULE + '[default]\nrefuse = "No."\n[[x]]', 1
).partition("[[x]]")[0]


async def register(deployment: Deployment, username: str = "alice", **body: Any) -> Answer:
    return await deployment.asked("POST", REGISTER, {"username": username, "password": PASSWORD, **body})


def stages(answer: Answer) -> list[list[str]]:
    assert answer.status == 401, answer
    return [flow["stages"] for flow in answer.json["flows"]]


async def node_of(deployment: Deployment, localpart: str = "alice") -> str:
    node = await deployment.server.nodes.of_user(f"@{localpart}:{NAME}")
    assert node is not None
    return node.name


async def evidence(deployment: Deployment, made: Answer) -> PinEvidence | None:
    caller = await User(deployment, made.json["user_id"], "", made.json["access_token"]).caller()
    return await caller.node.read(pins.find, caller.user_nid)


# by the client ------------------------------------------------------------------------------


@aio
async def test_a_client_is_told_that_its_user_chooses(deploy: Deploy) -> None:
    deployment = await deploy(policy=CHOOSING)
    asked = await register(deployment)
    assert stages(asked) == [["m.login.dummy", STAGE]]
    assert asked.json["org.domicile.reason"] == "node_choice_needed"
    assert asked.json["params"][STAGE]["nodes"] == [
        {"node": "tehran", "jurisdiction": "IR", "name": "Iran (IR)", "languages": ["fa", "xx", "az-Arab"]},
        {"node": "paris", "jurisdiction": "FR", "name": "France (FR)", "languages": ["fr"]},
    ]
    session = asked.json["session"]
    half = await register(deployment, auth={**DUMMY, "session": session})
    assert half.json["completed"] == ["m.login.dummy"]
    for wrong in ("nowhere", "", "Paris"):
        answer = await register(deployment, auth={"type": STAGE, "session": session, "node": wrong})
        assert (answer.status, answer.errcode) == (401, "M_FORBIDDEN")
    assert (await register(deployment, auth={"type": STAGE, "session": session})).status == 400
    made = await register(deployment, auth={"type": STAGE, "session": session, "node": "paris"})
    assert made.status == 200
    assert await node_of(deployment) == "paris"
    found = await evidence(deployment, made)
    assert found is not None
    assert found.how == "choice"


@aio
async def test_a_client_may_name_the_node_itself(deploy: Deploy) -> None:
    deployment = await deploy(policy=CHOOSING)
    assert stages(await register(deployment, **{STAGE: "paris"})) == [["m.login.dummy"]]
    assert stages(await register(deployment, auth=DUMMY, **{STAGE: "nowhere"})) == [["m.login.dummy", STAGE]]
    asked = await register(deployment)
    made = await register(deployment, auth={**DUMMY, "session": asked.json["session"]}, **{STAGE: "paris"})
    assert made.status == 200
    assert await node_of(deployment) == "paris"


@aio
async def test_nobody_is_asked_where_there_is_nothing_to_choose(deploy: Deploy) -> None:
    deployment = await deploy(policy=NAMED)
    assert stages(await register(deployment)) == [["m.login.dummy"]]
    asked = await register(deployment, auth={"type": STAGE, "node": "paris"})
    assert (asked.status, asked.errcode) == (401, "M_FORBIDDEN")
    made = await register(deployment, auth=DUMMY, **{STAGE: "paris"})
    assert (made.status, await node_of(deployment)) == (200, "tehran")


@pytest.mark.parametrize(("token", "node"), [("fr-1", "paris"), ("ir-1", None)])
@aio
async def test_a_token_may_leave_nothing_to_choose(deploy: Deploy, token: str, node: str | None) -> None:
    settings = SETTINGS.replace('mode = "open"', 'mode = "token"\ntokens_file = "registration.tokens"')
    deployment = await deploy(settings=settings, policy=CHOOSING)
    secret = deployment.server.settings.registration.tokens
    assert secret is not None
    assert secret.file is not None
    secret.file.write_text("fr-1\nir-1\n")
    asked = await register(deployment, auth={"type": "m.login.registration_token", "token": token})
    session = asked.json["session"]
    last = ["m.login.registration_token", "m.login.dummy"]
    assert stages(asked) == [last if node else [*last, STAGE]]
    made = await register(deployment, auth={**DUMMY, "session": session})
    if node is None:
        made = await register(deployment, auth={"type": STAGE, "session": session, "node": "tehran"})
    assert (made.status, await node_of(deployment)) == (200, node or "tehran")


@aio
async def test_a_verified_number_counts_before_a_choice(deploy: Deploy, post: Post) -> None:
    """Who has a French number rests in France, whatever their client says; who has another one chooses."""
    settings = SETTINGS.replace('mode = "open"', 'mode = "open"\nverify = ["msisdn"]') + post.settings
    deployment = await deploy(settings=settings, policy=BY_PHONE)
    asked = await register(deployment)
    assert stages(asked)[0] == ["m.login.msisdn"]
    proof = await prove_phone(deployment, post, "register")
    auth = {"type": "m.login.msisdn", "session": asked.json["session"], "threepid_creds": proof}
    made = await register(deployment, auth=auth, **{STAGE: "tehran"})
    assert (made.status, await node_of(deployment)) == (200, "paris")
    assert await evidence(deployment, made) == PinEvidence("phone", 'phone_prefix = "+33"', deployment.clock.now_ms())
    asked = await register(deployment, "dora")
    proof = await prove_phone(deployment, post, "register", "+49 30 1234567")
    auth = {"type": "m.login.msisdn", "session": asked.json["session"], "threepid_creds": proof}
    chooses = await register(deployment, "dora", auth=auth)
    assert stages(chooses)[0] == ["m.login.msisdn", STAGE]
    session = chooses.json["session"]
    made = await register(deployment, "dora", auth={"type": STAGE, "session": session, "node": "tehran"})
    assert (made.status, await node_of(deployment, "dora")) == (200, "tehran")


@aio
async def test_without_a_number_nothing_is_proved(deploy: Deploy, post: Post) -> None:
    """A number that nobody has verified places nobody."""
    settings = SETTINGS.replace('mode = "open"', 'mode = "open"\nverify = ["msisdn"]') + post.settings
    deployment = await deploy(settings=settings, policy=BY_PHONE)
    asked = await register(deployment)
    creds = {"sid": "none", "client_secret": "s"}
    auth = {"type": "m.login.msisdn", "session": asked.json["session"], "threepid_creds": creds}
    assert (await register(deployment, auth=auth)).status == 401
    assert (await register(deployment, auth={**DUMMY, "session": asked.json["session"]})).status == 401


# the page of the stage ----------------------------------------------------------------------


async def begun(deploy: Deploy, reader: str = "en") -> tuple[Deployment, str, Browser, Page]:
    deployment = await deploy(policy=CHOOSING)
    session = (await register(deployment)).json["session"]
    browser = Browser(deployment, headers={"Accept-Language": reader})
    return deployment, session, browser, await browser.get(f"{PAGE}?session={session}")


@aio
async def test_somebody_chooses_on_the_page(deploy: Deploy) -> None:
    deployment, session, browser, page = await begun(deploy)
    assert page.status == 200
    missing = await browser.send(page)
    assert (missing.status, "Choose where your data is to rest." in missing.text) == (400, True)
    assert (await browser.send(page, node="nowhere")).status == 400
    done = await browser.send(page, node="paris")
    assert (done.status, rendering.DONE in done.text) == (200, True)
    asked = await register(deployment, auth={"session": session})
    assert (asked.json["completed"], stages(asked)) == ([STAGE], [["m.login.dummy", STAGE]])
    made = await register(deployment, auth={**DUMMY, "session": session})
    assert (made.status, await node_of(deployment)) == (200, "paris")
    assert (await Browser(deployment).ask("GET", f"{PAGE}?session={session}")).status == 403


@aio
async def test_each_place_is_named_in_its_own_languages(deploy: Deploy) -> None:
    _, _, _, page = await begun(deploy)
    rests = language("fa").text("Your data rests in: %(jurisdiction)s.") % {"jurisdiction": "ایران (IR)"}
    assert f'<span class="own" lang="fa" dir="rtl">{rests}</span>' in page.text
    assert re.search(r'lang="fr" dir="ltr">[^<]*France \(FR\)', page.text)
    assert 'lang="xx"' not in page.text
    assert re.search(r'lang="az-Arab" dir="rtl">[^<]+</span>', page.text)
    *nodes, _ = re.split(r">(?:tehran|paris)<", page.text)
    assert len(nodes) == 2
    for before, place in zip(nodes, ("Iran (IR)", "France (FR)"), strict=True):
        assert place in before[-100:], "a node is named with its jurisdiction"
    _, _, _, page = await begun(deploy, "fa")
    assert '<html lang="fa" dir="rtl">' in page.text
    assert 'lang="fa" dir="rtl">' not in page.text.partition("<main>")[2]
    assert "فرانسه (FR)" in page.text


@aio
async def test_the_page_may_tell_the_client_and_run_nothing_else(deploy: Deploy) -> None:
    _, _, browser, page = await begun(deploy)
    for each in (page, await browser.send(page, node="paris")):
        assert each.headers["cross-origin-opener-policy"] == "unsafe-none"
        policy = each.headers["content-security-policy"]
        assert re.search(r"; script-src 'sha256-[A-Za-z0-9+/=]{44}'$", policy)
        assert "default-src 'none'" in policy
    plain = await browser.get("/_domicile/login")
    assert "script-src" not in plain.headers["content-security-policy"]
    assert plain.headers["cross-origin-opener-policy"] == "same-origin"


@aio
async def test_a_session_that_is_none_has_no_page(deploy: Deploy) -> None:
    deployment, session, browser, page = await begun(deploy)
    alice = await deployment.user("alice2")
    other = await alice.asks("POST", "/_matrix/client/v3/account/deactivate", {})
    assert other.status == 401
    for none in ("x", other.json["session"], "%00", session + "x"):
        assert (await browser.ask("GET", f"{PAGE}?session={none}")).status in (400, 403)
    assert (await browser.ask("GET", PAGE)).status == 400
    assert (await Browser(deployment).send(page, node="paris")).status == 403
    await deployment.clock.advance(3600)
    assert (await browser.send(page, node="paris")).status == 403


# on the pages that make accounts ------------------------------------------------------------


@aio
async def test_choosing_while_making_an_account(deploy: Deploy) -> None:
    deployment = await deploy(policy=CHOOSING)
    browser = Browser(deployment, headers={"Accept-Language": "fr"})
    page = await browser.get("/_domicile/register")
    assert 'lang="fa" dir="rtl"' in page.text
    assert "Iran (IR)" in page.text
    filled = {"user": "dora", "password": PASSWORD, "again": PASSWORD}
    missing = await browser.send(page, filled)
    assert (missing.status, "Choisissez où vos données" in missing.text) == (403, True)
    assert (await browser.send(page, filled, node="tehran")).status == 200
    assert await node_of(deployment, "dora") == "tehran"


# a pin stays --------------------------------------------------------------------------------


@aio
async def test_a_pin_is_changed_by_nothing_that_comes_later(engines: Databases, post: Post) -> None:
    """Not by another rule, a number, another registration of the name, nor by becoming a user; and after a restart."""
    settings = SETTINGS.replace('mode = "open"', 'mode = "open"\nguests = true') + post.settings
    first = await start(engines, settings=settings, policy=CHOOSING)
    made = await register(first, auth=DUMMY, **{STAGE: "tehran"})
    alice = User(first, made.json["user_id"], "", made.json["access_token"])
    guest = (await first.asked("POST", REGISTER, {}, kind="guest")).json
    before = {name: await node_of(first, name) for name in ("alice", guest["user_id"][1:].partition(":")[0])}
    assert set(before.values()) == {"tehran"}
    why = await evidence(first, made)
    assert why is not None

    second = await start(engines, settings=settings, policy=BY_PHONE.replace("serial = 1", "serial = 2"))
    alice.deployment = second
    credentials = await prove_phone(second, post, "account/3pid")
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": PASSWORD}
    added = await alice.asks("POST", "/_matrix/client/v3/account/3pid/add", {**credentials, "auth": auth})
    assert added.status == 200
    again = await register(second, auth=DUMMY, **{STAGE: "paris"})
    assert again.errcode == "M_USER_IN_USE"
    name = guest["user_id"][1:].partition(":")[0]
    body = {"guest_access_token": guest["access_token"], "auth": DUMMY, STAGE: "paris"}
    assert (await register(second, name, **body)).status == 200
    assert (await second.login(alice)).status == 200
    assert {name: await node_of(second, name) for name in before} == before
    assert await evidence(second, made) == why
    assert (await alice.asks("GET", "/_domicile/v1/residency/me")).json["pin"]["how"] == "choice"
