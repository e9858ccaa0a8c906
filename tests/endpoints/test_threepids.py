"""E-mail addresses and phone numbers: proved, given to accounts, logged in with; a real mail server and gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from homeserver.accounts import contacts
from homeserver.accounts.validation import SUBMIT
from homeserver.protocol.errors import UserInUse
from homeserver.protocol.threepids import Identifier
from homeserver.storage.accounts import Threepid
from homeserver.storage.directory import Kind
from homeserver.storage.engine import Transaction
from homeserver.storage.nodes import Node
from tests.accounts.post import Post, post
from tests.deployment import PASSWORD, POLICY, SETTINGS, Answer, Deploy, Deployment, User
from tests.endpoints.test_account import NEW, is_logged_in, proof
from tests.endpoints.test_register import count
from tests.support import aio

__all__ = ["post"]

CLIENT = "/_matrix/client/v3"
THREEPIDS = CLIENT + "/account/3pid"
SUBMIT_EMAIL = SUBMIT.replace("{medium}", "email")
SUBMIT_PHONE = SUBMIT.replace("{medium}", "msisdn")
ALICES = "alice@mail.example"
SECRET = "s3cret.="
FRENCH = "0612345678"
DIGITS = "33612345678"
BY_PHONE = (
    POLICY
    + """
