"""``domicile init``, ``check`` and ``serve``: a deployment from its two files to a server that answers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from config import starter
from config.load import load, load_apart, policy_from_text, settings_from_text
from config.problems import Faults
from homeserver import control_socket
from homeserver.command_line.answers import JSON, no, write_new
from homeserver.command_line.asking import CONFIG, quietly, run
from homeserver.protocol.signing import SigningKey, write_keys
from homeserver.runtime import memory
from homeserver.runtime.telemetry import set_up_logging

if TYPE_CHECKING:
    from config.policy import Policy
    from config.settings import Settings


@click.command(
    epilog="Example: domicile init /srv/domicile --server-name example.org --jurisdiction IR --jurisdiction FR"
)
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--server-name", help="The part of user ids after the colon; it can never be changed.")
@click.option("--jurisdiction", "jurisdictions", multiple=True, help="ISO 3166 code, such as FR; may be repeated.")
@click.option("--public-base-url", help="Where clients reach the server.")
@click.option("--registration", type=click.Choice(["closed", "token", "open"]), default="closed", show_default=True)
def init(
    directory: Path,
    server_name: str | None,
    jurisdictions: tuple[str, ...],
    public_base_url: str | None,
    registration: str,
) -> None:
    """Write the two configuration files and the keys of a new deployment into DIRECTORY."""
    server_name = server_name or _ask("Server name (the part of user ids after the colon)", "--server-name")
    codes = list(jurisdictions) or _ask("Jurisdictions (ISO 3166 codes, such as IR FR)", "--jurisdiction").split()
    for code in codes or [""]:
        if not re.fullmatch(r"[\w-]+", code):  # it would break the file; what else is wrong with it is said below
            raise click.UsageError(f"--jurisdiction takes an ISO 3166 code such as FR, and not {code!r}")
    texts = starter.initial_files(server_name, codes, public_base_url=public_base_url, registration=registration)
    if unfit := _unfit(texts, server_name):
        raise click.UsageError("; ".join(unfit))
    directory.mkdir(parents=True, exist_ok=True)
    texts["signing.key"] = write_keys([SigningKey.generate("a_" + os.urandom(3).hex())])
    texts["registration.secret"] = os.urandom(32).hex() + "\n"
    present = [name for name in texts if (directory / name).exists()]
    if present:
        no(f"{directory} already has {', '.join(present)}; nothing was written")
    for name, text in texts.items():
        write_new(directory / name, text.encode(), 0o644 if name.endswith(".toml") else 0o600)
    click.echo(f"Wrote {', '.join(sorted(texts))} to {directory}.")
    click.echo(f"Next: domicile serve --config {directory / 'domicile.toml'}")


def _unfit(texts: Mapping[str, str], server_name: str) -> list[str]:
    """What is wrong with the files that the wishes would give, by key: there are no lines to look into yet."""
    found: list[str] = []
    for check in (
        lambda: settings_from_text(texts["domicile.toml"], "domicile.toml", {}),
        lambda: policy_from_text(texts["residency.toml"], "residency.toml", server_name),
    ):
        try:
            check()
        except Faults as faults:
            found += [f"{problem.key}: {problem.message}" for problem in faults.problems]
    return found


def _ask(question: str, flag: str) -> str:
    if not sys.stdin.isatty():
        raise click.UsageError(f"{flag} is needed")
    return str(click.prompt(question)).strip()


@click.command(epilog="Example: domicile check --config /srv/domicile/domicile.toml")
@CONFIG
@JSON
def check(config: Path, as_json: bool) -> None:
    """Are both files valid, the keys and certificates readable, the databases reachable?"""
    try:
        settings, policy = load(config)
    except Faults as faults:
        problems = [str(problem) for problem in faults.problems]
    else:
        quietly()
        problems = run(_check(settings, policy))
    if as_json:
        click.echo(json.dumps({"valid": not problems, "problems": problems}))
    else:
        for problem in problems:
            click.echo(problem, err=True)
        if not problems:
            click.echo(f"{config} and {policy.file} are valid; keys, certificates and databases are in place.")
    sys.exit(1 if problems else 0)


async def _check(settings: Settings, policy: Policy) -> list[str]:
    from homeserver import examine

    return await examine.problems(settings, policy)


@click.command(epilog="Example: domicile serve --config /srv/domicile/domicile.toml")
@CONFIG
def serve(config: Path) -> None:
    """Serve until SIGTERM or Ctrl-C; SIGHUP reads the residency policy, the application services and the
    certificates again."""
    settings, found = load_apart(config)
    set_up_logging(settings.log.level, settings.log.format)
    memory.limit_arenas()
    # A database's thread that is done hands its result to this one, which must not wait 5 ms for the interpreter's
    # lock while another thread computes: under load half of a commit's latency was that wait.
    sys.setswitchinterval(0.0005)

    async def until_stopped() -> None:
        from homeserver import app

        loop = asyncio.get_running_loop()
        stop, reload = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        with control_socket.exclusively(settings.data_dir):
            await app.serve(settings, found, stop, reload, config)

    run(until_stopped())
