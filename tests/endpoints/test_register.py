"""Registration and its user-interactive authentication, over the routes."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest

from homeserver.accounts import registration_tokens
from homeserver.accounts.interactive import Sessions
from homeserver.storage.directory import Kind
from homeserver.storage.engine import Transaction
from tests.deployment import PASSWORD, POLICY, SETTINGS, Answer, Deploy, Deployment
from tests.support import aio

REGISTER = "/_matrix/client/v3/register"
AVAILABLE = "/_matrix/client/v3/register/available"
VALIDITY = "/_matrix/client/v1/register/m.login.registration_token/validity"
ADMIN_REGISTER = "/_synapse/admin/v1/register"
BY_TOKEN = SETTINGS.replace('mode = "open"', 'mode = "token"')
CLOSED = SETTINGS.replace('mode = "open"', 'mode = "closed"')
DUMMY = {"type": "m.login.dummy"}


async def register(deployment: Deployment, username: str = "alice", **body: object) -> Answer:
    return await deployment.asked("POST", REGISTER, {"username": username, "password": PASSWORD, **body})


async def register_by_token(deployment: Deployment, token: str, username: str = "alice", **auth: object) -> Answer:
    """Through both stages of the flow; the answer to the last one that was passed, or to the one that was not."""
    stage = {"type": "m.login.registration_token", "token": token, **auth}
    answer = await register(deployment, username, auth=stage)
    if answer.json.get("completed") != ["m.login.registration_token"] or answer.errcode:
        return answer
    return await register(deployment, username, auth={**DUMMY, "session": answer.json["session"]})


async def count(deployment: Deployment, node: str, table: str) -> int:
    async def ask(tx: Transaction) -> int:
        row = await tx.one(f"SELECT COUNT(*) FROM {table}")
        assert row is not None
        return int(row[0])

    return await deployment.node(node).read(ask)


@aio
async def test_registering_in_two_requests(deployment: Deployment) -> None:
    first = await register(deployment)
    assert first.status == 401
    assert set(first.json) == {"flows", "params", "session"}
    assert first.json["flows"] == [{"stages": ["m.login.dummy"]}]
    second = await register(deployment, auth={**DUMMY, "session": first.json["session"]})
    assert second.status == 200
    assert set(second.json) == {"user_id", "access_token", "device_id"}
    assert second.json["user_id"] == "@alice:example.org"
    who = await deployment.asked("GET", "/_matrix/client/v3/account/whoami", token=second.json["access_token"])
    assert who.json["user_id"] == "@alice:example.org"


@aio
async def test_a_client_may_begin_with_a_stage(deployment: Deployment) -> None:
    answer = await register(deployment, auth=DUMMY, refresh_token=True, device_id="PHONE")
    assert answer.status == 200
    assert answer.json["device_id"] == "PHONE"
    assert {"refresh_token", "expires_in_ms"} <= set(answer.json)


@aio
async def test_registering_without_logging_in(deployment: Deployment) -> None:
    answer = await register(deployment, auth=DUMMY, inhibit_login=True)
    assert answer.json == {"user_id": "@alice:example.org"}
    assert await count(deployment, "tehran", "devices") == 0


@aio
async def test_an_account_rests_on_its_node_only(deployment: Deployment) -> None:
    await register(deployment, auth=DUMMY)
    for table in ("accounts", "users", "residents", "devices", "access_tokens"):
        assert await count(deployment, "tehran", table) == 1
        assert await count(deployment, "paris", table) == 0


@aio
async def test_a_name_is_made_for_who_has_none(deployment: Deployment) -> None:
    answer = await deployment.asked("POST", REGISTER, {"password": PASSWORD, "auth": DUMMY})
    assert answer.status == 200
    assert answer.json["user_id"].endswith(":example.org")


@pytest.mark.parametrize(
    ("username", "errcode"),
    [
        ("Ali!ce", "M_INVALID_USERNAME"),
        ("", "M_INVALID_USERNAME"),
        ("آلیس", "M_INVALID_USERNAME"),
        ("@alice:example.org", "M_INVALID_USERNAME"),
        ("x" * 250, "M_INVALID_USERNAME"),
        ("bob", "M_USER_IN_USE"),
        ("BOB", "M_USER_IN_USE"),
        (5, "M_BAD_JSON"),
    ],
)
@aio
async def test_usernames_are_checked_before_the_authentication(
    deployment: Deployment, username: Any, errcode: str
) -> None:
    await deployment.user("bob", "paris")
    answer = await register(deployment, username)
    assert (answer.status, answer.errcode) == (400, errcode)


@pytest.mark.parametrize(("username", "localpart"), [("a.b_c=d-e/f+g", "a.b_c=d-e/f+g"), ("Alice", "alice")])
@aio
async def test_usernames_that_are_good(deployment: Deployment, username: str, localpart: str) -> None:
    assert (await deployment.asked("GET", AVAILABLE, username=username)).json == {"available": True}
    answer = await register(deployment, username, auth=DUMMY)
    assert answer.json["user_id"] == f"@{localpart}:example.org"
    answer = await deployment.asked("GET", AVAILABLE, username=username)
    assert (answer.status, answer.errcode) == (400, "M_USER_IN_USE")


@aio
async def test_available_asks_for_a_name(deployment: Deployment) -> None:
    assert (await deployment.asked("GET", AVAILABLE)).errcode == "M_MISSING_PARAM"
    assert (await deployment.asked("GET", AVAILABLE, username="!")).errcode == "M_INVALID_USERNAME"


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        (b"{", 400, "M_NOT_JSON"),
        (b"[]", 400, "M_BAD_JSON"),
        ({"password": 5, "auth": DUMMY}, 400, "M_BAD_JSON"),
        ({"password": "short", "auth": DUMMY}, 400, "M_WEAK_PASSWORD"),
        ({"auth": "dummy"}, 400, "M_BAD_JSON"),
        ({"auth": {"type": 1}}, 400, "M_BAD_JSON"),
        ({"auth": {"type": ["m.login.dummy"]}}, 400, "M_BAD_JSON"),
        ({"auth": {"type": {}}}, 400, "M_BAD_JSON"),
        ({"auth": {"type": "m.login.dummy", "session": 5}}, 400, "M_BAD_JSON"),
        ({"auth": DUMMY, "device_id": ""}, 400, "M_INVALID_PARAM"),
        ({"auth": DUMMY, "initial_device_display_name": "x" * 257}, 400, "M_INVALID_PARAM"),
        ({"auth": {"type": "m.login.recaptcha"}}, 401, "M_FORBIDDEN"),
        ({"auth": {"type": "m.login.password"}}, 401, "M_FORBIDDEN"),
    ],
)
@aio
async def test_bodies_that_are_refused(deployment: Deployment, body: object, status: int, errcode: str) -> None:
    answer = await deployment.asked("POST", REGISTER, body)
    assert (answer.status, answer.errcode) == (status, errcode)
    assert await count(deployment, "tehran", "accounts") == 0


@aio
async def test_guests_are_refused(deployment: Deployment) -> None:
    answer = await deployment.asked("POST", REGISTER, {}, kind="guest")
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert (await deployment.asked("POST", REGISTER, {}, kind="ghost")).errcode == "M_INVALID_PARAM"


# -- the authentication session


@aio
async def test_parameters_may_not_change(deployment: Deployment) -> None:
    session = (await register(deployment)).json["session"]
    answer = await register(deployment, "mallory", auth={**DUMMY, "session": session})
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert await count(deployment, "tehran", "accounts") == 0


@aio
async def test_an_empty_request_shows_the_flows_and_binds_nothing(deployment: Deployment) -> None:
    session = (await deployment.asked("POST", REGISTER, {})).json["session"]
    assert (await register(deployment, auth={**DUMMY, "session": session})).status == 200


@aio
async def test_a_session_serves_once_and_for_its_own_address(deployment: Deployment) -> None:
    session = (await register(deployment)).json["session"]
    elsewhere = await deployment.asked(
        "POST",
        "/_matrix/client/v3/account/deactivate",
        {"username": "alice", "password": PASSWORD, "auth": {"type": "m.login.password", "session": session}},
    )
    assert (elsewhere.status, elsewhere.errcode) == (403, "M_FORBIDDEN")
    assert (await register(deployment, auth={**DUMMY, "session": session})).status == 200
    again = await register(deployment, "bob", auth={**DUMMY, "session": session})
    assert (again.status, again.errcode) == (401, "M_FORBIDDEN")
    assert again.json["session"] != session


@aio
async def test_sessions_end(deployment: Deployment) -> None:
    session = (await register(deployment)).json["session"]
    under_way = deployment.server.nodes.directory.memory(Sessions)
    assert len(under_way) == 1
    await deployment.clock.advance(15 * 60)
    answer = await register(deployment, auth={**DUMMY, "session": session})
    assert answer.status == 401
    assert len(under_way) == 1


@aio
async def test_sessions_are_bounded(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sessions, "most", 3)
    first = (await register(deployment)).json["session"]
    for _ in range(5):
        await register(deployment)
    assert len(deployment.server.nodes.directory.memory(Sessions)) == 3
    assert (await register(deployment, auth={**DUMMY, "session": first})).status == 401


# -- modes and tokens


@aio
async def test_closed(deploy: Deploy) -> None:
    deployment = await deploy(settings=CLOSED)
    assert (await register(deployment)).errcode == "M_FORBIDDEN"
    answer = await deployment.asked("GET", f"{VALIDITY}?token=x")
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


@aio
async def test_by_token(deploy: Deploy) -> None:
    deployment = await deploy(settings=BY_TOKEN)
    await registration_tokens.create(deployment.server, "fr-one", uses_allowed=1)
    challenge = (await register(deployment)).json
    assert challenge["flows"] == [{"stages": ["m.login.registration_token", "m.login.dummy"]}]
    auth = {"type": "m.login.registration_token", "session": challenge["session"]}
    wrong = await register(deployment, auth={**auth, "token": "wrong"})
    assert (wrong.status, wrong.errcode) == (401, "M_UNAUTHORIZED")
    assert wrong.json["flows"] == challenge["flows"]
    assert (await register(deployment, auth=auth)).errcode == "M_MISSING_PARAM"
    assert (await deployment.asked("GET", f"{VALIDITY}?token=fr-one")).json == {"valid": True}
    assert (await register_by_token(deployment, "fr-one", session=challenge["session"])).status == 200
    assert await count(deployment, "paris", "accounts") == 1  # where the pin rule for the token says
    assert (await deployment.asked("GET", f"{VALIDITY}?token=fr-one")).json == {"valid": False}
    used = await register_by_token(deployment, "fr-one", "bob")
    assert used.status == 401


@aio
async def test_a_token_is_given_back_when_no_account_came_of_it(deploy: Deploy) -> None:
    """Two people race for a name: it is free when the second one asks, and taken when they get there."""
    deployment = await deploy(settings=BY_TOKEN)
    await registration_tokens.create(deployment.server, "once", uses_allowed=1)
    await deployment.server.nodes.directory.claim(Kind.USER, "alice", "paris")
    answer = await register_by_token(deployment, "once")
    assert answer.errcode == "M_USER_IN_USE"
    assert (await deployment.asked("GET", f"{VALIDITY}?token=once")).json == {"valid": True}


@aio
async def test_tokens_expire(deploy: Deploy) -> None:
    deployment = await deploy(settings=BY_TOKEN)
    soon = deployment.clock.now_ms() + 1000
    await registration_tokens.create(deployment.server, "soon", expires_ts=soon)
    assert (await deployment.asked("GET", f"{VALIDITY}?token=soon")).json == {"valid": True}
    await deployment.clock.advance(1)
    assert (await deployment.asked("GET", f"{VALIDITY}?token=soon")).json == {"valid": False}
    answer = await register_by_token(deployment, "soon")
    assert answer.status == 401


@aio
async def test_tokens_of_the_operators_file_always_hold(deploy: Deploy, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("# for the team\nteam-token\n", encoding="utf-8")
    text = BY_TOKEN.replace('mode = "token"', f'mode = "token"\ntokens_file = "{tmp_path}/tokens"')
    deployment = await deploy(settings=text)
    for name in ("alice", "bob"):
        assert (await register_by_token(deployment, "team-token", name)).status == 200


@aio
async def test_the_policy_may_refuse_or_let_choose(deploy: Deploy) -> None:
    refusing = POLICY.replace('node = "tehran"\n', 'refuse = "Not offered in your country."\n')
    deployment = await deploy(policy=refusing)
    answer = await register(deployment, auth=DUMMY)
    assert (answer.status, answer.json["error"]) == (403, "Not offered in your country.")


@aio
async def test_the_user_chooses(deploy: Deploy) -> None:
    choosing = POLICY.replace("[default]", '[[pins]]\nchoice = true\nnodes = ["tehran", "paris"]\n[default]')
    deployment = await deploy(policy=choosing)
    answer = await register(deployment, auth=DUMMY)
    assert (answer.status, answer.json["org.domicile.reason"]) == (401, "node_choice_needed")
    assert [(each["node"], each["jurisdiction"]) for each in answer.json["org.domicile.nodes"]] == [
        ("tehran", "IR"),
        ("paris", "FR"),
    ]
    answer = await deployment.asked(
        "POST", REGISTER, {"username": "a", "password": PASSWORD, "auth": DUMMY, "org.domicile.node": "paris"}
    )
    assert answer.status == 200
    assert await count(deployment, "paris", "accounts") == 1


# -- a crash between the directory and the node


@aio
async def test_a_route_without_an_account_is_taken_over_on_its_node(deployment: Deployment) -> None:
    await deployment.server.nodes.directory.claim(Kind.USER, "alice", "tehran")
    await deployment.server.nodes.directory.claim(Kind.USER, "bob", "paris")
    assert (await register(deployment, "alice", auth=DUMMY)).status == 200
    assert (await register(deployment, "bob", auth=DUMMY)).errcode == "M_USER_IN_USE"
    assert await count(deployment, "paris", "accounts") == 0


# -- by shared secret


async def secretly(deployment: Deployment, secret: Any = b"open sesame", **body: Any) -> Answer:
    nonce = (await deployment.asked("GET", ADMIN_REGISTER)).json["nonce"]
    asked = {"nonce": nonce, "username": "alice", "password": PASSWORD, "admin": False, **body}
    mac = hmac.new(secret, digestmod=hashlib.sha1)
    parts = [asked["nonce"], asked["username"], asked["password"], "admin" if asked["admin"] else "notadmin"]
    if "user_type" in asked:
        parts.append(asked["user_type"])
    mac.update(b"\x00".join(str(part).encode() for part in parts))
    return await deployment.asked("POST", ADMIN_REGISTER, {"mac": mac.hexdigest(), **asked})


@pytest.fixture
def with_secret(tmp_path: Path) -> str:
    (tmp_path / "registration.secret").write_text("open sesame\n", encoding="utf-8")
    return CLOSED.replace('mode = "closed"', f'mode = "closed"\nshared_secret_file = "{tmp_path}/registration.secret"')


@aio
async def test_registering_by_secret(deploy: Deploy, with_secret: str) -> None:
    deployment = await deploy(settings=with_secret)
    answer = await secretly(deployment, admin=True, **{"org.domicile.node": "paris"})
    assert answer.status == 200
    assert answer.json["org.domicile.node"] == "paris"
    caller = await deployment.site._authenticate(answer.json["access_token"])
    assert caller.admin
    assert caller.node.name == "paris"
    other = await secretly(deployment, username="bob", user_type="bot")
    assert (other.status, other.json["org.domicile.node"]) == (200, "tehran")
    assert (await secretly(deployment, username="bob")).errcode == "M_USER_IN_USE"
    assert (await secretly(deployment, username="carol", **{"org.domicile.node": "oslo"})).errcode == "M_FORBIDDEN"


@aio
async def test_what_the_secret_does_not_cover_is_refused(deploy: Deploy, with_secret: str) -> None:
    deployment = await deploy(settings=with_secret)
    assert (await secretly(deployment, b"wrong")).errcode == "M_FORBIDDEN"
    assert (await secretly(deployment, nonce="made up")).errcode == "M_INVALID_PARAM"
    assert (await secretly(deployment, mac="00")).errcode == "M_FORBIDDEN"
    nonce = (await deployment.asked("GET", ADMIN_REGISTER)).json["nonce"]
    await deployment.clock.advance(61)
    assert (await secretly(deployment, nonce=nonce)).errcode == "M_INVALID_PARAM"
    assert await count(deployment, "tehran", "accounts") == 0


@aio
async def test_a_nonce_serves_once(deploy: Deploy, with_secret: str) -> None:
    deployment = await deploy(settings=with_secret)
    nonce = (await deployment.asked("GET", ADMIN_REGISTER)).json["nonce"]
    assert (await secretly(deployment, nonce=nonce)).status == 200
    assert (await secretly(deployment, username="bob", nonce=nonce)).errcode == "M_INVALID_PARAM"


@aio
async def test_without_a_secret_the_route_is_off(deployment: Deployment) -> None:
    assert (await deployment.asked("GET", ADMIN_REGISTER)).status == 404
    body = {"nonce": "x", "username": "alice", "password": PASSWORD, "mac": "x"}
    assert (await deployment.asked("POST", ADMIN_REGISTER, body)).status == 404
