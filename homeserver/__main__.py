"""The command line: ``domicile``, also ``python -m homeserver``. See docs/operations.md.

Exit status 0: done; 1: the answer is no; 2: wrong usage. Whatever goes wrong is said in one line, never by a
stack trace.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from config import starter
from config.load import load, policy_from_text, settings_from_text
from config.problems import Faults
from homeserver import commands
from homeserver.protocol.signing import SigningKey, write_keys
from homeserver.runtime import memory
from homeserver.runtime.capture import capture, capture_in
from homeserver.runtime.telemetry import set_up_logging

if TYPE_CHECKING:
    from config.policy import Policy
    from config.settings import Settings

T = TypeVar("T")

CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("domicile.toml"),
    show_default=True,
    help="The deployment's domicile.toml.",
)
PASSWORD = click.option(
    "--password-stdin", is_flag=True, required=True, help="Read the password from the first line of standard input."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


def _no(message: str) -> NoReturn:
    """The answer is no."""
    click.echo(message, err=True)
    sys.exit(1)


def _misused(message: str, context: click.Context | None) -> NoReturn:
    """The command cannot be understood."""
    named = "domicile" if context is None else context.command_path
    click.echo(f"{named}: {message.rstrip('.')}; see `{named} --help`", err=True)
    sys.exit(2)


class _Plain(click.Group):
    """A group of commands, none of which ends in a stack trace."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command that the arguments name, and end the process."""
        try:
            super().main(*arguments, **{**options, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as usage:
            click.echo(usage.format_message(), err=True)
            sys.exit(2)
        except click.UsageError as usage:
            _misused(usage.format_message(), usage.ctx)
        except click.Abort:
            _no("domicile: broken off; nothing was done")
        except Faults as faults:
            _no(str(faults))
        except OSError as error:
            _no(f"domicile: {error}")
        except Exception as fault:  # one of ours: the last line of the trace says where
            last = traceback.extract_tb(fault.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            _no(f"domicile: a fault of this program, please report it: {type(fault).__name__} at {place}: {fault}")
        sys.exit(0)


@click.group(cls=_Plain, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="domicile")
def main() -> None:
    """Domicile: a Matrix homeserver that keeps each user's data in their jurisdiction, and unreadable there."""


# init ---------------------------------------------------------------------------------------


@main.command(
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
        _no(f"{directory} already has {', '.join(present)}; nothing was written")
    for name, text in texts.items():
        descriptor = os.open(
            directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644 if name.endswith(".toml") else 0o600
        )
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
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


# check --------------------------------------------------------------------------------------


@main.command(epilog="Example: domicile check --config /srv/domicile/domicile.toml")
@CONFIG
@JSON
def check(config: Path, as_json: bool) -> None:
    """Are both files valid, the keys and certificates readable, the databases reachable?"""
    try:
        settings, policy = load(config)
    except Faults as faults:
        problems = [str(problem) for problem in faults.problems]
    else:
        _quietly()
        problems = _run(_check(settings, policy))
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


# serve --------------------------------------------------------------------------------------


@main.command(epilog="Example: domicile serve --config /srv/domicile/domicile.toml")
@CONFIG
def serve(config: Path) -> None:
    """Serve until SIGTERM or Ctrl-C; SIGHUP reads the residency policy and the certificates again."""
    settings, policy = load(config)
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
        with commands.exclusively(settings.data_dir):
            await app.serve(settings, policy, stop, reload)

    _run(until_stopped())


def _quietly() -> None:
    """A command says itself what it has to say, in one line."""
    set_up_logging("critical", "text", sys.stderr)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine under Twisted's reactor on asyncio's event loop, and end with its error in one line."""
    from twisted.internet import asyncioreactor
    from twisted.internet.main import installReactor

    capture()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    capture_in(loop)
    reactor: Any = asyncioreactor.AsyncioSelectorReactor(loop)
    installReactor(reactor)  # type: ignore[no-untyped-call]

    from homeserver.app import StartError
    from homeserver.protocol.errors import Refusal
    from homeserver.storage.migrate import SchemaMismatch

    task: asyncio.Task[T] = loop.create_task(work)
    task.add_done_callback(lambda _: reactor.stop())
    reactor.run(installSignalHandlers=False)
    try:
        return task.result()
    except (StartError, SchemaMismatch, commands.Busy, OSError) as error:
        _no(f"domicile: {error}")
    except Refusal as error:
        _no(f"domicile: {error.message}")


# user ---------------------------------------------------------------------------------------


def _asked(settings: Settings, command: str, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the running server answers to a command; None when there is none; ends with 1 if it refuses."""
    try:
        answered = commands.ask_server(settings.data_dir, command, dict(arguments))
    except (http.client.HTTPException, ConnectionError, ValueError):
        _no("domicile: the server went away before it answered; look whether it was done, and do it again if not")
    if answered is None:
        return None
    status, answer = answered
    if status != 200:
        _no(f"domicile: {answer.get('error', answer)}")
    return answer


def _perform(config: Path, command: str, **arguments: Any) -> dict[str, Any]:
    """Have a command done by the running server, or on the databases when there is none; ends with 1 if refused."""
    settings, policy = load(config)
    if (answer := _asked(settings, command, arguments)) is not None:
        return answer

    async def work() -> dict[str, Any]:
        from homeserver import app, control

        with commands.exclusively(settings.data_dir):
            async with app.opened(settings, policy) as server:
                return await control.perform(server, command, arguments)

    _quietly()
    return _run(work())


def _tell(answer: dict[str, Any], as_json: bool, text: str) -> None:
    click.echo(json.dumps(answer) if as_json else text)


def _password() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    try:
        password = sys.stdin.buffer.readline().decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise click.UsageError("the password on standard input is not UTF-8") from None
    if not password:
        raise click.UsageError("the password is read from standard input, and there was none")
    return password


@main.group()
def user() -> None:
    """Accounts: add, list, show, deactivate, reset-password."""


@user.command("add", epilog="Example: domicile user add parisa --node tehran --password-stdin < password.txt")
@click.argument("localpart")
@CONFIG
@PASSWORD
@click.option("--phone", help="A verified phone number, with + and country code.")
@click.option("--node", help="The node where all their data rests; else the pins of the policy decide.")
@click.option("--admin", is_flag=True, help="May administer this server.")
@JSON
def user_add(
    localpart: str, config: Path, password_stdin: bool, phone: str | None, node: str | None, admin: bool, as_json: bool
) -> None:
    """Make an account."""
    made = _perform(config, "user-add", localpart=localpart, password=_password(), phone=phone, node=node, admin=admin)
    _tell(made, as_json, f"{made['user_id']} rests on {made['node']}")


@user.command("list", epilog="Example: domicile user list --json")
@CONFIG
@JSON
def user_list(config: Path, as_json: bool) -> None:
    """All accounts and their nodes. Status 1 when a node could not be asked."""
    answer = _perform(config, "user-list")
    lines = [f"{each['user_id']}  {each['node']}  {' '.join(each['state'])}".rstrip() for each in answer["users"]]
    _tell(answer, as_json, "\n".join(lines) if lines else "There are no accounts.")
    if answer["nodes_down"]:
        _no(f"domicile: down, and not asked: {', '.join(answer['nodes_down'])}; `domicile check` says why")


@user.command("show", epilog="Example: domicile user show parisa")
@click.argument("name")
@CONFIG
@JSON
def user_show(name: str, config: Path, as_json: bool) -> None:
    """One account: where it rests, its devices, phone numbers and addresses."""
    answer = _perform(config, "user-show", user=name)
    lines = [
        f"{answer['user_id']}  {' '.join(answer['state'])}".rstrip(),
        f"  rests on {answer['node']} in {answer['jurisdiction']}",
        *(f"  {threepid['medium']} {threepid['address']}" for threepid in answer["threepids"]),
        *(f"  device {device['device_id']} {device['display_name'] or ''}".rstrip() for device in answer["devices"]),
    ]
    _tell(answer, as_json, "\n".join(lines))


@user.command("deactivate", epilog="Example: domicile user deactivate parisa")
@click.argument("name")
@CONFIG
@click.option("--erase", is_flag=True, help="Also ask that what they wrote is forgotten.")
@JSON
def user_deactivate(name: str, config: Path, erase: bool, as_json: bool) -> None:
    """Deactivate an account for ever; its name is not given away again."""
    answer = _perform(config, "user-deactivate", user=name, erase=erase)
    _tell(answer, as_json, f"{answer['user_id']} is deactivated")


@user.command("reset-password", epilog="Example: domicile user reset-password parisa --password-stdin < password.txt")
@click.argument("name")
@CONFIG
@PASSWORD
@JSON
def user_reset_password(name: str, config: Path, password_stdin: bool, as_json: bool) -> None:
    """Give an account another password, and log its devices out."""
    answer = _perform(config, "user-reset-password", user=name, password=_password())
    _tell(answer, as_json, f"{answer['user_id']} has a new password; its devices are logged out")


# reports ------------------------------------------------------------------------------------


@main.group()
def report() -> None:
    """What users report to the operator: list, dismiss."""


@report.command("list", epilog="Example: domicile report list --json")
@CONFIG
@JSON
def report_list(config: Path, as_json: bool) -> None:
    """Events, rooms and users that were reported, oldest first. Status 1 when a node could not be asked."""
    answer = _perform(config, "report-list")
    lines = []
    for each in answer["reports"]:
        when = datetime.fromtimestamp(each["ts"] / 1000, UTC).isoformat(timespec="seconds")
        what = " ".join(each[name] for name in ("about", "room_id", "event_id") if each[name])
        said = f"{each['reporter']} reports {what}: {each['reason']!r}"
        lines.append(f"{each['node']} {each['report_id']}  {when}  {said}")
    _tell(answer, as_json, "\n".join(lines) if lines else "There are no reports.")
    if answer["nodes_down"]:
        _no(f"domicile: down, and not asked: {', '.join(answer['nodes_down'])}; `domicile check` says why")


@report.command("dismiss", epilog="Example: domicile report dismiss tehran 12")
@click.argument("node")
@click.argument("number", type=int)
@CONFIG
@JSON
def report_dismiss(node: str, number: int, config: Path, as_json: bool) -> None:
    """Remove a report, by the node and the number that `domicile report list` shows."""
    answer = _perform(config, "report-dismiss", node=node, report_id=number)
    _tell(answer, as_json, f"Report {number} of {node} is gone")


# residency ----------------------------------------------------------------------------------


@main.group()
def residency() -> None:
    """What the policy comes to: traffic."""


@residency.command("traffic", epilog="Example: domicile residency traffic --json")
@CONFIG
@JSON
def residency_traffic(config: Path, as_json: bool) -> None:
    """Bytes between this deployment and other servers, by jurisdiction, since the server was started."""
    settings, _ = load(config)
    answer = _asked(settings, "residency-traffic", {})
    if answer is None:
        _no(f"domicile: no server serves {settings.data_dir} now, and bytes are counted only while one does")
    lines = [f"{each['from']} -> {each['to']}  {each['bytes']}" for each in answer["traffic"]]
    _tell(answer, as_json, "\n".join(lines) if lines else "Nothing has been sent or received since the start.")


if __name__ == "__main__":
    main(prog_name="domicile")
