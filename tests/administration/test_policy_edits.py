"""Editing the policy over HTTP: what comes into force is the text as somebody wrote it, but for what was edited."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.protocol.roles import Role
from tests.administration.office import Office
from tests.deployment import POLICY
from tests.residency.planned import founded
from tests.support import aio

COMMENTED = POLICY.replace("[nodes.tehran]", "# by the mountains\n[nodes.tehran]  # since spring")
FLOW = {"from": "IR", "to": ["FR"], "classes": ["events", "keys"], "consent": False}


async def edited(office: Office, *edits: dict[str, Any], **more: object) -> dict[str, Any]:
    answer = await office.ask(Role.RESIDENCY_EDITOR, "POST", "/residency/edit", {"edits": [*edits], **more})
    assert answer.status == 200, answer
    return answer.json


@aio
async def test_an_edit_is_applied_and_comments_and_order_stay(office: Office) -> None:
    server = office.deployment.server
    await founded(server, COMMENTED)
    made = await edited(
        office, {"path": ["flows"], "append": FLOW}, {"path": ["jurisdictions", "IR", "name"], "put": "I"}
    )
    assert server.settings.residency.read_text() == COMMENTED, "nothing is stored by an edit"
    assert made["plan"]["flows"]["gained"] == [{"from": "IR", "to": "FR", "classes": ["events", "keys"]}]
    body = {"plan": made["plan"]["digest"], "text": made["text"]}
    answer = await office.ask(Role.RESIDENCY_EDITOR, "POST", "/residency/apply", body)
    while not answer.json["done"]:
        answer = await office.ask(Role.RESIDENCY_EDITOR, "GET", "/residency/apply")
    text = server.settings.residency.read_text()
    assert text == made["text"]
    old, new = ([line for line in each.splitlines() if line] for each in (COMMENTED, text))
    assert [line for line in old if line not in new] == ["serial = 1", 'name = "Iran"']
    assert [line for line in new if line in old] == [line for line in old if line in new]
    begun = next(each for each in await office.entries() if each["command"] == "residency-apply")
    assert begun["arguments"] == {"plan": made["plan"]["digest"], "text_sha256": made["plan"]["text_sha256"]}
    shown = await office.ask(Role.RESIDENCY_EDITOR, "GET", "/residency/policy")
    assert (shown.json["serial"], shown.json["text"], shown.json["file_differs"]) == (2, text, False)


@aio
async def test_a_draft_is_edited_on(office: Office) -> None:
    await founded(office.deployment.server, COMMENTED)
    draft = (await edited(office, {"path": ["flows"], "append": FLOW}))["text"]
    made = await edited(office, {"path": ["flows", 0, "classes"], "append": "media"}, text=draft)
    assert made["plan"]["flows"]["gained"][0]["classes"] == ["events", "keys", "media"]
    assert made["plan"]["serial"] == 2
    gone = await edited(office, {"path": ["flows", 0], "remove": True}, text=draft)
    assert gone["plan"]["flows"]["gained"] == []


@pytest.mark.parametrize(
    ("edit", "errcode"),
    [
        ({"path": ["nodes", "rome", "media"], "put": "x"}, "M_INVALID_PARAM"),
        ({"path": ["nodes", "paris", "jurisdiction"], "put": "XX"}, "M_INVALID_PARAM"),
        ({"path": ["nodes", "paris", "jurisdiction"], "put": None}, "M_BAD_JSON"),
        ({"path": ["flows"], "append": {**FLOW, "to": [None]}}, "M_BAD_JSON"),
        ({"path": ["flows"], "append": FLOW, "remove": True}, "M_BAD_JSON"),
        ({"path": ["nodes", "paris"], "remove": False}, "M_BAD_JSON"),
        ({"path": ["nodes", "paris"]}, "M_BAD_JSON"),
        ({"path": [], "put": 1}, "M_BAD_JSON"),
        ({"path": ["nodes", True], "put": 1}, "M_BAD_JSON"),
        ({"path": "serial", "put": 1}, "M_BAD_JSON"),
        ("serial", "M_BAD_JSON"),
    ],
)
@aio
async def test_what_is_edited_amiss(office: Office, edit: object, errcode: str) -> None:
    await founded(office.deployment.server, COMMENTED)
    answer = await office.ask(Role.RESIDENCY_EDITOR, "POST", "/residency/edit", {"edits": [edit]})
    assert (answer.status, answer.errcode) == (400, errcode), answer
    assert office.deployment.server.settings.residency.read_text() == COMMENTED


@aio
async def test_what_is_too_long_is_left_to_an_editor(office: Office) -> None:
    await founded(office.deployment.server, COMMENTED)
    body = {"edits": [], "text": COMMENTED + "#" * 256 * 1024}
    answer = await office.ask(Role.RESIDENCY_EDITOR, "POST", "/residency/edit", body)
    assert (answer.status, answer.errcode) == (413, "M_TOO_LARGE")
    many = await office.ask(Role.RESIDENCY_EDITOR, "POST", "/residency/edit", {"edits": [{}] * 101})
    assert many.errcode == "M_BAD_JSON"
