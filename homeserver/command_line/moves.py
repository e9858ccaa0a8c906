"""``domicile residency move``, ``status``, ``stop`` and ``resume``: users, and the order of rooms, on their way
from node to node."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from config.load import load
from homeserver.command_line.answers import JSON, moment, no, no_if_down, tell
from homeserver.command_line.asking import CONFIG, asked, perform

if TYPE_CHECKING:
    from config.settings import Settings

LOOK_AGAIN = 0.5
"""Seconds between two looks at a move."""


@click.command("move", epilog="Example: domicile residency move @parisa:example.org --to paris --dry-run")
@click.argument("name", required=False)
@click.option("--room", metavar="ROOM_ID", help="Move no user: have the node order this room, in which it has members.")
@click.option("--to", required=True, help="The node where all their data is to rest.")
@click.option("--dry-run", is_flag=True, help="Say what it would come to, and do nothing. Status 1: it cannot be done.")
@click.option("--leave-rooms", is_flag=True, help="Let the user leave the rooms that may not span the node.")
@click.option("--window", help="Switch only between these times of the day, in UTC, such as 01:00-05:00.")
@click.option("--detach", is_flag=True, help="Begin, and do not wait for the end.")
@CONFIG
@JSON
def residency_move(
    name: str | None,
    room: str | None,
    to: str,
    dry_run: bool,
    leave_rooms: bool,
    window: str | None,
    detach: bool,
    config: Path,
    as_json: bool,
) -> None:
    """Move a user, with all that is theirs, to another node; they stay logged in and notice nothing but a moment.

    With --room, it is a room's order that goes there, and its members stay where they are.
    """
    if (name is None) == (room is None):
        raise click.UsageError("Name a user, or a room with --room.")
    if room is not None:
        if leave_rooms or window or detach:
            raise click.UsageError("--leave-rooms, --window and --detach are about users.")
        _move_room(config, room, to, dry_run=dry_run, as_json=as_json)
        return
    wish = {"user": name, "to": to, "leave_rooms": leave_rooms, "window": window}
    if dry_run:
        found = perform(config, "residency-move", dry_run=True, **wish)
        tell(found, as_json, _described(found))
        if found["obstacles"] or (found["rooms_blocked"] and not leave_rooms):
            sys.exit(1)
        return
    begun = perform(config, "residency-move", **wish)
    if detach:
        tell(begun, as_json, f"{begun['user_id']} goes from {begun['from']} to {begun['to']}: move {begun['move_id']}")
        return
    settings, _ = load(config)
    ended = _watched(settings, begun["user_id"], quiet=as_json)
    tell(ended, as_json, f"{ended['user_id']} rests on {ended['to']}; nothing of theirs is left on {ended['from']}")


def _move_room(config: Path, room: str, to: str, *, dry_run: bool, as_json: bool) -> None:
    """Have a node order a room; with ``dry_run`` say what keeps it from that, with status 1 if anything does."""
    found = perform(config, "residency-move-room", room=room, to=to, dry_run=dry_run)
    obstacles = found.get("obstacles", [])
    if found["from"] == found["to"]:
        said = f"{room} is ordered by {to} already"
    elif dry_run:
        said = "\n".join([f"{room} from {found['from']} to {to}:", *(f"  first: {each}" for each in obstacles)])
    else:
        said = f"{room} is ordered by {to}, and was by {found['from']}"
    tell(found, as_json, said)
    if obstacles:
        sys.exit(1)


def _described(found: dict[str, Any]) -> str:
    lines = [f"{found['user_id']} from {found['from']} to {found['to']}:"]
    lines += [f"  {table}  {size['rows']} rows, {size['bytes']} bytes" for table, size in found["tables"].items()]
    lines.append(f"  files  {found['files']['number']}, {found['files']['bytes']} bytes")
    lines.append(f"  rooms  {found['rooms']}")
    lines += [f"  cannot come along: {each['room_id']}: {each['missing']}" for each in found["rooms_blocked"]]
    lines += [f"  first: {sentence}" for sentence in found["obstacles"]]
    return "\n".join(lines)


def _watched(settings: Settings, user_id: str, *, quiet: bool) -> dict[str, Any]:
    """Wait for the end of a move, and show how far it is; ends with 1 when it does not come to its end."""
    shown = ""
    while True:
        answer = asked(settings, "residency-move-status", {"user": user_id})
        if answer is None:
            no("domicile: noted; the user is moved when the server runs, and `domicile residency status` tells how far")
        found: dict[str, Any] = answer["moves"][0]  # there is one, or the receipt of it
        if found["state"] == "done":
            return found
        if found["halted"] is not None:
            _halted(found)
        line = _line(found)
        if line != shown and not quiet and sys.stderr.isatty():
            click.echo(line, err=True)
            shown = line
        time.sleep(LOOK_AGAIN)


def _halted(found: dict[str, Any]) -> None:
    why = f": {found['reason']}" if found["reason"] else ""
    no(
        f"domicile: the move was {found['halted']}{why}; {found['user_id']} rests on {found['from']} as before."
        f" `domicile residency resume {found['user_id']}` goes on with it"
    )


def _line(found: dict[str, Any]) -> str:
    state = found["halted"] or found["state"]
    reason = f" ({found['reason']})" if found["reason"] else ""
    return f"{found['user_id']}  {found['from']} -> {found['to']}  {state}{reason}"


@click.command("status", epilog="Example: domicile residency status parisa")
@click.argument("name", required=False)
@CONFIG
@JSON
def residency_status(name: str | None, config: Path, as_json: bool) -> None:
    """How far moves are: of one user, or all that have not come to their end. Status 1 when a node could not be
    asked."""
    answer = perform(config, "residency-move-status", user=name)
    lines = [_line(each) for each in answer["moves"]]
    tell(answer, as_json, "\n".join(lines) if lines else "Nobody is being moved.")
    no_if_down(answer)


@click.command("stop", epilog="Example: domicile residency stop parisa")
@click.argument("name")
@click.option("--forget", is_flag=True, help="There is nothing to resume then.")
@CONFIG
@JSON
def residency_stop(name: str, forget: bool, config: Path, as_json: bool) -> None:
    """Stop the move of a user, who stays where they are, until it is resumed; what was copied is thrown away."""
    answer = perform(config, "residency-move-stop", user=name, forget=forget)
    tell(answer, as_json, f"The move of {answer['user_id']} is stopped")


@click.command("resume", epilog="Example: domicile residency resume parisa")
@click.argument("name")
@CONFIG
@JSON
def residency_resume(name: str, config: Path, as_json: bool) -> None:
    """Go on with a move that was stopped, or has failed."""
    answer = perform(config, "residency-move-resume", user=name)
    tell(answer, as_json, f"The move of {answer['user_id']} goes on")


@click.command("receipts", epilog="Example: domicile residency receipts parisa --json")
@click.argument("name")
@CONFIG
@JSON
def residency_receipts(name: str, config: Path, as_json: bool) -> None:
    """What the nodes have signed of a user's moves: from where to where, when, and how much was copied and erased."""
    answer = perform(config, "residency-receipts", user=name)
    tell(answer, as_json, "\n".join(map(_receipt_line, answer["contents"])) or "They have never been moved.")


def _receipt_line(said: dict[str, Any]) -> str:
    when = moment(said["switched_ts"])
    rows = sum(what["rows"] for what in said["copied"].values())
    moved = " -> ".join(f"{said[end]['node']} ({said[end]['jurisdiction']})" for end in ("from", "to"))
    return f"{when}  {moved}  {rows} rows, {said['files']} files; signed by both nodes"


COMMANDS = (residency_move, residency_status, residency_stop, residency_resume, residency_receipts)
"""Commands of ``domicile residency``."""
