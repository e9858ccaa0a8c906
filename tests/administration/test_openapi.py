"""The OpenAPI document against the routes that there are, and against real answers."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from jsonschema_rs import Draft202012Validator, meta

from config.load import policy_from_text
from homeserver.control.declarations import Declared
from homeserver.control.declared import DECLARED
from homeserver.control.describing import PREFIX
from homeserver.protocol import disclosure_orders, federation_lists, policy_chain
from homeserver.protocol.policy_chain import digest
from homeserver.protocol.roles import Role
from homeserver.protocol.signing import SigningKey
from homeserver.residency.changes import chain
from homeserver.storage import policy_plans
from homeserver.storage.policy_plans import Application
from tests.administration.office import API, Office
from tests.deployment import PASSWORD, POLICY
from tests.residency.planned import following, founded
from tests.support import aio

ANN = SigningKey("approver", b"a" * 32)
POLICY_OF_ANN = f"""{POLICY}
[changes]
approvers = [{{ name = "ann", key = "{ANN.verify_key.base64}" }}]
[disclosure.IR]
fields = ["phone_number"]
approvals = 1
approvers = {{ ann = "{ANN.verify_key.base64}" }}
"""


async def document(office: Office) -> dict[str, Any]:
    answer = await office.deployment.asked("GET", "/_domicile/openapi.json")
    assert answer.status == 200
    return answer.json


@aio
async def test_every_route_is_described_and_nothing_else(office: Office) -> None:
    described = {(path, method.upper()) for path, item in (await document(office))["paths"].items() for method in item}
    there = {(each.path, each.method) for each in office.deployment.site.table.routes if each.path.startswith(PREFIX)}
    assert described == there - {(f"{PREFIX}/control/{{command}}", "POST")}


@aio
async def test_the_document_is_one_of_openapi(office: Office) -> None:
    """As far as the parts go that it has: each schema is one, and each segment of a path is a parameter."""
    found = await document(office)
    assert found["openapi"] == "3.1.0"
    assert found["servers"] == [{"url": "https://matrix.example.org"}]
    ids = []
    for path, item in found["paths"].items():
        for operation in item.values():
            ids.append(operation["operationId"])
            parameters = operation.get("parameters", [])
            named = {each["name"] for each in parameters if each["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            assert all(each["required"] for each in parameters if each["in"] == "path")
            schemas = [each["schema"] for each in parameters]
            for content in (operation.get("requestBody", {}), *operation["responses"].values()):
                schemas += [each["schema"] for each in content.get("content", {}).values() if each]
            for schema in schemas:
                meta.validate(schema)
    assert len(set(ids)) == len(ids)


def closed(schema: Any) -> Any:
    """A schema that allows no field that it does not name."""
    if isinstance(schema, dict):
        made = {name: closed(part) for name, part in schema.items()}
        return {**made, "additionalProperties": False} if "properties" in made else made
    return [closed(part) for part in schema] if isinstance(schema, list) else schema


class Asking:
    """Asks as somebody with the right role, and holds each answer against the document."""

    def __init__(self, office: Office, found: dict[str, Any]) -> None:
        self.office = office
        self.found = found
        self.answered: set[str] = set()

    async def ask(self, command: str, body: dict[str, Any] | None = None, **filled: str) -> dict[str, Any]:
        """Give a command; what is in its path is taken from ``filled``, and the rest is the query."""
        declared: Declared = DECLARED[command]
        assert declared.door is not None
        method, path = declared.door
        query = {name: value for name, value in filled.items() if f"{{{name}}}" not in path}
        role = next(role for role in Role if role in declared.roles)
        answer = await self.office.ask(role, method, path.format(**filled), body, **query)
        assert answer.status == 200, (command, answer.json)
        operation = self.found["paths"][PREFIX + path][method.lower()]
        assert operation["operationId"] == command
        self.conforms(operation["responses"]["200"], answer.json)
        if body is not None:
            self.conforms(operation["requestBody"], body)
        self.answered.add(command)
        return answer.json

    def conforms(self, content: dict[str, Any], value: object) -> None:
        """Hold a value against a schema, in which no field may be missing either."""
        schema = closed(content["content"]["application/json"]["schema"])
        faults = [
            f"{each.instance_path}: {each.message[:300]}" for each in Draft202012Validator(schema).iter_errors(value)
        ]
        assert faults == []


async def about_accounts(asking: Asking, user_id: str) -> None:
    office = asking.office
    await asking.ask("user-add", {"localpart": "new", "password": PASSWORD, "phone": "+33123456789", "node": "paris"})
    await asking.ask("user-list")
    shown = await asking.ask("user-show", userId="new")
    assert shown["threepids"]
    assert shown["pinned"]
    assert (await asking.ask("user-show", userId=user_id))["devices"]
    await asking.ask("user-reset-password", {"password": PASSWORD + "!"}, userId="new")
    await asking.ask("user-role-add", userId="new", role="auditor")
    assert len((await asking.ask("user-role-list", user="new"))["users"]) == 1
    await asking.ask("user-role-remove", userId="new", role="auditor")
    await asking.ask("user-deactivate", {"erase": True}, userId="new")
    report = {"reason": "rude"}
    await office.nobody.asks("POST", f"/_matrix/client/v3/users/{user_id}/report", report)
    reports = (await asking.ask("report-list"))["reports"]
    assert [each["about"] for each in reports] == [user_id]
    await asking.ask("report-dismiss", node="paris", reportId=str(reports[0]["report_id"]))


async def about_moves(asking: Asking, user_id: str) -> None:
    await asking.ask("residency-move", {"user": user_id, "to": "tehran", "dry_run": True})
    await asking.ask("residency-move", {"user": user_id, "to": "tehran", "window": "01:00-05:00"})
    await asking.ask("residency-move-stop", {}, userId=user_id)
    assert (await asking.ask("residency-move-status", user=user_id))["moves"][0]["halted"] == "stopped"
    await asking.ask("residency-move-resume", userId=user_id)
    await asking.ask("residency-move-stop", {"forget": True}, userId=user_id)
    await asking.ask("residency-receipts", userId=user_id)
    assert (await asking.ask("residency-move-status"))["moves"] == []
    made = await asking.office.nobody.asks("POST", "/_matrix/client/v3/createRoom", {})
    await asking.ask("residency-move-room", {"room": made.json["room_id"], "to": "tehran", "dry_run": True})
    await asking.ask("residency-move-room", {"room": made.json["room_id"], "to": "paris"})


async def about_the_policy(asking: Asking) -> None:
    server = asking.office.deployment.server
    assert not (await asking.ask("residency-policy"))["file_differs"]
    peer = {"server": "one.example", "jurisdiction": "FR"}
    flow = {"from": "IR", "to": ["FR"], "classes": ["events", "keys"]}
    edits = [{"path": ["peers"], "append": peer}, {"path": ["flows"], "append": flow}]
    edited = await asking.ask("residency-edit", {"edits": edits})
    text, plan = edited["text"], edited["plan"]["digest"]
    assert (await asking.ask("residency-plan", {"text": text, "file": "x"}))["digest"] == plan
    said = policy_chain.approve(server.name, plan, "ann", ANN)
    assert (await asking.ask("residency-approve", {"plan": plan, **said._asdict()}))["given"] == ["ann"]
    answer = await asking.ask("residency-apply", {"plan": plan, "text": text})
    while not answer["done"]:
        answer = await asking.ask("residency-progress")
    await asking.ask("residency-progress")
    assert len((await asking.ask("residency-history"))["versions"]) == 2
    assert (await asking.ask("residency-plan", {"restores": 1}))["restores"] == 1
    # A plan that was cut off.
    routes = server.nodes.directory.engine
    base = await chain.newest(routes, server.identity)
    assert base is not None
    text = following(text, serial=3, more="# more\n[retention.IR]\nsessions = '3d'\n")
    planned = await asking.ask("residency-plan", {"text": text})
    begun = Application(planned["digest"], digest(base.record), text, None, 0, 0, "")
    await routes.write(policy_plans.begin, begun)
    answer = await asking.ask("residency-resume")
    while not answer["done"]:
        answer = await asking.ask("residency-progress")
    await routes.write(policy_plans.begin, begun)
    await asking.ask("residency-give-up")


async def about_leaving(asking: Asking) -> None:
    body = {"jurisdiction": "IR", "until": asking.office.deployment.clock.now_ms() + 400 * 24 * 3600 * 1000}
    seen = await asking.ask("residency-withdraw", {**body, "dry_run": True})
    await asking.ask("residency-withdraw", {**body, "plan": seen["digest"]})
    assert len((await asking.ask("residency-withdraw-status"))["withdrawals"]) == 1
    withdrawals = await asking.office.deployment.asked("GET", API + "/residency/withdrawals")
    assert withdrawals.json["withdrawals"]
    await asking.ask("residency-withdraw-call-off", jurisdiction="IR")


async def about_disclosures(asking: Asking) -> None:
    now = asking.office.deployment.clock.now_ms()
    paper = {
        "jurisdiction": "IR",
        "authority": "Court 3",
        "case": "17/4",
        "legal_basis": "Art. 9",
        "document_sha256": "0" * 64,
        "gag_until": now + 2000,
        "accounts": ["operator", "auditor"],
        "fields": ["phone_number"],
        "since": 0,
        "until": now,
        "expires": now + 1000,
    }
    await asking.ask("disclose-request", paper)
    at: dict[str, Any] = {"node": "tehran", "number": "1"}
    await asking.ask("disclose-narrow", {"reason": "too much", "accounts": ["operator"]}, **at)
    order = (await asking.ask("disclose-show", **at))["order"]
    approval = disclosure_orders.approve(disclosure_orders.read(orjson.dumps(order)), "ann", ANN)
    given = await asking.ask("disclose-approve", {"approval": orjson.loads(approval.write())}, **at)
    assert given == {"order": "tehran/1", "given": ["ann"], "needed": 1}
    await asking.ask("disclose-refuse", {"reason": "not competent"}, **at)
    await asking.ask("disclose-unseal", **at)
    listed = await asking.ask("disclose-list")
    assert [each["state"] for each in listed["orders"]] == ["refused"]


async def about_running(asking: Asking) -> None:
    answer = await asking.ask("backup", {"to": "today.tar"}, node="tehran")
    while not answer["done"]:
        answer = await asking.ask("backup-progress")
    there = asking.office.deployment.server.settings.data_dir / "backups" / "today.tar"
    assert there.stat().st_mode & 0o777 == 0o600
    answer = await asking.ask("backup-directory", {"to": "directory.tar"})
    while not answer["done"]:
        answer = await asking.ask("backup-progress")
    await asking.ask("isolation-on", {"reason": "try"}, jurisdiction="IR")
    assert (await asking.ask("isolation-status"))["isolated"]
    assert len((await asking.ask("log-status"))["logs"]) == 2
    assert (await asking.ask("log-alarms")) == {"alarms": [], "faults": []}
    assert (await asking.ask("log-witness-list"))["logs"] == []
    await asking.ask("isolation-off", jurisdiction="IR")
    await asking.ask("residency-audit", node="tehran")
    await asking.ask("residency-evidence", texts="true")
    await asking.ask("residency-traffic")
    await asking.ask("doctor")
    assert (await asking.ask("admin-log", limit="50"))["intact"]


async def about_the_list(asking: Asking) -> None:
    server = asking.office.deployment.server
    assert (await asking.ask("federation-list-status"))["url"] is None
    more = f'[federation_list]\nkeys = ["{ANN.verify_key.base64}"]\nurl = "file:list.json"\n'
    server.policy.now = policy_from_text(POLICY_OF_ANN + more, "residency.toml", server.name)
    servers = {"one.example": {"jurisdiction": "XX"}}
    made = {"format": 1, "name": "Treaty", "serial": 1, "issued": 1, "valid_until": 2**50, "servers": servers}
    server.settings.data_dir.mkdir(parents=True, exist_ok=True)
    (server.settings.data_dir / "list.json").write_bytes(orjson.dumps(federation_lists.signed(made, ANN)))
    assert (await asking.ask("federation-list-pull"))["changed"]
    assert (await asking.ask("federation-list-status"))["undeclared"] == ["XX"]
    (one,) = (await asking.ask("federation-list-servers", server="One.example"))["servers"]
    assert (one["placed"], one["valid"], one["operator"]) == ("XX", True, None)


@aio
async def test_answers_are_as_they_are_described(office: Office) -> None:
    """Every command that has a door is answered at least once."""
    server = office.deployment.server
    await founded(server, POLICY_OF_ANN)
    asking = Asking(office, await document(office))
    server.policy.now = policy_from_text(POLICY_OF_ANN, "residency.toml", server.name)
    await about_disclosures(asking)
    await about_accounts(asking, office.people[Role.AUDITOR].user_id)
    await about_moves(asking, office.nobody.user_id)
    await about_the_policy(asking)
    await about_leaving(asking)
    await about_running(asking)
    await about_the_list(asking)
    served = {name for name, declared in DECLARED.items() if declared.door is not None}
    # How far something is, is asked only of what takes longer than here.
    assert served - asking.answered <= {"backup-progress", "residency-withdraw-progress"}


@aio
async def test_what_users_ask_is_as_it_is_described(office: Office) -> None:
    found = await document(office)
    asking = Asking(office, found)
    made = await office.nobody.asks("POST", "/_matrix/client/v3/createRoom", {})
    for path, at in (
        ("/residency/me", "/residency/me"),
        ("/rooms/{roomId}/residency", f"/rooms/{made.json['room_id']}/residency"),
        ("/residency/version", "/residency/version"),
        ("/residency/export", "/residency/export"),
        ("/residency/withdrawals", "/residency/withdrawals"),
        ("/key-log", "/key-log"),
        ("/witness", "/witness"),
    ):
        answer = await office.nobody.asks("GET", API + at)
        assert answer.status == 200
        asking.conforms(found["paths"][PREFIX + path]["get"]["responses"]["200"], answer.json)


def test_a_field_that_is_not_described_is_seen() -> None:
    content = {"content": {"application/json": {"schema": DECLARED["user-add"].answer}}}
    asking = Asking.__new__(Asking)
    asking.conforms(content, {"user_id": "@a:b", "node": "x"})
    for wrong in ({"user_id": "@a:b", "node": "x", "more": 1}, {"user_id": "@a:b"}, {"user_id": 1, "node": "x"}):
        with pytest.raises(AssertionError):
            asking.conforms(content, wrong)
