"""``domicile passport`` and ``domicile build-digest``: what a deployment says of itself, and whether that holds.

`verify` asks over HTTP only, as a stranger does, and needs no deployment of one's own.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from homeserver.command_line.answers import JSON, moment, no, tell
from homeserver.command_line.asking import CONFIG, perform
from homeserver.command_line.fetching import Unfetched, fetched
from homeserver.passport import build
from homeserver.protocol import checkpoints, passports, signed_notes
from homeserver.protocol.errors import BadJson, InvalidSignature
from homeserver.protocol.signing import VerifyKey

KEYS = "/_matrix/key/v2/server"
PAGE = "/_domicile/passport.json"
OLDEST = 3600
"""Seconds that a passport may be away from now which is shown now."""


@click.group()
def passport() -> None:
    """The passport of a deployment: show, verify."""


@passport.command("show", epilog="Example: domicile passport show --json")
@CONFIG
@JSON
def passport_show(config: Path, as_json: bool) -> None:
    """What this deployment says of itself now, as everybody gets it at /_domicile/passport.json."""
    said = perform(config, "passport")["passport"]
    tell(said, as_json, "\n".join(_lines(said)))


@passport.command("verify", epilog="Example: domicile passport verify https://matrix.example.org")
@click.argument("source")
@click.option(
    "--key", help="The server's key, as KEY_ID=BASE64. Else its key document is asked for, at the same place."
)
@click.option("--build", "expected", help="The build that it must say it runs; see `domicile build-digest`.")
@JSON
def passport_verify(source: str, key: str | None, expected: str | None, as_json: bool) -> None:
    """Check the passport at SOURCE, an address or a file: its signature, and those of the logs that it names.

    Status 1 when anything is not as it says. Needs no deployment of one's own.
    """
    is_address = source.startswith(("https://", "http://"))
    if not is_address and key is None:
        raise click.UsageError("a file is checked with --key: see verify_keys at https://SERVER" + KEYS)
    known = None if key is None else _key(key)
    try:
        raw = _read(source) if not is_address else fetched(_address(source), passports.MOST_BYTES)
        said = _object(raw)
        keys = known or _keys_there(_base(source), str(said.get("server_name")))
        faults = passports.faults(said, keys)
    except (Unfetched, BadJson, InvalidSignature, OSError) as refusal:
        no(f"domicile: {getattr(refusal, 'message', refusal)}")
    if not faults and is_address and (age := _age(said)):
        faults = [age]
    if not faults and expected is not None and said["software"]["build_sha256"] != expected:
        faults = [f"it runs another build, {said['software']['build_sha256']}"]
    if faults:
        if as_json:
            click.echo(json.dumps({"genuine": False, "faults": faults}))
        no("\n".join(f"domicile: {fault}" for fault in faults))
    believed = "the key that you gave" if known else f"the keys at {_base(source)}{KEYS}"
    tell(
        {"genuine": True, "faults": [], "passport": said}, as_json, "\n".join([*_lines(said), f"Signed by {believed}."])
    )


@click.command("build-digest", epilog="Example: domicile build-digest --list")
@click.option("--list", "listed", is_flag=True, help="The digest of each file instead, as sha256sum writes them.")
def build_digest(listed: bool) -> None:
    """The digest of this program, which stands in the passport of a deployment that runs it."""
    click.echo(build.listing(build.files()).rstrip("\n") if listed else build.digest())


def _key(text: str) -> dict[str, VerifyKey]:
    key_id, found, value = text.partition("=")
    try:
        if not found:
            raise BadJson("It has no =")
        return {key_id: VerifyKey.from_base64(key_id, value)}
    except BadJson:
        raise click.UsageError(
            "--key is KEY_ID=BASE64, such as ed25519:a_1=Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw"
        ) from None


def _keys_there(base: str, server_name: str) -> dict[str, VerifyKey]:
    """The keys that a server itself gives. Raises Unfetched, BadJson, InvalidSignature."""
    try:
        document = fetched(base + KEYS, 2**20)
    except Unfetched as fault:
        raise Unfetched(f"{fault}; give the server's key with --key") from None
    return passports.keys_of(_object(document), server_name)


def _age(said: dict[str, Any]) -> str:
    """Why a passport that is shown now is not of now; "" when it is."""
    seconds = datetime.now(UTC).timestamp() - said["time"] / 1000
    if abs(seconds) <= OLDEST:
        return ""
    when = datetime.fromtimestamp(said["time"] / 1000, UTC).isoformat(timespec="minutes")
    return f"it is of {when}: an old one is shown, or a clock is wrong"


def _base(source: str) -> str:
    return source.partition("/_domicile/")[0].rstrip("/")


def _address(source: str) -> str:
    return _base(source) + PAGE


def _read(source: str) -> bytes:
    return Path(source).read_bytes()


def _object(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except ValueError:
        raise BadJson("That is not JSON") from None
    if not isinstance(found, dict):
        raise BadJson("That is no JSON object")
    return found


def _lines(said: dict[str, Any]) -> list[str]:
    """A passport in words."""
    time = moment(said["time"])
    operator, software, version = said["operator"], said["software"], said["policy"]["version"]
    same = "the build of this program" if software["build_sha256"] == build.running() else "another build than this"
    encryption = "required" if said["encryption"]["required"] else "NOT required: a server for tests"
    lines = [
        f"{said['server_name']}, at {time}",
        f"  operator    {operator['legal_name'] or 'not said'} {operator['contact'] or ''}".rstrip(),
        f"  software    {software['name']} {software['version']}, {same}: {software['build_sha256']}",
        f"  policy      {'none' if version is None else version['serial']}",
        f"  encryption  {encryption}; in the clear: {', '.join(said['encryption']['allowed_in_clear']) or 'nothing'}",
        *_unsigned_devices(said["encryption"]),
    ]
    for each in said["jurisdictions"]:
        nodes = ", ".join(node["name"] for node in said["nodes"] if node["jurisdiction"] == each["code"])
        lines.append(f"  {each['code']:<11} nodes {nodes}; law: {each['law'] or 'not said'}")
    names = ", ".join(f"{each['name']} ({each['jurisdiction']})" for each in said["witnesses"])
    lines.append(f"  witnesses   {names or 'none'}; alarms that are open: {said['alarms']['open']}")
    return [*lines, *(f"  log         {_log(node['key_log'])}" for node in said["nodes"])]


def _unsigned_devices(encryption: dict[str, Any]) -> list[str]:
    """Whether others encrypt for devices that their owners have not signed, if it is said."""
    if "unsigned_device_grace_ms" not in encryption:
        return []
    grace = encryption["unsigned_device_grace_ms"]
    said = "for ever" if grace is None else f"for {grace / 3_600_000:g} hours" if grace else "to nobody else"
    return [f"  devices     not signed by their owners: shown {said}"]


def _log(log: dict[str, Any]) -> str:
    if log["checkpoint"] is None:
        return f"{log['origin']}: {log['fault'] or 'nothing shown yet'}"
    head = checkpoints.read(signed_notes.read(log["checkpoint"].encode()).text).head
    return f"{log['origin']}: {head.size} leaves"
