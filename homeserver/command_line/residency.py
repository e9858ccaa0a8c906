"""``domicile residency``: the policy, and what it comes to."""

from __future__ import annotations

from pathlib import Path

import click

from config.load import load
from homeserver.command_line.answers import JSON, no, tell
from homeserver.command_line.asking import CONFIG, asked


@click.group()
def residency() -> None:
    """What the policy comes to: traffic."""


@residency.command("traffic", epilog="Example: domicile residency traffic --json")
@CONFIG
@JSON
def residency_traffic(config: Path, as_json: bool) -> None:
    """Bytes between this deployment and other servers, by jurisdiction, since the server was started."""
    settings, _ = load(config)
    answer = asked(settings, "residency-traffic", {})
    if answer is None:
        no(f"domicile: no server serves {settings.data_dir} now, and bytes are counted only while one does")
    lines = [f"{each['from']} -> {each['to']}  {each['bytes']}" for each in answer["traffic"]]
    tell(answer, as_json, "\n".join(lines) if lines else "Nothing has been sent or received since the start.")
