"""``domicile log monitor``: watching over somebody's keys from outside, over HTTP only."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from homeserver.command_line.answers import JSON, no, tell
from homeserver.command_line.fetching import Unfetched, fetched
from homeserver.monitor import keeping
from homeserver.monitor.keeping import LOGS, MOST_JSON
from homeserver.monitor.seen import Report, Seen
from homeserver.protocol.plain_text import plain
from homeserver.protocol.signed_notes import InvalidNote, NamedKey
from homeserver.runtime import durable

QUERY: Final = "/_matrix/client/v3/keys/query"
TRIES: Final = 3
"""How often is asked when keys change meanwhile."""

REASONS: Final = {
    "device_keys": "a device published keys",
    "device_removed": "devices were removed",
    "cross_signing": "cross-signing keys were published",
    "identity_reset": "the identity was reset: there is another master key",
    "deactivated": "the account was closed",
    "arrived": "came from another node",
    "left": "went to another node",
    "found": "had keys before there was a log",
}


@click.command(
    "monitor",
    epilog="Example: domicile log monitor @anna:example.org --url https://matrix.example.org --token-file token"
    " --state anna.json",
)
@click.argument("user_id")
@click.option("--url", required=True, help="Where clients reach the deployment.")
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Remembers what was seen; no set-back shows without.",
)
@click.option("--token-file", type=click.Path(dir_okay=False, path_type=Path), help="A file with an access token.")
@click.option("--opening", help="What proves the name of the user in the logs, instead of a token of theirs.")
@click.option("--witness", "witnesses", multiple=True, help="The key of a witness whose signature is looked for.")
@JSON
def monitor(
    user_id: str,
    url: str,
    state: Path | None,
    token_file: Path | None,
    opening: str | None,
    witnesses: tuple[str, ...],
    as_json: bool,
) -> None:
    """All changes of the keys of USER_ID, as the key logs of a deployment have them, checked.

    The first time a token of the user is needed, or the opening of their name; with --state neither is needed again.
    With a token the keys are compared as they are shown to whoever it is of; without, their digests. Status 1 when what
    is shown is not what the newest leaf says, when a log was set back or has two histories, or cannot be asked.
    """
    known = _keys(witnesses)
    site = _Site(url.rstrip("/"), None if token_file is None else _token(token_file))
    report = Report()
    try:
        seen = _seen(site, user_id, state, opening)
        for _ in range(TRIES):
            report = keeping.look(seen, site.get, site.answer(seen), int(time.time()), known)
            if not report.stale:
                break
    except Unfetched as fault:
        no(f"domicile: {fault}")
    if state is not None:
        _keep(state, seen)
    if as_json or not report.faults:
        tell({"user_id": user_id, **report.as_json()}, as_json, "\n".join(plain(line) for line in _lines(report)))
    if report.faults:
        no("\n".join(f"domicile: {plain(fault)}" for fault in report.faults))


class _Site:
    """The deployment, as its users reach it."""

    def __init__(self, base: str, token: str | None) -> None:
        self.base, self.token = base, token

    def get(self, path: str, most: int) -> bytes:
        """A page for everybody."""
        return fetched(self.base + path, most)

    def name(self) -> dict[str, Any]:
        """Whose the token is, and what proves their name."""
        return _object(fetched(f"{self.base}{LOGS}/me", MOST_JSON, token=self.token))

    def answer(self, seen: Seen) -> dict[str, Any]:
        """What is shown of the user now, or said of it."""
        if self.token is not None:
            asked = json.dumps({"device_keys": {seen.user_id: []}}).encode()
            return _object(fetched(self.base + QUERY, MOST_JSON, token=self.token, sent=asked))
        asked = json.dumps({"user_id": seen.user_id, "opening": seen.opening}).encode()
        return _object(fetched(f"{self.base}{LOGS}/proof", MOST_JSON, sent=asked))


def _seen(site: _Site, user_id: str, state: Path | None, opening: str | None) -> Seen:
    if state is not None and state.exists():
        try:
            seen = Seen.read(state.read_bytes())
        except (ValueError, KeyError, TypeError):
            raise click.UsageError(f"{state} is not what this command has written") from None
        if seen.user_id != user_id:
            raise click.UsageError(f"{state} is about {seen.user_id}")
        return seen
    if opening is None and site.token is not None:
        mine = site.name()
        if mine.get("user_id") == user_id:
            opening = str(mine.get("opening"))
    if opening is None:
        raise click.UsageError("the first time a token of the user is needed (--token-file), or --opening")
    return Seen(user_id, opening)


def _keep(path: Path, seen: Seen) -> None:
    """In one step, and for nobody else: it tells which leaves are about the user."""
    durable.put(path, seen.write(), draft=path.with_name(path.name + ".new"))


def _token(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as fault:
        no(f"{file} cannot be read: {fault.strerror if isinstance(fault, OSError) else 'it is no text'}")


def _keys(witnesses: tuple[str, ...]) -> tuple[NamedKey, ...]:
    try:
        return tuple(NamedKey.read(text) for text in witnesses)
    except InvalidNote as fault:
        raise click.UsageError(f"--witness: {fault}") from None


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except ValueError:
        raise Unfetched("the server answers with what is no JSON") from None
    if not isinstance(found, dict):
        raise Unfetched("the server answers with what is no JSON object")
    return found


def _lines(report: Report) -> list[str]:
    lines = [
        f"{datetime.fromtimestamp(each['time'], UTC):%Y-%m-%d %H:%M:%S} UTC  {REASONS[each['reason']]}"
        f"  ({each['log']}, leaf {each['index']})"
        for each in report.changes
    ]
    lines += [f"{each['origin']}: {each['size']} leaves, {_signers(each['witnesses'])}" for each in report.logs]
    if report.devices:
        lines.append(f"Devices now: {', '.join(report.devices)}")
    if report.withheld:
        lines.append(f"Not signed by their owner, and so shown to nobody else: {', '.join(report.withheld)}")
    return [*lines, *report.notes, "What is shown is what the logs say."]


def _signers(names: list[str]) -> str:
    return f"signed by {', '.join(names)} too" if names else "signed by the log"
