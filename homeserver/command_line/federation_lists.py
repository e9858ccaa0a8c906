"""``domicile federation-list``: the signed list that says where other servers are.

`sign` and `check` are for whoever keeps the list, and need no deployment.
"""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from homeserver.command_line.answers import JSON, no, tell
from homeserver.command_line.asking import CONFIG, perform
from homeserver.command_line.fetching import Unfetched, fetched
from homeserver.protocol import federation_lists, key_files
from homeserver.protocol.federation_lists import FORMAT, MOST_BYTES, FederationList, InvalidList


@click.group("federation-list")
def federation_list() -> None:
    """The list that says where other servers are: sign, check, status, servers, pull."""


@federation_list.command(
    "sign", epilog="Example: domicile federation-list sign list.toml --key treaty.key --to list.json"
)
@click.argument("source", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The private key.")
@click.option("--to", type=click.Path(path_type=Path, dir_okay=False), help="Where to write it; printed otherwise.")
def federation_list_sign(source: Path, key: Path, to: Path | None) -> None:
    """Sign the list in SOURCE, a TOML or JSON file; one that is signed already gets one more signature."""
    try:
        signing = key_files.signing_key(key.read_text("utf-8"))
        signed = federation_lists.signed(_document(source), signing)
    except ValueError as fault:
        no(f"domicile: {fault}")
    text = json.dumps(signed, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    if to is None:
        click.echo(text, nl=False)
        return
    to.write_text(text, "utf-8")
    click.echo(f"{to}: number {signed['serial']}, {len(signed['servers'])} servers, by {signing.verify_key.base64}")


@federation_list.command(
    "check",
    epilog="Example: domicile federation-list check list.json --key Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw",
)
@click.argument("source")
@click.option("--key", "keys", multiple=True, required=True, help="A public key that is believed; may be repeated.")
@JSON
def federation_list_check(source: str, keys: tuple[str, ...], as_json: bool) -> None:
    """Is the list at SOURCE, an address or a file, valid and signed by a key that is believed? Else status 1."""
    try:
        is_address = source.startswith(("https://", "http://"))
        raw = fetched(source, MOST_BYTES) if is_address else Path(source).read_bytes()
        document = federation_lists.parsed(raw)
        signers = sorted(federation_lists.believed(document, keys))
        found = federation_lists.read(document)
    except (Unfetched, OSError) as fault:
        no(f"domicile: {fault}")
    except InvalidList as fault:
        no(f"domicile: {source}: {fault}")
    if found.valid_until <= datetime.now(UTC).timestamp() * 1000:
        no(f"domicile: {source}: number {found.serial} of {found.name} has expired on {_day(found.valid_until)}")
    answer = {"name": found.name, "serial": found.serial, "servers": len(found.servers), "signed_by": signers}
    tell(answer, as_json, _told(found, signers))


@federation_list.command("status", epilog="Example: domicile federation-list status --json")
@CONFIG
@JSON
def federation_list_status(config: Path, as_json: bool) -> None:
    """Which list holds, until when, and what is wrong with it; status 1 when none holds, or it cannot be renewed."""
    _tell(perform(config, "federation-list-status"), as_json)


@federation_list.command("servers", epilog="Example: domicile federation-list servers --server matrix.gov.example")
@click.option("--server", help="Only this one.")
@CONFIG
@JSON
def federation_list_servers(server: str | None, config: Path, as_json: bool) -> None:
    """What the list says of each server: where it is, who runs it, as what, and the key with which it witnesses."""
    answer = perform(config, "federation-list-servers", server=server)
    lines = []
    for each in answer["servers"]:
        who = ", ".join(part for part in (each["operator"], each["role"]) if part) or "no operator named"
        lines.append(f"{each['server']}  {each['jurisdiction']}  {who}{'' if each['valid'] else '  (expired)'}")
        if each["placed"] not in (each["jurisdiction"], None) and each["valid"]:
            lines.append(f"  by the policy it is in {each['placed']}")
        if each["witness"] is not None:
            lines.append(f"  witness {each['witness']['key']} at {each['witness']['url']}")
    tell(answer, as_json, "\n".join(lines) or "The list names no servers.")


@federation_list.command("pull", epilog="Example: domicile federation-list pull")
@CONFIG
@JSON
def federation_list_pull(config: Path, as_json: bool) -> None:
    """Fetch the list now. What is not believed changes nothing, and is status 1."""
    _tell(perform(config, "federation-list-pull"), as_json)


def _tell(answer: dict[str, Any], as_json: bool) -> None:
    if answer["url"] is None:
        no("domicile: residency.toml has no [federation_list]")
    tell(answer, as_json, "\n".join(_lines(answer)))
    if answer["fault"] is not None or answer["list"] is None:
        no(f"domicile: {answer['fault'] or 'no list has been fetched yet: `domicile federation-list pull`'}")
    if answer["list"]["valid_until"] <= datetime.now(UTC).timestamp() * 1000:
        no(f"domicile: it has expired on {_day(answer['list']['valid_until'])}; its servers are in unknown places")


def _lines(answer: dict[str, Any]) -> list[str]:
    found, lines = answer["list"], []
    if found is not None:
        lines.append(f"{found['name']}, number {found['serial']}, valid until {_day(found['valid_until'])}")
        lines.append(f"{answer['valid_servers']} of {found['servers']} servers are placed by it")
    for each in answer["contradictions"]:
        lines.append(f"{each['server']}: the policy says {each['policy']}, which holds; the list says {each['list']}")
    if answer["undeclared"]:
        lines.append(f"not in the policy, so that nothing flows there: {', '.join(answer['undeclared'])}")
    if (report := answer["report"]) is not None:
        broken = report["rooms"]["rooms"]
        lines.append(f"rooms that break a rule since the list changed: {report['rooms']['broken']}")
        lines += [f"  {room['room_id']} with {', '.join(room['servers'])}" for room in broken]
    return lines


def _told(found: FederationList, signers: list[str]) -> str:
    servers, until = len(found.servers), _day(found.valid_until)
    return f"{found.name}, number {found.serial}: {servers} servers, valid until {until}, by {', '.join(signers)}"


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="minutes")


# what is to be signed -----------------------------------------------------------------------


def _document(source: Path) -> dict[str, Any]:
    """A list that somebody has written, as it is signed. Raises ValueError."""
    raw = source.read_bytes()
    found = federation_lists.parsed(raw) if source.suffix == ".json" else tomllib.loads(raw.decode())
    if "signatures" in found:
        return found
    now = int(datetime.now(UTC).timestamp() * 1000)
    made: dict[str, Any] = _plain({"format": FORMAT, "issued": now, **found})
    return made


def _plain(value: Any) -> Any:
    """With milliseconds since 1970 where there was a date."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidList(f"{value} does not say of which time zone: write Z behind it")
        return int(value.timestamp() * 1000)
    return value
