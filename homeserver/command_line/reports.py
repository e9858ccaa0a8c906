"""``domicile report``: what users report to the operator."""

from __future__ import annotations

from pathlib import Path

import click

from homeserver.command_line.answers import JSON, moment, no_if_down, tell
from homeserver.command_line.asking import CONFIG, perform


@click.group()
def report() -> None:
    """What users report to the operator: list, dismiss."""


@report.command("list", epilog="Example: domicile report list --json")
@CONFIG
@JSON
def report_list(config: Path, as_json: bool) -> None:
    """Events, rooms and users that were reported, oldest first. Status 1 when a node could not be asked."""
    answer = perform(config, "report-list")
    lines = []
    for each in answer["reports"]:
        when = moment(each["ts"])
        what = " ".join(each[name] for name in ("about", "room_id", "event_id") if each[name])
        said = f"{each['reporter']} reports {what}: {each['reason']!r}"
        lines.append(f"{each['node']} {each['report_id']}  {when}  {said}")
    tell(answer, as_json, "\n".join(lines) if lines else "There are no reports.")
    no_if_down(answer)


@report.command("dismiss", epilog="Example: domicile report dismiss tehran 12")
@click.argument("node")
@click.argument("number", type=int)
@CONFIG
@JSON
def report_dismiss(node: str, number: int, config: Path, as_json: bool) -> None:
    """Remove a report, by the node and the number that `domicile report list` shows."""
    answer = perform(config, "report-dismiss", node=node, report_id=number)
    tell(answer, as_json, f"Report {number} of {node} is gone")
