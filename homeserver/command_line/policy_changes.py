"""``domicile residency check``, ``plan``, ``approve``, ``apply``, ``history``, ``rollback``: changing the policy."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from config.kinds import quoted
from config.load import load_apart, load_policy
from config.problems import Faults
from homeserver.command_line import plans
from homeserver.command_line.answers import JSON, no, tell, write_new
from homeserver.command_line.asking import CONFIG, perform, perform_long
from homeserver.protocol import policy_chain
from homeserver.protocol.signing import SigningKey, read_keys, write_keys

FILE = click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))


@click.command("check", epilog="Example: domicile residency check draft.toml")
@FILE
@CONFIG
@JSON
def residency_check(file: Path | None, config: Path, as_json: bool) -> None:
    """Is FILE, or residency.toml, a valid policy? Names every fault, with status 1."""
    settings, found = load_apart(config)
    if file is not None:
        try:
            found = load_policy(file, settings.server_name)
        except Faults as faults:
            found = faults
    problems = [str(problem) for problem in found.problems] if isinstance(found, Faults) else []
    if problems and not as_json:
        no("\n".join(problems))
    serial = None if isinstance(found, Faults) else found.serial
    tell({"valid": not problems, "serial": serial, "problems": problems}, as_json, f"Valid, with serial = {serial}.")
    sys.exit(1 if problems else 0)


@click.command("history", epilog="Example: domicile residency history --json")
@CONFIG
@JSON
def residency_history(config: Path, as_json: bool) -> None:
    """Every policy that was in force, and since when. Status 1 when somebody has changed what is kept of them."""
    answer = perform(config, "residency-history")
    lines = [_line(version) for version in answer["versions"]]
    faults = [f"version {each['serial']}: {fault}" for each in answer["versions"] for fault in each["faults"]]
    lines.append(f"Signed with {answer['key']['key_id']} {answer['key']['key']}")
    tell(answer, as_json, "\n".join(lines))
    if faults:
        no("\n".join(faults))


def _line(version: dict[str, Any]) -> str:
    if "how" not in version:
        return f"{version['serial']:>4}  (unreadable)"
    since = datetime.fromtimestamp(version["time"] / 1000, UTC).isoformat(sep=" ", timespec="seconds")
    how = version["how"] if version["restores"] is None else f"{version['how']} to {version['restores']}"
    approved = f"  approved by {', '.join(version['approvals'])}" if version["approvals"] else ""
    places = ", ".join(f"{node} {index}" for node, index in version["logged"].items())
    logged = f"  in the key logs: {places}" if places else "  in no key log yet"
    return f"{version['serial']:>4}  {since}  {how:<12}  {version['record_sha256'][:16]}{logged}{approved}"


def _draft(file: Path | None, config: Path) -> dict[str, Any]:
    """The text that is to be the next policy, as a command is given it."""
    settings, _ = load_apart(config)
    path = settings.residency if file is None else file
    try:
        return {"text": path.read_bytes().decode("utf-8-sig"), "file": str(path)}
    except UnicodeDecodeError:
        no(f"domicile: {path} is not UTF-8")


def _show_plan(answer: dict[str, Any], as_json: bool, how_to_apply: str) -> None:
    text = list(plans.lines(answer))
    if answer["digest"] and not answer["obstacles"]:
        text.append(f"To apply it: {how_to_apply}")
    tell(answer, as_json, "\n".join(text))
    sys.exit(1 if answer["obstacles"] else 0)


@click.command("plan", epilog="Example: domicile residency plan draft.toml --json")
@FILE
@CONFIG
@JSON
def residency_plan(file: Path | None, config: Path, as_json: bool) -> None:
    """What FILE, or residency.toml, would do as the next policy. Changes nothing. Status 1 if it cannot be applied."""
    answer = perform(config, "residency-plan", **_draft(file, config))
    _show_plan(answer, as_json, f"domicile residency apply {answer['digest']}{f' {file}' if file else ''}")


def _applied(config: Path, command: str, arguments: dict[str, Any], as_json: bool) -> None:
    answer = perform_long(config, command, arguments, "residency-progress", plans.how_far)
    tell(answer, as_json, "\n".join([*answer["notes"], f"Version {answer['serial']} is in force."]))


@click.command("apply", epilog="Example: domicile residency apply 3b0c44298fc1c149afbf4c8996fb9242 draft.toml")
@click.argument("digest", required=False)
@FILE
@click.option("--resume", is_flag=True, help="Go on with a plan whose applying was cut off.")
@click.option("--give-up", is_flag=True, help="Forget such a plan.")
@CONFIG
@JSON
def residency_apply(
    digest: str | None, file: Path | None, resume: bool, give_up: bool, config: Path, as_json: bool
) -> None:
    """Put FILE, or residency.toml, in force, if what it would do still is the plan with this DIGEST."""
    if (digest is not None) + resume + give_up != 1:
        raise click.UsageError("give the digest that `domicile residency plan` shows, or --resume, or --give-up")
    if give_up:
        answer = perform(config, "residency-give-up")
        tell(answer, as_json, f"The plan {answer['plan']} is given up.")
    elif resume:
        _applied(config, "residency-resume", {}, as_json)
    else:
        _applied(config, "residency-apply", {"plan": digest, **_draft(file, config)}, as_json)


@click.command("rollback", epilog="Example: domicile residency rollback 6")
@click.argument("serial", type=int)
@click.argument("digest", required=False)
@CONFIG
@JSON
def residency_rollback(serial: int, digest: str | None, config: Path, as_json: bool) -> None:
    """Put the text of an earlier version in force again, as the next one; without DIGEST, only show the plan."""
    if digest is not None:
        _applied(config, "residency-apply", {"plan": digest, "restores": serial}, as_json)
        return
    answer = perform(config, "residency-plan", restores=serial)
    _show_plan(answer, as_json, f"domicile residency rollback {serial} {answer['digest']}")


@click.command("approver", epilog="Example: domicile residency approver parisa --key-file parisa.key")
@click.argument("name")
@click.option("--key-file", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Where it goes.")
def residency_approver(name: str, key_file: Path) -> None:
    """Make the key with which somebody approves plans, and print what the policy has to say of them."""
    key = SigningKey.generate("approver")
    write_new(key_file, write_keys([key]).encode())
    click.echo(f"[[changes.approvers]]\nname = {quoted(name)}\nkey = {quoted(key.verify_key.base64)}")


@click.command("approve", epilog="Example: domicile residency approve 3b0c4429… --name parisa --key-file parisa.key")
@click.argument("digest")
@click.option("--name", required=True, help="As the policy in force names you.")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file that `domicile residency approver` made; it is not sent anywhere.",
)
@CONFIG
@JSON
def residency_approve(digest: str, name: str, key_file: Path, config: Path, as_json: bool) -> None:
    """Say yes to the plan with this DIGEST, which `domicile residency plan` shows."""
    settings, _ = load_apart(config)
    try:
        (key,) = read_keys(key_file.read_text(encoding="ascii"))
    except ValueError:
        no(f"domicile: {key_file} does not hold one key; `domicile residency approver` makes one")
    said = policy_chain.approve(settings.server_name, digest, name, key)
    answer = perform(config, "residency-approve", plan=digest, **said._asdict())
    tell(answer, as_json, f"Approved by {', '.join(answer['given'])}: {len(answer['given'])} of {answer['needed']}.")


COMMANDS = (
    residency_check,
    residency_plan,
    residency_approver,
    residency_approve,
    residency_apply,
    residency_history,
    residency_rollback,
)
