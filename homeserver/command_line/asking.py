"""How a command reaches the deployment: the running server does it, or else this process, on the databases."""

from __future__ import annotations

import asyncio
import http.client
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from config.load import load_apart
from homeserver import control_socket
from homeserver.command_line.answers import no
from homeserver.runtime.capture import capture, capture_in
from homeserver.runtime.telemetry import set_up_logging

if TYPE_CHECKING:
    from config.settings import Settings

T = TypeVar("T")

CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("domicile.toml"),
    show_default=True,
    help="The deployment's domicile.toml.",
)


def quietly() -> None:
    """A command says itself what it has to say, in one line."""
    set_up_logging("critical", "text", sys.stderr)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine under Twisted's reactor on asyncio's event loop, and end with its error in one line."""
    from twisted.internet import asyncioreactor
    from twisted.internet.main import installReactor

    capture()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    capture_in(loop)
    reactor: Any = asyncioreactor.AsyncioSelectorReactor(loop)
    installReactor(reactor)  # type: ignore[no-untyped-call]

    from homeserver.credentials import StartError
    from homeserver.protocol.errors import Refusal
    from homeserver.storage.migrate import SchemaMismatch

    task: asyncio.Task[T] = loop.create_task(work)
    task.add_done_callback(lambda _: reactor.stop())
    reactor.run(installSignalHandlers=False)
    try:
        return task.result()
    except (StartError, SchemaMismatch, control_socket.Busy, OSError) as error:
        no(f"domicile: {error}")
    except Refusal as error:
        no(f"domicile: {error.message}")


def asked(settings: Settings, command: str, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the running server answers to a command; None when there is none; ends with 1 if it refuses."""
    try:
        answered = control_socket.ask_server(settings.data_dir, command, dict(arguments))
    except (http.client.HTTPException, ConnectionError, ValueError):
        no("domicile: the server went away before it answered; look whether it was done, and do it again if not")
    if answered is None:
        return None
    status, answer = answered
    if status != 200:
        no(f"domicile: {answer.get('error', answer)}")
    return answer


def perform_long(
    config: Path, command: str, arguments: Mapping[str, Any], then: str, how_far: Callable[[dict[str, Any]], str]
) -> dict[str, Any]:
    """`perform` for what takes long: the command answers with ``done`` or how far it is, which a terminal is shown in
    the words of ``how_far``; after that it is asked ``then`` again and again."""
    try:
        return _perform_long(config, command, arguments, then, lambda answer: _show(how_far(answer)))
    finally:
        _show("")


def _show(text: str) -> None:
    """Put a text in the place of the one that a terminal shows in its last line."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", nl=False, err=True)


def _perform_long(
    config: Path, command: str, arguments: Mapping[str, Any], then: str, tell: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    settings, found = load_apart(config)
    if (answer := asked(settings, command, arguments)) is not None:
        while not answer["done"]:
            tell(answer)
            answer = asked(settings, then, {})
            if answer is None:
                no("domicile: the server has stopped; start it, and go on")
        return answer

    async def work() -> dict[str, Any]:
        from homeserver import app
        from homeserver.control import commands

        with control_socket.exclusively(settings.data_dir):
            async with app.opened(settings, found) as server:
                answer = await commands.perform(server, command, arguments)
                while not answer["done"]:
                    tell(answer)
                    answer = await commands.perform(server, then, {})
                return answer

    quietly()
    return run(work())


def perform(config: Path, command: str, **arguments: Any) -> dict[str, Any]:
    """Have a command done by the running server, or on the databases when there is none; ends with 1 if refused."""
    settings, found = load_apart(config)
    if (answer := asked(settings, command, arguments)) is not None:
        return answer

    async def work() -> dict[str, Any]:
        from homeserver import app
        from homeserver.control import commands

        with control_socket.exclusively(settings.data_dir):
            async with app.opened(settings, found) as server:
                return await commands.perform(server, command, arguments)

    quietly()
    return run(work())
