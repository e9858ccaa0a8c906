"""Who may give which command over HTTP, and who may not."""

from __future__ import annotations

import pytest

from homeserver.accounts import administration, roles
from homeserver.control.declared import DECLARED
from homeserver.protocol.roles import Role
from tests.administration.office import API, Office
from tests.deployment import NAME, PASSWORD, SETTINGS, start
from tests.support import Databases, aio

FILLED = {
    "userId": "nobody",
    "role": "auditor",
    "node": "tehran",
    "reportId": "7",
    "jurisdiction": "IR",
    "number": "7",
}


@aio
async def test_each_command_is_for_its_roles_alone(office: Office) -> None:
    """Whoever has the role is told that something is missing or not there; the others, which role they lack."""
    for command, declared in DECLARED.items():
        if declared.door is None:
            continue
        method, path = declared.door
        for role in (*Role, None):
            if role in declared.roles:
                continue
            answer = await office.ask(role, method, path.format(**FILLED))
            assert (answer.status, answer.json["org.domicile.reason"]) == (403, "role_needed"), (command, role)
            assert answer.json["org.domicile.roles"] == [each.value for each in Role if each in declared.roles]
    assert {each["outcome"] for each in await office.entries()} == {"refused"}


@aio
async def test_whoever_has_the_role_is_let_in(office: Office) -> None:
    for command in ("user-list", "user-show", "report-list", "isolation-status", "residency-traffic", "user-role-list"):
        method, path = DECLARED[command].door or ("", "")
        for role in DECLARED[command].roles:
            assert (await office.ask(role, method, path.format(**FILLED))).status == 200


@aio
async def test_a_role_that_is_taken_is_gone_at_once(office: Office) -> None:
    auditor = office.people[Role.AUDITOR]
    assert (await office.ask(Role.AUDITOR, "GET", "/users")).status == 200
    removed = await office.ask(Role.OPERATOR, "DELETE", f"/users/{auditor.user_id}/roles/auditor")
    assert removed.json == {"user_id": auditor.user_id, "roles": []}
    assert (await office.ask(Role.AUDITOR, "GET", "/users")).status == 403


@aio
async def test_nobody_gives_a_role_to_themselves(office: Office) -> None:
    for name in ("operator", office.people[Role.OPERATOR].user_id):
        assert (await office.ask(Role.OPERATOR, "PUT", f"/users/{name}/roles/approver")).status == 403
    given = await office.ask(Role.OPERATOR, "PUT", "/users/nobody/roles/approver")
    assert given.json["roles"] == ["approver"]
    last = (await office.entries())[-3]
    assert (last["outcome"], last["errcode"]) == ("refused", "M_FORBIDDEN")


@aio
async def test_nobody_comes_by_a_role_through_a_password(office: Office) -> None:
    new = {"password": PASSWORD + "!"}
    for name in ("approver", office.people[Role.APPROVER].user_id):
        assert (await office.ask(Role.OPERATOR, "POST", f"/users/{name}/password", new)).errcode == "M_FORBIDDEN"
    assert (await office.deployment.login(office.people[Role.APPROVER])).status == 200
    for name in ("nobody", "operator"):
        assert (await office.ask(Role.OPERATOR, "POST", f"/users/{name}/password", new)).status == 200


@aio
async def test_the_role_operator_is_that_of_an_administrator(office: Office) -> None:
    await office.command("user-role-add", user="nobody", role="operator")
    assert (await office.nobody.caller()).admin
    shown = await office.command("user-role-list", user="nobody")
    assert shown["users"] == [{"user_id": office.nobody.user_id, "node": "paris", "roles": ["operator"]}]
    await office.command("user-role-remove", user="nobody", role="operator")
    assert not (await office.nobody.caller()).admin


@aio
async def test_a_closed_account_has_no_role_any_more(office: Office) -> None:
    server, auditor = office.deployment.server, office.people[Role.AUDITOR]
    await office.command("user-deactivate", user=auditor.user_id)
    found, _ = await roles.everybody(server)
    assert auditor.user_id not in found
    with pytest.raises(Exception, match="no such user"):
        await roles.give(server, auditor.user_id, Role.AUDITOR)


@aio
async def test_who_is_suspended_or_locked_administers_nothing(office: Office) -> None:
    server, operator = office.deployment.server, office.people[Role.OPERATOR]
    await administration.set_suspended(server, operator.user_id, True)
    assert (await office.ask(Role.OPERATOR, "GET", "/users")).errcode == "M_USER_SUSPENDED"
    await administration.set_locked(server, operator.user_id, True)
    assert (await office.ask(Role.OPERATOR, "GET", "/users")).errcode == "M_USER_LOCKED"
    assert [each["errcode"] for each in await office.entries()] == ["M_USER_SUSPENDED"]


@aio
async def test_without_a_token_nobody_is_asked_for_a_role(office: Office) -> None:
    assert (await office.deployment.asked("GET", API + "/users")).errcode == "M_MISSING_TOKEN"
    assert (await office.deployment.asked("GET", API + "/users", token="junk")).errcode == "M_UNKNOWN_TOKEN"


@aio
async def test_refusals_of_those_without_a_role_come_to_an_end(engines: Databases) -> None:
    """Else anybody could fill the log of their node."""
    limited = SETTINGS.replace("enabled = false", "enabled = true")
    office = await Office.opened(start(engines, settings=limited))
    answers = [(await office.ask(None, "GET", "/users")).status for _ in range(15)]
    assert answers == [403] * 10 + [429] * 5
    assert (await office.ask(Role.AUDITOR, "POST", "/users")).status == 403
    assert len(await office.entries()) == 11
    calls = [(await office.ask(Role.OPERATOR, "GET", "/roles")).status for _ in range(60)]
    assert calls == [200] * 50 + [429] * 10


@aio
async def test_arguments_must_be_what_is_declared(office: Office) -> None:
    new = {"localpart": "new", "password": PASSWORD, "node": "paris"}
    asked = [
        ("POST", "/users", {**new, "password": 5}, "M_BAD_JSON"),
        ("POST", "/users", {**new, "admin": "false"}, "M_BAD_JSON"),
        ("POST", "/users", {**new, "amdin": True}, "M_INVALID_PARAM"),
        ("POST", "/users?admin=true", new, "M_INVALID_PARAM"),
        ("POST", "/users", {"localpart": "new"}, "M_MISSING_PARAM"),
        ("GET", "/users?limit=5", None, "M_INVALID_PARAM"),
        ("POST", "/users/nobody/deactivate", {"user": "auditor"}, "M_INVALID_PARAM"),
        ("DELETE", "/reports/tehran/one", None, "M_INVALID_PARAM"),
        ("POST", "/nodes/tehran/backup", {"to": "../a.tar"}, "M_INVALID_PARAM"),
        ("POST", "/nodes/tehran/backup", {"to": "/a.tar"}, "M_INVALID_PARAM"),
        ("PUT", "/users/nobody/roles/king", None, "M_INVALID_PARAM"),
    ]
    for method, path, body, errcode in asked:
        answer = await office.ask(Role.OPERATOR, method, path, body)
        assert (answer.status, answer.errcode) == (400, errcode), path
    made = await office.ask(Role.OPERATOR, "POST", "/users", {**new, "phone": None})
    assert made.json == {"user_id": f"@new:{NAME}", "node": "paris"}
