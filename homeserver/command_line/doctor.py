"""``domicile doctor``: whether databases, files and directory hold together."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from homeserver.command_line.answers import JSON, tell
from homeserver.command_line.asking import CONFIG, perform


@click.command(epilog="Example: domicile doctor --node tehran")
@click.option("--node", help="This node only.")
@CONFIG
@JSON
def doctor(node: str | None, config: Path, as_json: bool) -> None:
    """Examine databases, media folders and the directory of users, and say what to do about what is wrong. Reads
    everything, changes nothing, beside a running server too. Status 1 if anything is wrong."""
    answer = perform(config, "doctor", node=node)
    findings = answer["findings"]
    lines = [f"{each['node'] or 'directory'}: {each['what']} ({each['count']}): {each['remedy']}" for each in findings]
    verdict = f"{len(findings)} things are wrong" if findings else "Everything holds together"
    tell(answer, as_json, "\n".join([*lines, f"{verdict}. Examined: {', '.join(answer['examined'])}."]))
    if findings:
        sys.exit(1)
