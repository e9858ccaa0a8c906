"""``domicile admin-log``: what administrators have done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from homeserver.command_line.answers import JSON, moment, no, no_if_down, tell
from homeserver.command_line.asking import CONFIG, perform


@click.command("admin-log", epilog="Example: domicile admin-log --node tehran --json")
@click.option("--node", help="Only what rests on this node.")
@click.option("--limit", type=click.IntRange(0, 10_000), default=500, show_default=True, help="How many.")
@CONFIG
@JSON
def admin_log(node: str | None, limit: int, config: Path, as_json: bool) -> None:
    """What administrators did and were refused, the newest last. All entries are checked: status 1 when somebody has
    changed or removed any, or a node could not be asked."""
    answer = perform(config, "admin-log", node=node, limit=limit)
    tell(answer, as_json, "\n".join(map(_line, answer["entries"])) or "Nothing has been done yet.")
    if answer["faults"]:
        no("\n".join(f"{_whose(each)}: {each['fault']}" for each in answer["faults"]))
    no_if_down(answer)


def _whose(fault: dict[str, Any]) -> str:
    return f"the log of {fault['chain']} on {fault['node']}" if fault["chain"] else "the log in the directory"


def _line(entry: dict[str, Any]) -> str:
    when = moment(entry["ts"])
    given = " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in entry["arguments"].items())
    of = f"-{entry['begun']}" if entry["begun"] else ""
    why = f" ({entry['errcode']})" if entry["errcode"] else ""
    whose = entry["chain"] or "nobody"
    return f"{when}  {whose} {entry['seq']}{of}  {entry['who']}  {entry['command']} {given}  {entry['outcome']}{why}"