[[pins]]
phone_prefix = "+33"
node = "paris"
"""
)


async def ask(
    deployment: Deployment, purpose: str, email: str = ALICES, attempt: int = 1, secret: str = SECRET, **body: Any
) -> Answer:
    """Ask for a link; ``purpose`` is the path of the route."""
    asked = {"email": email, "client_secret": secret, "send_attempt": attempt, **body}
    return await deployment.asked("POST", f"{CLIENT}/{purpose}/email/requestToken", asked)


async def ask_phone(
    deployment: Deployment, purpose: str, number: str = FRENCH, attempt: int = 1, secret: str = SECRET, **body: Any
) -> Answer:
    """Ask for a code."""
    asked = {"phone_number": number, "country": "FR", "client_secret": secret, "send_attempt": attempt, **body}
    return await deployment.asked("POST", f"{CLIENT}/{purpose}/msisdn/requestToken", asked)


async def press(deployment: Deployment, parameters: dict[str, str], path: str = SUBMIT_EMAIL) -> tuple[int, str]:
    """Press the button of the page behind a link: status and page."""
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    answer = await deployment.site.call("POST", path, headers=headers, body=urlencode(parameters).encode())
    assert isinstance(answer.body, bytes)
    return answer.status, answer.body.decode()


async def prove(deployment: Deployment, post: Post, purpose: str, email: str = ALICES) -> dict[str, str]:
    """Prove to own an address; the credentials."""
    sid = (await ask(deployment, purpose, email)).json["sid"]
    assert (await press(deployment, post.letters[-1].parameters))[0] == 200
    return {"sid": sid, "client_secret": SECRET}


async def prove_phone(deployment: Deployment, post: Post, purpose: str, number: str = FRENCH) -> dict[str, str]:
    """Prove to own a number; the credentials."""
    sid = (await ask_phone(deployment, purpose, number)).json["sid"]
    credentials = {"sid": sid, "client_secret": SECRET}
    submitted = await deployment.asked("POST", SUBMIT_PHONE, {**credentials, "token": post.texts[-1].code})
    assert submitted.json == {"success": True}
    return credentials


async def add(user: User, credentials: dict[str, str]) -> Answer:
    return await user.asks("POST", THREEPIDS + "/add", {**credentials, "auth": proof(user)})


async def login(deployment: Deployment, identifier: dict[str, str], password: str = PASSWORD) -> Answer:
    body = {"type": "m.login.password", "identifier": identifier, "password": password}
    return await deployment.asked("POST", CLIENT + "/login", body)


async def routes(deployment: Deployment) -> int:
    async def rows(tx: Transaction) -> int:
        row = await tx.one("SELECT COUNT(*) FROM routes WHERE kind = ?", Kind.THREEPID.value)
        assert row is not None
        return int(row[0])

    return await deployment.server.nodes.directory.engine.read(rows)


# -- proving


@aio
async def test_a_link_proves_an_address(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    alice = await deployment.user("alice")
    sid = (await ask(deployment, "account/3pid", "Alice@MAIL.example")).json["sid"]
    (letter,) = post.letters
    assert (letter.sender, letter.recipients) == ("noreply@example.org", [ALICES])
    assert letter.message["To"] == ALICES
    assert "add this address" in letter.text
    assert (await add(alice, {"sid": sid, "client_secret": SECRET})).errcode == "M_THREEPID_AUTH_FAILED"
    page = await deployment.site.call("GET", letter.link)
    assert (page.status, page.content_type) == (200, "text/html; charset=utf-8")
    assert isinstance(page.body, bytes)
    assert b"<form" in page.body
    # opening the page proves nothing: programs that guard mail do it
    assert (await add(alice, {"sid": sid, "client_secret": SECRET})).errcode == "M_THREEPID_AUTH_FAILED"
    status, text = await press(deployment, letter.parameters)
    assert (status, "Confirmed" in text) == (200, True)
    assert (await add(alice, {"sid": sid, "client_secret": SECRET})).json == {}
    (threepid,) = (await alice.asks("GET", THREEPIDS)).json["threepids"]
    assert (threepid["medium"], threepid["address"]) == ("email", ALICES)
    assert threepid["validated_at"] <= threepid["added_at"] == deployment.clock.now_ms()
    assert (await add(alice, {"sid": sid, "client_secret": SECRET})).errcode == "M_THREEPID_AUTH_FAILED"  # once


@aio
async def test_a_code_proves_a_number(deploy: Deploy, post: Post, tmp_path: Path) -> None:
    (tmp_path / "sms").write_text("Bearer abc\n")
    settings = post.settings + f'secret_file = "{tmp_path}/sms"\nheader = "X-Key"\n'
    deployment = await deploy(settings=SETTINGS + settings)
    answer = await ask_phone(deployment, "account/3pid")
    assert answer.json["submit_url"] == "https://matrix.example.org" + SUBMIT_PHONE
    (text,) = post.texts
    assert (text.method, text.target, text.headers["x-key"]) == ("POST", "/messages", "Bearer abc")
    assert text.json["to"] == "+" + DIGITS
    alice = await deployment.user("alice", "paris")
    assert (await add(alice, await prove_phone(deployment, post, "account/3pid"))).status == 200
    assert await count(deployment, "paris", "threepids") == 1
    assert await count(deployment, "tehran", "threepids") == 0
    assert len(post.texts) == 1  # the same attempt sends nothing


@aio
async def test_a_gateway_that_is_asked_by_its_address(deploy: Deploy, post: Post) -> None:
    settings = post.settings.replace("/messages", "/send?to={digits}&text={text}") + 'method = "GET"\n'
    deployment = await deploy(settings=SETTINGS + settings)
    assert (await ask_phone(deployment, "register")).status == 200
    (text,) = post.texts
    assert text.method == "GET"
    assert text.target.startswith(f"/send?to={DIGITS}&text=")
    assert text.body == b""


@aio
async def test_a_repeated_attempt_sends_nothing_and_a_later_one_the_same_code(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    first = await ask_phone(deployment, "register", attempt=3)
    assert (await ask_phone(deployment, "register", attempt=3)).json["sid"] == first.json["sid"]
    assert (await ask_phone(deployment, "register", attempt=2)).json["sid"] == first.json["sid"]
    assert len(post.texts) == 1
    assert (await ask_phone(deployment, "register", attempt=4)).json["sid"] == first.json["sid"]
    assert len(post.texts) == 2
    assert post.texts[0].code == post.texts[1].code
    assert (await ask_phone(deployment, "register", secret="other")).json["sid"] != first.json["sid"]


@aio
async def test_wrong_codes_run_out(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    sid = (await ask_phone(deployment, "register")).json["sid"]
    code = post.texts[0].code
    wrong = {"sid": sid, "client_secret": SECRET, "token": f"{(int(code) + 1) % 10**6:06}"}
    for _ in range(5):
        assert (await deployment.asked("POST", SUBMIT_PHONE, wrong)).errcode == "M_TOKEN_INCORRECT"
    assert (await deployment.asked("POST", SUBMIT_PHONE, {**wrong, "token": code})).errcode == "M_SESSION_EXPIRED"
    again = await ask_phone(deployment, "register")
    assert again.json["sid"] != sid
    assert len(post.texts) == 2


@aio
async def test_codes_and_proofs_end(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    alice = await deployment.user("alice")
    sid = (await ask_phone(deployment, "account/3pid")).json["sid"]
    submitted = {"sid": sid, "client_secret": SECRET, "token": post.texts[0].code}
    await deployment.clock.advance(3601)
    assert (await deployment.asked("POST", SUBMIT_PHONE, submitted)).errcode == "M_SESSION_EXPIRED"
    credentials = await prove_phone(deployment, post, "account/3pid")
    await deployment.clock.advance(3601)
    assert (await add(alice, credentials)).errcode == "M_THREEPID_AUTH_FAILED"


@pytest.mark.parametrize("change", [{"sid": "x"}, {"client_secret": "x"}, {"token": "x"}])
@aio
async def test_what_must_fit(deploy: Deploy, post: Post, change: dict[str, str]) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    sid = (await ask_phone(deployment, "register")).json["sid"]
    right = {"sid": sid, "client_secret": SECRET, "token": post.texts[0].code}
    assert (await deployment.asked("POST", SUBMIT_PHONE, {**right, **change})).status == 400
    assert (await deployment.asked("POST", SUBMIT_EMAIL, right)).errcode == "M_SESSION_EXPIRED"
    status, text = await press(deployment, {**right, **change}, SUBMIT_PHONE)
    assert (status, "Not confirmed" in text) == (400, True)


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"email": "alice"}, "M_INVALID_PARAM"),
        ({"email": "Alice <a@b.example>"}, "M_INVALID_PARAM"),
        ({"email": "a@b.example\r\nBcc: c@d.example"}, "M_INVALID_PARAM"),
        ({"email": 1}, "M_BAD_JSON"),
        ({"client_secret": ""}, "M_INVALID_PARAM"),
        ({"client_secret": "ü"}, "M_INVALID_PARAM"),
        ({"send_attempt": "1"}, "M_BAD_JSON"),
        ({"send_attempt": None}, "M_MISSING_PARAM"),
        ({"next_link": "javascript:alert(1)"}, "M_INVALID_PARAM"),
    ],
)
@aio
async def test_wishes_that_are_none(deploy: Deploy, post: Post, body: dict[str, Any], errcode: str) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    asked = {"email": ALICES, "client_secret": SECRET, "send_attempt": 1, **body}
    assert (await deployment.asked("POST", CLIENT + "/register/email/requestToken", asked)).errcode == errcode
    assert post.letters == []


@aio
async def test_numbers_that_are_not_taken(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings + 'countries = ["IR"]\n')
    assert (await ask_phone(deployment, "register", "12")).errcode == "M_INVALID_PARAM"
    assert (await ask_phone(deployment, "register", country="fr")).errcode == "M_INVALID_PARAM"
    assert (await ask_phone(deployment, "register")).errcode == "M_THREEPID_DENIED"
    assert (await ask_phone(deployment, "register", "+98 912 345 6789")).status == 200
    assert [text.json["to"] for text in post.texts] == ["+989123456789"]


@aio
async def test_without_a_table_there_is_no_verification(deployment: Deployment) -> None:
    assert (await ask(deployment, "register")).errcode == "M_THREEPID_MEDIUM_NOT_SUPPORTED"
    assert (await ask_phone(deployment, "register")).errcode == "M_THREEPID_MEDIUM_NOT_SUPPORTED"
    alice = await deployment.user("alice")
    capabilities = (await alice.asks("GET", CLIENT + "/capabilities")).json["capabilities"]
    assert capabilities["m.3pid_changes"] == {"enabled": False}


@aio
async def test_what_is_not_sent_can_be_asked_again(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    post.refusing = True
    assert (await ask(deployment, "register")).status == 502
    assert (await ask_phone(deployment, "register")).status == 502
    post.refusing = False
    assert (await ask(deployment, "register")).status == 200
    assert (await ask_phone(deployment, "register")).status == 200
    assert (len(post.letters), len(post.texts)) == (1, 1)


@aio
async def test_an_address_is_not_flooded_whoever_asks(deploy: Deploy, post: Post) -> None:
    bucket = "verification_of_one = {per_second = 0.01, burst = 2}"
    settings = SETTINGS.replace("enabled = false", bucket)
    deployment = await deploy(settings=settings + post.settings)
    for secret in ("a", "b"):
        assert (await ask(deployment, "register", secret=secret)).status == 200
    refused = await ask(deployment, "register", secret="c")
    assert (refused.status, refused.json["retry_after_ms"]) == (429, 100_000)
    assert (await ask(deployment, "register", "bob@mail.example", secret="c")).status == 200
    await deployment.clock.advance(100)
    assert (await ask(deployment, "register", secret="c")).status == 200


@aio
async def test_the_page_sends_back_only_where_the_operator_says(deploy: Deploy, post: Post) -> None:
    settings = post.settings + '[verification]\nreturn_to = ["app.example.org"]\n'
    deployment = await deploy(settings=SETTINGS + settings)
    for host, follows in (("app.example.org", True), ("evil.example", False)):
        await ask(deployment, "register", secret=host, next_link=f"https://{host}/#/go?a=1&b=2")
        status, text = await press(deployment, post.letters[-1].parameters)
        assert status == 200
        assert (f'content="0;url=https://{host}/#/go?a=1&amp;b=2"' in text) is follows
        assert (host in text) is follows


@aio
async def test_the_mail_server_is_spoken_to_over_tls_and_logged_in_to(
    deploy: Deploy, post: Post, tmp_path: Path
) -> None:
    import ssl

    from tests.federation.authority import Authority

    authority = Authority(tmp_path)
    tls = authority.issue("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    port = await post.serve_mail(context, user="domicile", password="pass word")
    (tmp_path / "password").write_text("pass word")
    secured = f"""
