"""What the log of administration says, where it rests, and that nobody changes it unseen."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from homeserver.control import commands
from homeserver.protocol import admin_chain
from homeserver.protocol.admin_chain import MACHINE
from homeserver.protocol.errors import InvalidSignature, NodeUnavailable
from homeserver.protocol.roles import Role
from homeserver.storage import admin_log, users
from homeserver.storage.engine import Transaction
from tests.administration.office import Office, tampered
from tests.deployment import NAME, PASSWORD, start
from tests.support import Databases, aio

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments

SHOWN = ("node", "who", "command", "arguments", "outcome", "errcode")


async def told(office: Office) -> list[tuple[object, ...]]:
    return [tuple(each[name] for name in SHOWN) for each in await office.entries()]


@aio
async def test_a_change_is_written_down_before_it_and_after_it(office: Office) -> None:
    made = {"localpart": "new", "password": PASSWORD, "phone": "+33123456789", "node": "paris"}
    assert (await office.ask(Role.OPERATOR, "POST", "/users", made)).status == 200
    assert (await office.ask(Role.OPERATOR, "POST", "/users", made)).errcode == "M_USER_IN_USE"
    whose, kept = f"@operator:{NAME}", {"localpart": "new", "node": "paris"}
    assert await told(office) == [
        ("tehran", whose, "user-add", kept, "begun", None),
        ("tehran", whose, "user-add", {}, "done", None),
        ("tehran", whose, "user-add", kept, "begun", None),
        ("tehran", whose, "user-add", {}, "failed", "M_USER_IN_USE"),
    ]
    assert [each["begun"] for each in await office.entries()] == [None, 1, None, 3]


@aio
async def test_what_administrators_do_by_the_client_api_is_written_down_too(office: Office) -> None:
    operator, whose = office.people[Role.OPERATOR], office.nobody.user_id
    for what, name in (("lock", "locked"), ("suspend", "suspended")):
        path = f"/_matrix/client/v1/admin/{what}/"
        assert (await operator.asks("PUT", path + whose, {name: True})).status == 200
        assert (await operator.asks("PUT", path + operator.user_id, {name: True})).status == 403
    expected: list[tuple[object, ...]] = []
    for command, value in (("user-lock", {"locked": True}), ("user-suspend", {"suspended": True})):
        expected += [
            (command, {"user": whose, **value}, "begun", None),
            (command, {}, "done", None),
            (command, {"user": operator.user_id, **value}, "begun", None),
            (command, {}, "failed", "M_FORBIDDEN"),
        ]
    assert [each[2:] for each in await told(office)] == expected


@aio
async def test_what_only_looks_is_not_written_down(office: Office) -> None:
    await office.ask(Role.OPERATOR, "GET", "/users")
    dry = {"user": "nobody", "to": "tehran", "dry_run": True}
    assert (await office.ask(Role.OPERATOR, "POST", "/residency/moves", dry)).json["to"] == "tehran"
    assert await office.entries() == []


@aio
async def test_what_is_done_at_the_machine_rests_with_whom_it_is_done_to(office: Office) -> None:
    await office.command("user-reset-password", user="nobody", password=PASSWORD)
    await office.command("isolation-on", jurisdiction="IR", reason="try")
    await office.command("user-add", localpart="new", password=PASSWORD, node="paris")
    with pytest.raises(Exception, match="no such user"):
        await office.command("user-deactivate", user="stranger")
    assert await told(office) == [
        (None, MACHINE, "isolation-on", {"jurisdiction": "IR", "reason": "try"}, "begun", None),
        (None, MACHINE, "isolation-on", {}, "done", None),
        (None, MACHINE, "user-add", {"node": "paris"}, "begun", None),
        (None, MACHINE, "user-add", {}, "done", None),
        (None, MACHINE, "user-deactivate", {}, "begun", None),
        (None, MACHINE, "user-deactivate", {}, "failed", "M_NOT_FOUND"),
        ("paris", MACHINE, "user-add", {"localpart": "new", "node": "paris"}, "done", None),
        ("paris", MACHINE, "user-reset-password", {"user": "nobody"}, "begun", None),
        ("paris", MACHINE, "user-reset-password", {}, "done", None),
    ]
    only = await office.command("admin-log", node="paris", limit=1)
    assert [each["command"] for each in only["entries"]] == ["user-reset-password"]
    assert only["checked"] == 3


@aio
async def test_nothing_is_done_that_cannot_be_written_down(office: Office) -> None:
    """Somebody has made room for no further entry."""
    tehran = office.deployment.node("tehran")
    await tampered(tehran, "DROP TABLE admin_log_heads")
    assert (await office.ask(Role.OPERATOR, "POST", "/users/nobody/deactivate")).status == 500
    office.deployment.observed.faults.clear()
    assert (await office.nobody.asks("GET", "/_matrix/client/v3/account/whoami")).status == 200


async def five(office: Office) -> None:
    """Five entries in the chain of the auditor."""
    for _ in range(5):
        await office.ask(Role.AUDITOR, "POST", "/users")


OF_AUDITOR = "user_nid = (SELECT user_nid FROM users WHERE user_id = '@auditor:example.org')"


@pytest.mark.parametrize(
    ("sql", "faults"),
    [
        (f"DELETE FROM admin_log WHERE {OF_AUDITOR} AND seq = 1", ["entry 1 is gone"]),
        (f"DELETE FROM admin_log WHERE {OF_AUDITOR} AND seq IN (2, 3)", ["entries 2 to 3 are gone"]),
        (f"DELETE FROM admin_log WHERE {OF_AUDITOR} AND seq = 5", ["entry 5 is gone"]),
        (f"DELETE FROM admin_log WHERE {OF_AUDITOR}", ["entries 1 to 5 are gone"]),
        (f"DELETE FROM admin_log_heads WHERE {OF_AUDITOR}", ["its head is not that of this chain"]),
        (
            f"UPDATE admin_log SET entry = CAST(REPLACE(CAST(entry AS TEXT), 'user-add', 'user-sub') AS BLOB)"
            f" WHERE {OF_AUDITOR} AND seq = 3",
            ["entry 3 is not what this deployment has signed", "entry 4 does not follow on the one before it"],
        ),
        (
            f"UPDATE admin_log SET entry = (SELECT entry FROM admin_log WHERE {OF_AUDITOR} AND seq = 1)"
            f" WHERE {OF_AUDITOR} AND seq = 5",
            ["entry 5 is another one: number 1 of @auditor:example.org", "its head is not that of this chain"],
        ),
    ],
)
@aio
async def test_what_was_removed_or_changed_is_found(office: Office, sql: str, faults: list[str]) -> None:
    await five(office)
    assert len(await office.entries()) == 5
    await tampered(office.deployment.node("tehran"), sql)
    assert await office.faults() == faults
    answer = await office.ask(Role.AUDITOR, "GET", "/log")
    assert not answer.json["intact"]


@aio
async def test_what_was_removed_stays_to_be_seen_when_the_log_goes_on(office: Office) -> None:
    await five(office)
    tehran = office.deployment.node("tehran")
    await tampered(tehran, f"DELETE FROM admin_log WHERE {OF_AUDITOR} AND seq > 3")
    await office.ask(Role.AUDITOR, "POST", "/users")
    assert await office.faults() == ["entries 4 to 5 are gone"]
    await tampered(tehran, f"DELETE FROM admin_log_heads WHERE {OF_AUDITOR}")
    await office.ask(Role.AUDITOR, "POST", "/users")
    assert await office.faults() == ["entries 4 to 5 are gone", "entry 7 is gone"]


@aio
async def test_an_entry_of_somebody_else_is_none_of_theirs(office: Office) -> None:
    await five(office)
    for _ in range(5):
        await office.ask(Role.APPROVER, "POST", "/users")
    of_approver = OF_AUDITOR.replace("auditor", "approver")
    await tampered(
        office.deployment.node("tehran"),
        f"UPDATE admin_log SET entry = (SELECT entry FROM admin_log WHERE {of_approver} AND seq = 2)"
        f" WHERE {OF_AUDITOR} AND seq = 2",
    )
    assert await office.faults() == [
        "entry 2 is another one: number 2 of @approver:example.org",
        "entry 3 does not follow on the one before it",
    ]


@aio
async def test_more_entries_than_are_read_at_once(office: Office) -> None:
    for _ in range(60):
        await office.command("isolation-on", jurisdiction="FR")
        await office.command("isolation-off", jurisdiction="FR")
    answer = await office.command("admin-log", limit=10)
    assert (answer["checked"], len(answer["entries"]), answer["intact"]) == (240, 10, True)
    assert [each["seq"] for each in answer["entries"]] == [*range(231, 241)]


@aio
async def test_an_entry_is_checked_with_the_public_key_alone(office: Office) -> None:
    await five(office)
    server = office.deployment.server

    async def kept(tx: Transaction) -> list[tuple[int, bytes]]:
        user_nid = await users.resident(tx, office.people[Role.AUDITOR].user_id)
        assert user_nid is not None
        return (await admin_log.page(tx, user_nid, 0, 10))[0]

    records = [record for _, record in await office.deployment.node("tehran").read(kept)]
    key = server.identity.residency_key.verify_key
    read = [admin_chain.verified(record, NAME, key) for record in records]
    assert [each.previous for each in read] == [None, *map(admin_chain.digest, records[:-1])]
    with pytest.raises(InvalidSignature):
        admin_chain.verified(records[0], "elsewhere.example", key)


@aio
async def test_many_at_once_write_one_chain(engines: Databases) -> None:
    office = await Office.opened(start(engines))
    asked = [office.ask(Role.AUDITOR, "POST", "/users") for _ in range(8)]
    asked += [office.ask(Role.OPERATOR, "PUT", f"/isolations/{code}") for code in ("IR", "FR")]
    done = [office.command("user-deactivate", user="nobody") for _ in range(4)]
    await asyncio.gather(*asked, *done)
    counts = Counter((each["who"], each["outcome"]) for each in await office.entries())
    assert counts[office.people[Role.AUDITOR].user_id, "refused"] == 8
    assert counts[office.people[Role.OPERATOR].user_id, "done"] == 2
    assert counts[MACHINE, "begun"] == counts[MACHINE, "done"] == 4


@aio
async def test_whoever_is_cut_off_leaves_a_beginning(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that somebody looks what became of it."""

    async def killed(server: Server, arguments: Arguments) -> dict[str, Any]:
        raise asyncio.CancelledError

    monkeypatch.setattr(commands, "COMMANDS", {**commands.COMMANDS, "user-deactivate": killed})
    with pytest.raises(asyncio.CancelledError):
        await office.command("user-deactivate", user="nobody")
    assert await told(office) == [("paris", MACHINE, "user-deactivate", {"user": "nobody"}, "begun", None)]


@aio
async def test_a_node_that_is_down_is_told(tmp_path: Path) -> None:
    engines = Databases("sqlite", tmp_path)
    office = await Office.opened(start(engines))
    await office.command("user-deactivate", user="nobody")
    await engines.take_away("paris")
    answer = await office.ask(Role.AUDITOR, "GET", "/log")
    assert (answer.json["nodes_down"], answer.json["intact"]) == (["paris"], True)
    with pytest.raises(NodeUnavailable):
        await office.command("user-deactivate", user="nobody")
    await engines.close()
