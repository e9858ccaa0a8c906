"""Push rules and pushers, over the routes; and the evaluators that come of them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from homeserver.accounts import push_rules
from homeserver.protocol.push_evaluation import PREDEFINED_EVALUATOR, Evaluator
from homeserver.protocol.push_rules import decode
from homeserver.storage.streams import Stream
from tests.deployment import Deploy, Deployment, User
from tests.network import OPEN
from tests.support import aio, finish

RULES = "/_matrix/client/v3/pushrules"
GLOBAL = f"{RULES}/global"
PUSHERS = "/_matrix/client/v3/pushers"


async def evaluator(user: User) -> Evaluator:
    caller = await user.caller()
    found = await caller.node.read(push_rules.evaluators, caller.node, [caller.user_nid])
    return found[caller.user_nid]


@pytest.mark.parametrize("user_id", ["@alice:example.org", '@"<user>\\:example.org'])
def test_the_predefined_rules_of_two_differ_in_their_own_ids_alone(user_id: str) -> None:
    assert orjson.loads(push_rules.as_content(None, user_id)) == {"global": decode(None).as_json(user_id)}


@aio
async def test_reading_the_predefined_rules(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    every = (await alice.asks("GET", f"{RULES}/")).json
    assert every == (await alice.asks("GET", RULES)).json
    assert every["global"] == (await alice.asks("GET", f"{GLOBAL}/")).json == (await alice.asks("GET", GLOBAL)).json
    rule = (await alice.asks("GET", f"{GLOBAL}/override/.m.rule.is_user_mention")).json
    assert rule in every["global"]["override"]
    assert rule["conditions"][0]["value"] == alice.user_id
    assert (await alice.asks("GET", f"{GLOBAL}/override/.m.rule.master/enabled")).json == {"enabled": False}
    assert (await alice.asks("GET", f"{GLOBAL}/underride/.m.rule.message/actions")).json == {"actions": ["notify"]}


@aio
async def test_changing_rules(deployment: Deployment) -> None:
    alice, bob = await deployment.user("alice"), await deployment.user("bob")
    caller = await alice.caller()
    node = caller.node
    assert await evaluator(alice) is PREDEFINED_EVALUATOR
    before = node.position
    with deployment.server.wakeups.listen([(node.name, caller.user_nid)]) as ear:
        body = {"pattern": "cake", "actions": ["notify", {"set_tweak": "highlight"}]}
        assert (await alice.asks("PUT", f"{GLOBAL}/content/cake", body)).json == {}
        assert await ear.wait(1.0)
    assert node.position == before + 1
    assert node.changes.last(Stream.ACCOUNT_DATA, caller.user_nid) == node.position
    rule = (await alice.asks("GET", f"{GLOBAL}/content/cake")).json
    assert rule == {"rule_id": "cake", "default": False, "enabled": True, **body}
    assert await evaluator(alice) is not PREDEFINED_EVALUATOR
    assert await evaluator(bob) is PREDEFINED_EVALUATOR

    assert (await alice.asks("PUT", f"{GLOBAL}/content/cake/enabled", {"enabled": False})).json == {}
    assert (await alice.asks("GET", f"{GLOBAL}/content/cake/enabled")).json == {"enabled": False}
    assert (await alice.asks("PUT", f"{GLOBAL}/content/cake/actions", {"actions": []})).json == {}
    assert (await alice.asks("GET", f"{GLOBAL}/content/cake/actions")).json == {"actions": []}
    pie = {"pattern": "pie", "actions": []}
    assert (await alice.asks("PUT", f"{GLOBAL}/content/pie", pie, after="cake")).json == {}
    listed = (await alice.asks("GET", f"{GLOBAL}/")).json["content"]
    assert [rule["rule_id"] for rule in listed] == ["cake", "pie"]
    answer = await alice.asks("PUT", f"{GLOBAL}/content/tart", pie, before="none")
    assert (answer.status, answer.errcode) == (400, "M_UNKNOWN")
    assert (await alice.asks("DELETE", f"{GLOBAL}/content/cake")).json == {}
    assert (await alice.asks("DELETE", f"{GLOBAL}/content/cake")).errcode == "M_NOT_FOUND"
    assert [rule["rule_id"] for rule in (await alice.asks("GET", f"{GLOBAL}/")).json["content"]] == ["pie"]
    assert (await bob.asks("GET", f"{GLOBAL}/")).json["content"] == []


@aio
async def test_nothing_new_takes_no_position(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    node = (await alice.caller()).node
    path = f"{GLOBAL}/override/.m.rule.master/enabled"
    assert (await alice.asks("PUT", path, {"enabled": True})).status == 200
    position = node.position
    assert (await alice.asks("PUT", path, {"enabled": True})).status == 200
    assert node.position == position


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "errcode"),
    [
        ("GET", "content/none", None, 404, "M_NOT_FOUND"),
        ("GET", "content/none/enabled", None, 404, "M_NOT_FOUND"),
        ("GET", "content/none/actions", None, 404, "M_NOT_FOUND"),
        ("GET", "contents/none", None, 400, "M_INVALID_PARAM"),
        ("PUT", "contents/none", {"actions": []}, 400, "M_INVALID_PARAM"),
        ("PUT", "contents/none/enabled", {"enabled": True}, 400, "M_INVALID_PARAM"),
        ("PUT", "content/none/enabled", {"enabled": True}, 404, "M_NOT_FOUND"),
        ("PUT", "content/none/actions", {"actions": []}, 404, "M_NOT_FOUND"),
        ("PUT", "override/.m.rule.master/enabled", {}, 400, "M_MISSING_PARAM"),
        ("PUT", "override/.m.rule.master/enabled", {"enabled": 1}, 400, "M_BAD_JSON"),
        ("PUT", "override/.m.rule.master/actions", {}, 400, "M_MISSING_PARAM"),
        ("PUT", "override/.mine", {"actions": []}, 400, "M_INVALID_PARAM"),
        ("PUT", "override/a%2Fb", {"actions": []}, 400, "M_INVALID_PARAM"),
        ("PUT", "override/mine", b"nonsense", 400, "M_NOT_JSON"),
        ("DELETE", "override/.m.rule.master", None, 400, "M_INVALID_PARAM"),
        ("DELETE", "contents/none", None, 400, "M_INVALID_PARAM"),
    ],
)
@aio
async def test_what_is_refused(
    deployment: Deployment, method: str, path: str, body: Any, status: int, errcode: str
) -> None:
    alice = await deployment.user("alice")
    answer = await alice.asks(method, f"{GLOBAL}/{path}", body)
    assert (answer.status, answer.errcode) == (status, errcode)


@aio
async def test_evaluators_are_shared_and_read_once(deployment: Deployment) -> None:
    users = [await deployment.user(name) for name in ("alice", "bob")]
    callers = [await user.caller() for user in users]
    node = callers[0].node
    for user in users:
        await user.asks("PUT", f"{GLOBAL}/override/.m.rule.master/enabled", {"enabled": True})
    wanted = [caller.user_nid for caller in callers]
    first = await node.read(push_rules.evaluators, node, wanted)
    assert first[wanted[0]] is first[wanted[1]]
    trips = node.engine.trips
    memory = node.memory(push_rules.Compiled)
    assert [memory.find(user_nid) for user_nid in wanted] == list(first.values())
    assert node.engine.trips == trips


@aio
async def test_rules_read_before_a_change_are_not_remembered_after_it(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    caller = await alice.caller()
    memory = caller.node.memory(push_rules.Compiled)
    generation = memory.generation
    await alice.asks("PUT", f"{GLOBAL}/override/.m.rule.master/enabled", {"enabled": True})
    memory.remember(caller.user_nid, None, generation)
    assert await evaluator(alice) is not PREDEFINED_EVALUATOR


# -- pushers

PUSHER: dict[str, Any] = {
    "kind": "http",
    "app_id": "org.example.app",
    "pushkey": "key",
    "app_display_name": "Example",
    "device_display_name": "Phone",
    "profile_tag": "x",
    "lang": "fa",
    "data": {"url": "https://push.example.org/_matrix/push/v1/notify", "format": "event_id_only", "brand": "e"},
}


@pytest.fixture
def open_deployment(deploy: Deploy) -> Deployment:
    """A deployment from which notifications may go anywhere."""

    async def one() -> Deployment:
        return await deploy(policy=OPEN)

    return finish(one())


@aio
async def test_pushers(open_deployment: Deployment) -> None:
    deployment = open_deployment
    alice, bob = await deployment.user("alice"), await deployment.user("bob")
    assert (await alice.asks("GET", PUSHERS)).json == {"pushers": []}
    assert (await alice.asks("POST", f"{PUSHERS}/set", PUSHER)).json == {}
    assert (await alice.asks("GET", PUSHERS)).json == {"pushers": [PUSHER]}
    renamed = {**PUSHER, "device_display_name": "Tablet"}
    assert (await alice.asks("POST", f"{PUSHERS}/set", {**renamed, "append": True})).json == {}
    assert (await alice.asks("GET", PUSHERS)).json == {"pushers": [renamed]}
    await bob.asks("POST", f"{PUSHERS}/set", {**PUSHER, "append": True})
    assert (await alice.asks("GET", PUSHERS)).json == {"pushers": [renamed]}
    await bob.asks("POST", f"{PUSHERS}/set", PUSHER)
    assert (await alice.asks("GET", PUSHERS)).json == {"pushers": []}
    gone = {"kind": None, "app_id": "org.example.app", "pushkey": "key"}
    assert (await bob.asks("POST", f"{PUSHERS}/set", gone)).json == {}
    assert (await bob.asks("GET", PUSHERS)).json == {"pushers": []}


@pytest.mark.parametrize(
    ("change", "errcode"),
    [
        ({"kind": "email"}, "M_INVALID_PARAM"),
        ({"kind": "sms"}, "M_INVALID_PARAM"),
        ({"app_id": "x" * 65}, "M_INVALID_PARAM"),
        ({"pushkey": "é" * 257}, "M_INVALID_PARAM"),
        ({"pushkey": ""}, "M_INVALID_PARAM"),
        ({"pushkey": 5}, "M_BAD_JSON"),
        ({"lang": None}, "M_BAD_JSON"),
        ({"data": None}, "M_BAD_JSON"),
        ({"data": {}}, "M_MISSING_PARAM"),
        ({"data": {"url": "http://push.example.org/_matrix/push/v1/notify"}}, "M_INVALID_PARAM"),
        ({"data": {"url": "https://push.example.org/elsewhere"}}, "M_INVALID_PARAM"),
        ({"data": {"url": "https://[/_matrix/push/v1/notify"}}, "M_INVALID_PARAM"),
        ({"data": {"url": "https://who:secret@push.example.org/_matrix/push/v1/notify"}}, "M_INVALID_PARAM"),
        ({"data": {"url": "https://push.example.org/_matrix/push/v1/notify/../../x"}}, "M_INVALID_PARAM"),
        ({"data": {"url": 7}}, "M_BAD_JSON"),
        ({"data": {**PUSHER["data"], "format": "full"}}, "M_INVALID_PARAM"),
        ({"data": {**PUSHER["data"], "x": "y" * 20_000}}, "M_TOO_LARGE"),
        ({"append": "no"}, "M_BAD_JSON"),
    ],
)
@aio
async def test_pushers_that_are_refused(open_deployment: Deployment, change: dict[str, Any], errcode: str) -> None:
    alice = await open_deployment.user("alice")
    assert (await alice.asks("POST", f"{PUSHERS}/set", {**PUSHER, **change})).errcode == errcode
    assert (await alice.asks("GET", PUSHERS)).json == {"pushers": []}


@pytest.mark.parametrize("missing", ["kind", "app_id", "pushkey", "lang", "data", "app_display_name"])
@aio
async def test_pushers_that_lack_something(deployment: Deployment, missing: str) -> None:
    alice = await deployment.user("alice")
    body = {name: value for name, value in PUSHER.items() if name != missing}
    assert (await alice.asks("POST", f"{PUSHERS}/set", body)).errcode == "M_MISSING_PARAM"