[email]
server = "127.0.0.1"
port = {port}
sender = "noreply@example.org"
user = "domicile"
password_file = "{tmp_path}/password"
"""
    untrusted = await deploy(settings=SETTINGS + secured)
    assert (await ask(untrusted, "register")).status == 502
    deployment = await deploy(settings=SETTINGS + secured + f'ca_file = "{authority.ca_file}"\n')
    assert (await ask(deployment, "register")).status == 200
    (letter,) = post.letters
    assert (letter.user, letter.over_tls) == ("domicile", True)


# -- whose it is


@aio
async def test_nobody_is_told_whether_an_address_is_somebodys(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    alice = await deployment.user("alice")
    assert (await add(alice, await prove(deployment, post, "account/3pid"))).status == 200
    post.letters.clear()
    for purpose in ("register", "account/3pid"):
        taken, free = await ask(deployment, purpose), await ask(deployment, purpose, "bob@mail.example")
        assert (taken.status, set(taken.json)) == (free.status, set(free.json)) == (200, {"sid"})
        told, asked = post.letters[-2:]
        assert (told.recipients, "already" in told.text, "http" in told.text) == ([ALICES], True, False)
        assert asked.link
    known = await ask(deployment, "account/password")
    unknown = await ask(deployment, "account/password", "b@mail.example")
    assert (known.status, set(known.json)) == (unknown.status, set(unknown.json)) == (200, {"sid"})
    assert "no account" in post.letters[-1].text
    answer = await deployment.asked(
        "POST", SUBMIT_EMAIL, {"sid": unknown.json["sid"], "client_secret": SECRET, "token": ""}
    )
    assert answer.errcode == "M_TOKEN_INCORRECT"


@aio
async def test_an_address_belongs_to_one_account_of_all_nodes(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    alice, dora = await deployment.user("alice"), await deployment.user("dora", "paris")
    first = await prove(deployment, post, "account/3pid")
    second = {"sid": (await ask(deployment, "account/3pid", secret="x")).json["sid"], "client_secret": "x"}
    await press(deployment, post.letters[-1].parameters)
    assert (await add(alice, first)).status == 200
    assert (await add(dora, second)).errcode == "M_THREEPID_IN_USE"
    assert await count(deployment, "paris", "threepids") == 0
    assert await contacts.owner(deployment.server, ("email", ALICES)) == alice.user_id
    # removed, it can be somebody else's, on another node too
    removed = await alice.asks("POST", THREEPIDS + "/delete", {"medium": "email", "address": "ALICE@mail.example"})
    assert removed.json == {"id_server_unbind_result": "no-support"}
    assert await routes(deployment) == 0
    assert (await alice.asks("GET", THREEPIDS)).json == {"threepids": []}
    assert (await add(dora, second)).status == 200
    assert await contacts.owner(deployment.server, ("email", ALICES)) == dora.user_id
    assert await count(deployment, "tehran", "threepids") == 0


@aio
async def test_nobody_removes_what_is_somebody_elses(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    alice, mallory = await deployment.user("alice"), await deployment.user("mallory")
    await add(alice, await prove(deployment, post, "account/3pid"))
    body = {"medium": "email", "address": ALICES}
    assert (await mallory.asks("POST", THREEPIDS + "/delete", body)).status == 200
    assert len((await alice.asks("GET", THREEPIDS)).json["threepids"]) == 1
    assert await contacts.owner(deployment.server, ("email", ALICES)) == alice.user_id
    assert (await alice.asks("POST", THREEPIDS + "/delete", {**body, "medium": "fax"})).errcode == "M_INVALID_PARAM"


@aio
async def test_a_route_that_leads_to_nothing_is_taken_over(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    alice = await deployment.user("alice", "paris")
    await deployment.server.nodes.directory.claim(Kind.THREEPID, f"email {ALICES}", "tehran")
    assert (await add(alice, await prove(deployment, post, "account/3pid"))).status == 200
    assert await contacts.owner(deployment.server, Identifier("email", ALICES)) == alice.user_id


async def failing_with(deployment: Deployment, node: Node, threepid: Threepid) -> None:
    """Claim an identifier, and then fail."""
    async with contacts.claimed(deployment.server, node, [threepid]):
        assert await deployment.server.nodes.directory.find(Kind.THREEPID, f"email {threepid.address}") == node.name
        raise UserInUse("")


@aio
async def test_a_claim_of_which_nothing_came_leaves_no_route(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    alice = await deployment.user("alice")
    await add(alice, await prove(deployment, post, "account/3pid"))
    node = deployment.node("tehran")
    for address in ("free@mail.example", ALICES):
        with pytest.raises(UserInUse):
            await failing_with(deployment, node, Threepid("email", address, 1, 1))
    assert await routes(deployment) == 1
    assert await contacts.owner(deployment.server, ("email", ALICES)) == alice.user_id


@aio
async def test_the_addresses_of_a_closed_account_are_free(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    alice = await deployment.user("alice")
    await add(alice, await prove(deployment, post, "account/3pid"))
    assert (await alice.asks("POST", CLIENT + "/account/deactivate", {"auth": proof(alice)})).status == 200
    assert await routes(deployment) == 0
    assert await count(deployment, "tehran", "threepids") == 0


@aio
async def test_adding_asks_for_the_password(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    alice = await deployment.user("alice")
    credentials = await prove(deployment, post, "account/3pid")
    for path, body in ((THREEPIDS + "/add", credentials), (THREEPIDS, {"three_pid_creds": credentials})):
        answer = await alice.asks("POST", path, body)
        assert (answer.status, answer.json["flows"]) == (401, [{"stages": ["m.login.password"]}])
    answer = await alice.asks("POST", THREEPIDS, {"three_pid_creds": credentials, "auth": proof(alice)})
    assert (answer.status, answer.json) == (200, {})
    assert len((await alice.asks("GET", THREEPIDS)).json["threepids"]) == 1


@aio
async def test_no_identity_server_is_asked(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    body = {"client_secret": "x", "sid": "x", "id_server": "id.example", "id_access_token": "x"}
    assert (await alice.asks("POST", THREEPIDS + "/bind", body)).errcode == "M_SERVER_NOT_TRUSTED"
    assert (await alice.asks("POST", THREEPIDS + "/bind", {})).errcode == "M_MISSING_PARAM"
    unbound = await alice.asks("POST", THREEPIDS + "/unbind", {"medium": "email", "address": ALICES})
    assert unbound.json == {"id_server_unbind_result": "no-support"}
    for incomplete in ({"medium": "email"}, {"address": ALICES}):
        assert (await alice.asks("POST", THREEPIDS + "/unbind", incomplete)).errcode == "M_MISSING_PARAM"


# -- logging in and setting a password


@pytest.mark.parametrize(
    "identifier",
    [
        {"type": "m.id.thirdparty", "medium": "msisdn", "address": DIGITS},
        {"type": "m.id.thirdparty", "medium": "msisdn", "address": "+" + DIGITS},
        {"type": "m.id.phone", "country": "FR", "phone": "06 12 34 56 78"},
        {"type": "m.id.phone", "country": "IR", "phone": "+33 6 12 34 56 78"},
    ],
)
@aio
async def test_logging_in_by_number(deploy: Deploy, post: Post, identifier: dict[str, str]) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    alice = await deployment.user("alice", "paris")
    await deployment.user(DIGITS)  # a name is no number
    assert (await login(deployment, identifier)).errcode == "M_FORBIDDEN"
    await add(alice, await prove_phone(deployment, post, "account/3pid"))
    assert (await login(deployment, identifier)).json["user_id"] == alice.user_id
    assert (await login(deployment, identifier, "wrong")).errcode == "M_FORBIDDEN"


@aio
async def test_logging_in_by_address(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    alice = await deployment.user("alice")
    await add(alice, await prove(deployment, post, "account/3pid"))
    identifier = {"type": "m.id.thirdparty", "medium": "email", "address": "ALICE@mail.example"}
    assert (await login(deployment, identifier)).json["user_id"] == alice.user_id
    old = {"type": "m.login.password", "medium": "email", "address": ALICES, "password": PASSWORD}
    assert (await deployment.asked("POST", CLIENT + "/login", old)).json["user_id"] == alice.user_id
    unknown = await login(deployment, {**identifier, "address": "bob@mail.example"})
    wrong = await login(deployment, identifier, "wrong")
    assert (unknown.status, unknown.json) == (wrong.status, wrong.json)
    assert (await login(deployment, {"type": "m.id.fax"})).errcode == "M_UNKNOWN"


@aio
async def test_wrong_passwords_count_for_the_account_by_whatever_name(deploy: Deploy, post: Post) -> None:
    settings = SETTINGS.replace(
        "enabled = false",
        "login_failure = {per_second = 0.01, burst = 2}\nlogin = {per_second = 100, burst = 100}",
    )
    deployment = await deploy(settings=settings + post.settings)
    alice = await deployment.user("alice")
    await add(alice, await prove(deployment, post, "account/3pid"))
    identifier = {"type": "m.id.thirdparty", "medium": "email", "address": ALICES}
    for _ in range(2):
        assert (await login(deployment, identifier, "wrong")).errcode == "M_FORBIDDEN"
    assert (await login(deployment, identifier)).status == 429
    assert (await deployment.login(alice)).status == 429


@pytest.mark.parametrize("medium", ["email", "msisdn"])
@aio
async def test_a_forgotten_password(deploy: Deploy, post: Post, medium: str) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    alice, bob = await deployment.user("alice", "paris"), await deployment.user("bob")
    await add(alice, await (prove if medium == "email" else prove_phone)(deployment, post, "account/3pid"))
    body = {"new_password": NEW}
    challenge = await deployment.asked("POST", CLIENT + "/account/password", body)
    stages = [["m.login.password"], ["m.login.msisdn"], ["m.login.email.identity"]]
    assert [flow["stages"] for flow in challenge.json["flows"]] == stages
    stage = "m.login.email.identity" if medium == "email" else "m.login.msisdn"
    auth: dict[str, Any] = {"type": stage, "session": challenge.json["session"]}
    unproved = {**auth, "threepid_creds": {"sid": "x", "client_secret": SECRET}}
    answer = await deployment.asked("POST", CLIENT + "/account/password", {**body, "auth": unproved})
    assert (answer.status, answer.errcode) == (401, "M_THREEPID_AUTH_FAILED")
    post.letters.clear()
    auth["threepid_creds"] = await (prove if medium == "email" else prove_phone)(deployment, post, "account/password")
    answer = await deployment.asked("POST", CLIENT + "/account/password", {**body, "auth": auth})
    assert (answer.status, answer.json) == (200, {})
    assert (await deployment.login(alice)).errcode == "M_FORBIDDEN"
    assert (await deployment.login(alice, password=NEW)).status == 200
    assert not await is_logged_in(deployment, alice.token)
    assert (await deployment.login(bob)).status == 200
    again = await deployment.asked(
        "POST", CLIENT + "/account/password", {"new_password": "other password", "auth": {**auth, "session": None}}
    )
    assert again.errcode == "M_THREEPID_AUTH_FAILED"  # a proof serves once


@aio
async def test_a_proof_for_one_purpose_is_none_for_another(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    alice = await deployment.user("alice")
    before = await prove(deployment, post, "register")
    assert (await add(alice, before)).errcode == "M_THREEPID_AUTH_FAILED"
    await add(alice, await prove(deployment, post, "account/3pid"))
    auth = {"type": "m.login.email.identity", "threepid_creds": before}
    answer = await deployment.asked("POST", CLIENT + "/account/password", {"new_password": NEW, "auth": auth})
    assert (answer.status, answer.errcode) == (401, "M_THREEPID_AUTH_FAILED")
    assert (await deployment.login(alice)).status == 200


# -- registering


async def register(deployment: Deployment, auth: dict[str, Any] | None = None, username: str = "alice") -> Answer:
    body: dict[str, Any] = {"username": username, "password": PASSWORD, **({"auth": auth} if auth else {})}
    return await deployment.asked("POST", CLIENT + "/register", body)


@aio
async def test_a_number_that_is_demanded_decides_where_the_account_rests(deploy: Deploy, post: Post) -> None:
    settings = SETTINGS.replace('mode = "open"', 'mode = "open"\nverify = ["msisdn"]') + post.settings
    deployment = await deploy(settings=settings, policy=BY_PHONE)
    challenge = await register(deployment)
    flows = [["m.login.msisdn"], ["m.login.email.identity", "m.login.msisdn"]]
    assert [flow["stages"] for flow in challenge.json["flows"]] == flows
    session = challenge.json["session"]
    dummy = await register(deployment, {"type": "m.login.dummy", "session": session})
    assert (dummy.status, dummy.errcode) == (401, "M_FORBIDDEN")
    credentials = await prove_phone(deployment, post, "register")
    auth = {"type": "m.login.msisdn", "session": session, "threepid_creds": credentials}
    made = await register(deployment, auth)
    assert made.status == 200
    assert await count(deployment, "paris", "accounts") == await count(deployment, "paris", "threepids") == 1
    assert await count(deployment, "tehran", "accounts") == 0
    shown = await deployment.asked("GET", THREEPIDS, token=made.json["access_token"])
    assert [threepid["address"] for threepid in shown.json["threepids"]] == [DIGITS]
    identifier = {"type": "m.id.phone", "country": "FR", "phone": FRENCH}
    assert (await login(deployment, identifier)).json["user_id"] == "@alice:example.org"


@aio
async def test_both_may_be_proved(deploy: Deploy, post: Post) -> None:
    settings = SETTINGS.replace('mode = "open"', 'mode = "open"\nverify = ["email"]') + post.settings
    deployment = await deploy(settings=settings)
    number, address = await prove_phone(deployment, post, "register"), await prove(deployment, post, "register")
    first = await register(deployment, {"type": "m.login.msisdn", "threepid_creds": number})
    assert (first.status, first.json["completed"]) == (401, ["m.login.msisdn"])
    auth = {"type": "m.login.email.identity", "threepid_creds": address, "session": first.json["session"]}
    made = await register(deployment, auth)
    assert made.status == 200
    shown = await deployment.asked("GET", THREEPIDS, token=made.json["access_token"])
    assert {threepid["medium"] for threepid in shown.json["threepids"]} == {"email", "msisdn"}


@aio
async def test_what_is_not_demanded_need_not_be_given(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    challenge = await register(deployment)
    flows = [["m.login.dummy"], ["m.login.msisdn"], ["m.login.email.identity"]]
    assert [flow["stages"] for flow in challenge.json["flows"]] == flows
    assert (await register(deployment, {"type": "m.login.dummy"})).status == 200


@aio
async def test_a_name_that_was_taken_meanwhile_costs_no_proof(deploy: Deploy, post: Post) -> None:
    deployment = await deploy(settings=SETTINGS + post.settings)
    credentials = await prove(deployment, post, "register")
    auth = {"type": "m.login.email.identity", "threepid_creds": credentials}
    await deployment.user("alice", "paris")
    assert (await register(deployment, auth)).errcode == "M_USER_IN_USE"
    assert await routes(deployment) == 0
    assert (await register(deployment, auth, "alice2")).status == 200
    assert await contacts.owner(deployment.server, ("email", ALICES)) == "@alice2:example.org"


@aio
async def test_where_nobody_may_register_no_messages_are_sent(deploy: Deploy, post: Post) -> None:
    settings = SETTINGS.replace('mode = "open"', 'mode = "closed"') + post.settings
    deployment = await deploy(settings=settings)
    assert (await ask(deployment, "register")).errcode == "M_FORBIDDEN"
    assert (await ask_phone(deployment, "register")).errcode == "M_FORBIDDEN"
    assert (post.letters, post.texts) == ([], [])
