"""How a command of the command line ends: with an answer, or with one line that says what is wrong.

Exit status 0: done; 1: the answer is no; 2: wrong usage. Nothing ends in a stack trace.
"""

from __future__ import annotations

import json
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import click

from config.problems import Faults
from homeserver.protocol.plain_text import plain
from homeserver.runtime import cores, durable

JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


def no(message: str) -> NoReturn:
    """The answer is no."""
    click.echo(_seen(message), err=True)
    sys.exit(1)


def no_if_down(answer: dict[str, Any], missing: str = "not asked") -> None:
    """The answer is no when ``nodes_down`` are lacking in it; ``missing`` says how."""
    if answer["nodes_down"]:
        no(f"domicile: down, and {missing}: {', '.join(answer['nodes_down'])}; `domicile check` says why")


def moment(ms: float) -> str:
    """A time in milliseconds since 1970, to the second, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")


def misused(message: str, context: click.Context | None) -> NoReturn:
    """The command cannot be understood."""
    named = "domicile" if context is None else context.command_path
    click.echo(f"{named}: {message.rstrip('.')}; see `{named} --help`", err=True)
    sys.exit(2)


def write_new(file: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file that was not there, and that only its owner can read; ends with 1 if it is there."""
    try:
        durable.create(file, content, mode)
    except FileExistsError:
        no(f"domicile: {file} is there already, and nothing was written: name another file")


class Plain(click.Group):
    """A group of commands, none of which ends in a stack trace."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run the command that the arguments name, and end the process."""
        cores.forbid()
        try:
            super().main(*arguments, **{**options, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as usage:
            click.echo(usage.format_message(), err=True)
            sys.exit(2)
        except click.UsageError as usage:
            misused(usage.format_message(), usage.ctx)
        except click.Abort:
            no("domicile: broken off; nothing was done")
        except Faults as faults:
            no(str(faults))
        except OSError as error:
            no(f"domicile: {error}")
        except Exception as fault:  # one of ours: the last line of the trace says where
            last = traceback.extract_tb(fault.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            no(f"domicile: a fault of this program, please report it: {type(fault).__name__} at {place}: {fault}")
        sys.exit(0)


def tell(answer: dict[str, Any], as_json: bool, text: str) -> None:
    """Show an answer: whole, as JSON, or in words."""
    click.echo(json.dumps(answer) if as_json else _seen(text))


def _seen(text: str) -> str:
    """Lines as a terminal may be given them: they quote what other people and other servers have said."""
    return "\n".join(plain(line) for line in text.split("\n"))
