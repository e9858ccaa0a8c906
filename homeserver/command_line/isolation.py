"""``domicile isolation``: when links across a border are cut, or must not be used."""

from __future__ import annotations

from pathlib import Path

import click

from homeserver.command_line.answers import JSON, moment, tell
from homeserver.command_line.asking import CONFIG, perform

JURISDICTION = click.option("--jurisdiction", required=True, help="Whose borders, such as IR.")


@click.group()
def isolation() -> None:
    """Close the borders of a jurisdiction for a while: on, off, status."""


@isolation.command("on", epilog='Example: domicile isolation on --jurisdiction IR --reason "links are cut"')
@JURISDICTION
@click.option("--reason", default="", help="Why, for those who look at the status.")
@CONFIG
@JSON
def isolation_on(jurisdiction: str, reason: str, config: Path, as_json: bool) -> None:
    """Let nothing cross the borders of a jurisdiction. What can wait is kept on its node; domestic service goes on."""
    answer = perform(config, "isolation-on", jurisdiction=jurisdiction, reason=reason)
    tell(answer, as_json, f"{jurisdiction} is isolated; `domicile isolation status` says what waits")


@isolation.command("off", epilog="Example: domicile isolation off --jurisdiction IR")
@JURISDICTION
@CONFIG
@JSON
def isolation_off(jurisdiction: str, config: Path, as_json: bool) -> None:
    """Open the borders again. What waited is asked of the policy that is in force now, item by item, and sent."""
    answer = perform(config, "isolation-off", jurisdiction=jurisdiction)
    tell(answer, as_json, f"{jurisdiction} is not isolated any more")


@isolation.command("status", epilog="Example: domicile isolation status --json")
@CONFIG
@JSON
def isolation_status(config: Path, as_json: bool) -> None:
    """What is isolated, and what waits on which node."""
    answer = perform(config, "isolation-status")
    lines = []
    for each in answer["isolated"]:
        since = moment(each["since_ts"])
        lines.append(f"{each['jurisdiction']} is isolated since {since}  {each['reason']}".rstrip())
    for each in answer["waiting"]:
        rows = [f"{count} rows for {name}" for name, count in each["rows_for_nodes"].items()]
        rows += [f"something for {each['servers']} servers"] if each["servers"] else []
        if rows:
            lines.append(f"{each['node']}: {', '.join(rows)}")
    tell(answer, as_json, "\n".join(lines) if answer["isolated"] else "\n".join(["Nothing is isolated.", *lines]))
