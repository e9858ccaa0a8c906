"""What an operator is told of logs, witnesses and alarms: by the command line, and by the doctor."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from click.testing import CliRunner, Result

from homeserver.__main__ import main
from homeserver.command_line import key_logs
from homeserver.control import commands
from homeserver.transparency import cosigning, heads, stating
from homeserver.transparency.heads import KeyLog
from tests.deployment import Deploy, Deployment
from tests.support import ON_SQLITE, aio
from tests.transparency.logs_of_others import ORIGIN as OTHER
from tests.transparency.logs_of_others import Log, Witness, leaves, wired, witnessed_by
from tests.transparency.test_cosigning import ABROAD
from tests.transparency.test_key_log import ORIGIN, caught_up, device
from tests.transparency.test_witnessing import _delete_alarms, _fork, asked, signed, witness


def says(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], *words: str) -> Result:
    """What a command says, when the server answers that."""
    monkeypatch.setattr(key_logs, "perform", lambda config, command, **arguments: answer)
    return CliRunner().invoke(main, ["log", *words])


async def found(deployment: Deployment) -> list[str]:
    """What the doctor finds."""
    answer = await commands.perform(deployment.server, "doctor", {})
    assert all(each["remedy"] for each in answer["findings"])
    return [each["what"] for each in answer["findings"]]


@ON_SQLITE
@aio
async def test_who_has_signed_and_who_has_not(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    paris, zurich = Witness("paris.example/w"), Witness("zurich.example/w")
    policy = ABROAD + witnessed_by(2, paris=("FR", paris.key), zurich=("CH", zurich.key))
    deployment = await deploy(policy=policy)
    wires = wired(deployment, paris=paris, zurich=zurich)
    wires.cut.add("zurich.example")
    server, node = deployment.server, deployment.node("tehran")
    await device(deployment, "alice")
    paris.lie = lambda method, target, body: (404, b"")
    await caught_up(deployment, "tehran")
    await cosigning.ask_all(server, node)
    status = await commands.perform(server, "log-status", {})
    told = says(monkeypatch, status, "status")
    assert told.exit_code == 0  # a moment is nothing
    assert f"{ORIGIN}: 1 leaves, signed by no witness" in told.output
    assert await found(deployment) == []
    await deployment.clock.advance(61)
    status = await commands.perform(server, "log-status", {})
    told = says(monkeypatch, status, "status")
    assert told.exit_code == 1
    assert "without a quorum of witnesses since 2023-11-14 22:13:20 UTC; nobody has signed in: CH, FR" in told.output
    assert "paris (FR), since 2023-11-14 22:13:20 UTC: it does not know this log" in told.output
    assert await found(deployment) == ["key log without witnesses in CH, FR"]


@ON_SQLITE
@aio
async def test_what_stands_and_what_has_ended(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    async def told(command: str, *words: str, **arguments: Any) -> Result:
        return says(monkeypatch, await commands.perform(deployment.server, command, arguments), *words)

    log = Log(leaves(20))
    key = await witness(deployment, log)
    assert (await told("log-alarms", "alarm", "list")).output == "There never was an alarm\n"
    await signed(deployment, log.submission(0, 7), key)
    shown = await told("log-witness-list", "witness", "list")
    assert shown.output == f"key: {key.write()}\n{OTHER}: 7 leaves, signed 2023-11-14 22:13:20 UTC\n"
    await asked(deployment, log.submission(3, 5))
    shown = await told("log-witness-list", "witness", "list")
    assert (shown.exit_code, shown.stderr) == (1, f"{OTHER}: refused, and not explained yet: 1 of its checkpoints\n")
    await asked(deployment, _fork("removed", log).submission(7, 12))
    for command, words in (
        ("log-alarms", ["alarm", "list"]),
        ("log-status", ["status"]),
        ("log-witness-list", ["witness", "list"]),
    ):
        shown = await told(command, *words)
        assert shown.exit_code == 1
        assert OTHER in shown.output
    assert await found(deployment) == [f"alarm 1 about the log {OTHER}"]
    await commands.perform(deployment.server, "log-alarm-end", {"number": 1, "reason": "their disk was lost"})
    shown = await told("log-alarms", "alarm", "list")
    assert shown.exit_code == 0
    assert "ended 2023-11-14 22:13:20 UTC: their disk was lost" in shown.output
    assert await found(deployment) == []
    for node in deployment.server.nodes:
        await stating.catch_up(deployment.server, node)
    await deployment.server.nodes.directory.engine.write(_delete_alarms)
    assert (await told("log-alarms", "alarm", "list")).exit_code == 1
    assert len(await found(deployment)) == 4  # an alarm and its end, in both logs


@ON_SQLITE
@aio
async def test_the_server_does_it_by_itself(deploy: Deploy) -> None:
    zurich = Witness("zurich.example/w")
    deployment = await deploy(policy=ABROAD + witnessed_by(1, zurich=("CH", zurich.key)))
    wires = wired(deployment, zurich=zurich)
    server, node = deployment.server, deployment.node("tehran")
    zurich.lie = lambda method, target, body: (500, b"")
    following = asyncio.ensure_future(cosigning.follow(server, node))
    try:
        await device(deployment, "alice")
        await caught_up(deployment, "tehran")
        while not wires.asked:
            await deployment.clock.advance(1)
        zurich.lie = lambda method, target, body: None
        zurich.log = await heads.public_key(server, node)
        while node.memory(KeyLog).cosigned is None:
            await deployment.clock.advance(1)
        assert await found(deployment) == []
    finally:
        following.cancel()
        await asyncio.wait([following])
