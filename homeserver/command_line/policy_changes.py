"""``domicile residency check``, ``history``: the policy file, and the versions that were in force."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from config.load import load_apart, load_policy
from config.problems import Faults
from homeserver.command_line.answers import JSON, no, tell
from homeserver.command_line.asking import CONFIG, perform

FILE = click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))


@click.command("check", epilog="Example: domicile residency check draft.toml")
@FILE
@CONFIG
@JSON
def residency_check(file: Path | None, config: Path, as_json: bool) -> None:
    """Is FILE, or residency.toml, a valid policy? Names every fault, with status 1."""
    settings, found = load_apart(config)
    if file is not None:
        try:
            found = load_policy(file, settings.server_name)
        except Faults as faults:
            found = faults
    problems = [str(problem) for problem in found.problems] if isinstance(found, Faults) else []
    if problems and not as_json:
        no("\n".join(problems))
    serial = None if isinstance(found, Faults) else found.serial
    tell({"valid": not problems, "serial": serial, "problems": problems}, as_json, f"Valid, with serial = {serial}.")
    sys.exit(1 if problems else 0)


@click.command("history", epilog="Example: domicile residency history --json")
@CONFIG
@JSON
def residency_history(config: Path, as_json: bool) -> None:
    """Every policy that was in force, and since when. Status 1 when somebody has changed what is kept of them."""
    answer = perform(config, "residency-history")
    lines = [_line(version) for version in answer["versions"]]
    faults = [f"version {each['serial']}: {fault}" for each in answer["versions"] for fault in each["faults"]]
    lines.append(f"Signed with {answer['key']['key_id']} {answer['key']['key']}")
    tell(answer, as_json, "\n".join(lines))
    if faults:
        no("\n".join(faults))


def _line(version: dict[str, Any]) -> str:
    if "how" not in version:
        return f"{version['serial']:>4}  (unreadable)"
    since = datetime.fromtimestamp(version["time"] / 1000, UTC).isoformat(sep=" ", timespec="seconds")
    how = version["how"] if version["restores"] is None else f"{version['how']} to {version['restores']}"
    approved = f"  approved by {', '.join(version['approvals'])}" if version["approvals"] else ""
    return f"{version['serial']:>4}  {since}  {how:<12}  {version['record_sha256'][:16]}{approved}"


COMMANDS = (residency_check, residency_history)
