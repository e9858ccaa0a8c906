"""``domicile key``: keys of people who approve, keep shares, watch or vouch. No server is needed for it."""

from __future__ import annotations

from pathlib import Path

import click

from homeserver.command_line.answers import JSON, tell, write_new
from homeserver.protocol import key_files


@click.group()
def key() -> None:
    """Keys of people who act for a deployment: new."""


@key.command("new", epilog="Example: domicile key new --kind ed25519 parisa.key")
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in key_files.Kind]),
    required=True,
    help="ed25519 signs, for approvers; x25519 opens what was sealed to it, for custodians.",
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@JSON
def key_new(kind: str, file: Path, as_json: bool) -> None:
    """Make a key: the private one into FILE, which only you can read, and the public one is printed."""
    made = key_files.make(key_files.Kind(kind))
    write_new(file, made.text.encode())
    tell({"file": str(file), "kind": kind, "public_key": made.public}, as_json, made.public)
