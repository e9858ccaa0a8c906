"""``domicile log``: the logs of changes of keys, one for each node; their witnesses, and the logs witnessed here."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from homeserver.command_line.answers import JSON, no, tell
from homeserver.command_line.asking import CONFIG, perform
from homeserver.command_line.monitoring import monitor


@click.group()
def log() -> None:
    """The logs of changes of keys: status, begin-anew, monitor, witness, alarm."""


log.add_command(monitor)


@log.command("status", epilog="Example: domicile log status --json")
@CONFIG
@JSON
def log_status(config: Path, as_json: bool) -> None:
    """How far the log of each node was shown, and who has signed it.

    Status 1 when one has been set back or its node is down, when one lacks its quorum of witnesses for more than a
    minute, and when an alarm stands or is missing. With the logs of other servers that contradicted themselves when
    they told keys; --json has the signed notes that prove it.
    """
    answer = perform(config, "log-status")
    logs = answer["logs"]
    lines = [f"{each['origin']}: {_said(each['size'])}{_signed(each)}" for each in logs if each["fault"] is None]
    lines += [f"{each['origin']}, of another server, has shown {each['what']}" for each in answer["contradictions"]]
    tell(answer, as_json, "\n".join(lines))
    faults = [f"{each['origin']}: {each['fault']}" for each in logs if each["fault"] is not None]
    for each in logs:
        faults += _unsigned(each)
    faults += [f"alarm {each['number']}: {_worded(each)}" for each in answer["alarms"]] + answer["alarm_faults"]
    if faults:
        no("\n".join(faults))


def _signed(log: dict[str, Any]) -> str:
    witnessing = log["witnessing"]
    if not witnessing["witnesses"]:
        return ", no witnesses"
    signed = [each["name"] for each in witnessing["witnesses"] if each["fault"] is None and each["size"] is not None]
    return f", signed by {', '.join(signed)}" if signed else ", signed by no witness"


def _unsigned(log: dict[str, Any]) -> list[str]:
    """Why the quorum is missing, if it is."""
    witnessing = log["witnessing"] or {}
    if witnessing.get("without_quorum_since") is None:
        return []
    since, groups = _time(witnessing["without_quorum_since"]), ", ".join(witnessing["missing"])
    lines = [f"{log['origin']}: without a quorum of witnesses since {since}; nobody has signed in: {groups}"]
    for each in witnessing["witnesses"]:
        if each["fault"] is not None:
            lines.append(
                f"  {each['name']} ({each['jurisdiction']}), since {_time(each['fault_since'])}: {each['fault']}"
            )
    return lines


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _worded(alarm: dict[str, Any]) -> str:
    if alarm["kind"] == "set_back":
        return f"{alarm['origin']} is behind what {alarm['witness']} has signed of it ({_time(alarm['time'])})"
    if alarm["kind"] == "lost":
        return f"the alarm {alarm['ends']} is gone from the directory ({_time(alarm['time'])})"
    who = f", and {alarm['witness']} holds one of them" if alarm["witness"] else ""
    return f"{alarm['origin']} has signed two histories{who} ({_time(alarm['time'])})"


def _said(size: int | None) -> str:
    return "nothing shown yet" if size is None else f"{size} leaves"


@log.command("begin-anew", epilog='Example: domicile log begin-anew --node tehran --reason "restored from a backup"')
@click.option("--node", required=True, help="Whose log cannot go on.")
@click.option("--reason", required=True, help="Why. Everybody is shown it.")
@CONFIG
@JSON
def log_begin_anew(node: str, reason: str, config: Path, as_json: bool) -> None:
    """End the log of a node that was set back, and begin another under another name. Witnesses and monitors notice."""
    answer = perform(config, "log-begin-anew", node=node, reason=reason)
    tell(answer, as_json, f"The log {answer['origin']} begins with the keys that are there")


@log.group("witness")
def witness() -> None:
    """The logs of other deployments that are witnessed here: add, list, remove."""


@witness.command(
    "add",
    epilog="Example: domicile log witness add https://matrix.example.net/_domicile/v1/key-log/zurich --key"
    " example.net/_domicile/v1/key-log/zurich+1f0b2c3d+AQ…",
)
@click.argument("log")
@click.option("--key", required=True, help="The public key of the log, as its operator gave it to you.")
@CONFIG
@JSON
def witness_add(log: str, key: str, config: Path, as_json: bool) -> None:
    """Witness the key log LOG, a name or an address, from now on. Compare the key with its operator by another way."""
    answer = perform(config, "log-witness-add", log=log, key=key)
    tell(answer, as_json, f"{answer['origin']} is witnessed")


@witness.command("list", epilog="Example: domicile log witness list --json")
@CONFIG
@JSON
def witness_list(config: Path, as_json: bool) -> None:
    """The key that is signed with here, and the logs that are or were witnessed.

    Status 1 when one is refused, or has signed what was refused and is not explained yet: the log is asked, by itself.
    """
    answer = perform(config, "log-witness-list")
    lines = [f"key: {answer['key']}", *(_witnessed(each) for each in answer["logs"])]
    tell(answer, as_json, "\n".join(lines))
    refused = [
        f"{each['origin']}: refused since {_time(each['refused_since'])}: {each['refusal']}"
        for each in answer["logs"]
        if each["refusal"] is not None and each["witnessed"]
    ]
    refused += [
        f"{each['origin']}: refused, and not explained yet: {each['unexplained']} of its checkpoints"
        for each in answer["logs"]
        if each["unexplained"] and each["witnessed"]
    ]
    if refused:
        no("\n".join(refused))


def _witnessed(log: dict[str, Any]) -> str:
    ended = "" if log["witnessed"] else ", witnessed no more"
    if log["cosigned_at"] is None:
        return f"{log['origin']}: nothing signed yet{ended}"
    return f"{log['origin']}: {log['size']} leaves, signed {_time(log['cosigned_at'])}{ended}"


@witness.command("remove", epilog="Example: domicile log witness remove example.net/_domicile/v1/key-log/zurich")
@click.argument("origin")
@CONFIG
@JSON
def witness_remove(origin: str, config: Path, as_json: bool) -> None:
    """Sign nothing more of the log ORIGIN. What was signed is served for ever, and alarms about it stay."""
    tell(perform(config, "log-witness-remove", origin=origin), as_json, f"{origin} is witnessed no more")


@log.group("alarm")
def alarm() -> None:
    """Alarms about logs, of this deployment and of those that it witnesses: list, end."""


@alarm.command("list", epilog="Example: domicile log alarm list --json")
@CONFIG
@JSON
def alarm_list(config: Path, as_json: bool) -> None:
    """All alarms that there ever were; with --json what proves them. Status 1 when one stands, or is missing."""
    answer = perform(config, "log-alarms")
    lines = [f"{each['number']}: {_worded(each)}{_ended(each)}" for each in answer["alarms"]]
    tell(answer, as_json, "\n".join(lines) or "There never was an alarm")
    standing = [f"alarm {each['number']} stands" for each in answer["alarms"] if each["ended"] is None]
    if standing or answer["faults"]:
        no("\n".join([*standing, *answer["faults"]]))


def _ended(alarm: dict[str, Any]) -> str:
    last = alarm["ended"]
    return "" if last is None else f"; ended {_time(last['time'])}: {last['reason']}"


@alarm.command("end", epilog='Example: domicile log alarm end 1 --reason "their disk was lost; they began a new log"')
@click.argument("number", type=int)
@click.option("--reason", required=True, help="What became of it. Everybody is shown it.")
@CONFIG
@JSON
def alarm_end(number: int, reason: str, config: Path, as_json: bool) -> None:
    """Say of the alarm NUMBER, about a log that is witnessed here, that it has been dealt with.

    Or say why it is gone, if key logs state one that is. Both stay visible.
    """
    answer = perform(config, "log-alarm-end", number=number, reason=reason)
    tell(answer, as_json, f"The alarm {number} about {answer['origin']} has ended")
