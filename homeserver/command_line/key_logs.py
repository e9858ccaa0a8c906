"""``domicile log``: the logs of changes of keys, one for each node."""

from __future__ import annotations

from pathlib import Path

import click

from homeserver.command_line.answers import JSON, no, tell
from homeserver.command_line.asking import CONFIG, perform


@click.group()
def log() -> None:
    """The logs of changes of keys: status, begin-anew."""


@log.command("status", epilog="Example: domicile log status --json")
@CONFIG
@JSON
def log_status(config: Path, as_json: bool) -> None:
    """How far the log of each node was shown; status 1 when one has been set back, or its node is down."""
    logs = perform(config, "log-status")["logs"]
    lines = [f"{each['origin']}: {_said(each['size'])}" for each in logs if each["fault"] is None]
    tell({"logs": logs}, as_json, "\n".join(lines))
    faults = [f"{each['origin']}: {each['fault']}" for each in logs if each["fault"] is not None]
    if faults:
        no("\n".join(faults))


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
