"""``domicile user``: accounts."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from homeserver.command_line.answers import JSON, no_if_down, tell
from homeserver.command_line.asking import CONFIG, perform
from homeserver.protocol.roles import Role

PASSWORD = click.option(
    "--password-stdin", is_flag=True, required=True, help="Read the password from the first line of standard input."
)


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


@click.group()
def user() -> None:
    """Accounts: add, list, show, deactivate, reset-password; and their roles."""


@user.command("add", epilog="Example: domicile user add parisa --node tehran --password-stdin < password.txt")
@click.argument("localpart")
@CONFIG
@PASSWORD
@click.option("--phone", help="A verified phone number, with + and country code.")
@click.option("--node", help="The node where all their data rests; else the pins of the policy decide.")
@click.option("--admin", is_flag=True, help="Gives them the role operator.")
@JSON
def user_add(
    localpart: str, config: Path, password_stdin: bool, phone: str | None, node: str | None, admin: bool, as_json: bool
) -> None:
    """Make an account."""
    made = perform(config, "user-add", localpart=localpart, password=_password(), phone=phone, node=node, admin=admin)
    tell(made, as_json, f"{made['user_id']} rests on {made['node']}")


@user.command("list", epilog="Example: domicile user list --json")
@CONFIG
@JSON
def user_list(config: Path, as_json: bool) -> None:
    """All accounts and their nodes. Status 1 when a node could not be asked."""
    answer = perform(config, "user-list")
    lines = [f"{each['user_id']}  {each['node']}  {' '.join(each['state'])}".rstrip() for each in answer["users"]]
    tell(answer, as_json, "\n".join(lines) if lines else "There are no accounts.")
    no_if_down(answer)


@user.command("show", epilog="Example: domicile user show parisa")
@click.argument("name")
@CONFIG
@JSON
def user_show(name: str, config: Path, as_json: bool) -> None:
    """One account: where it rests, its devices, phone numbers and addresses."""
    answer = perform(config, "user-show", user=name)
    lines = [
        f"{answer['user_id']}  {' '.join(answer['state'])}".rstrip(),
        f"  rests on {answer['node']} in {answer['jurisdiction']}{_why(answer['pinned'])}",
        *(f"  {threepid['medium']} {threepid['address']}" for threepid in answer["threepids"]),
        *(f"  device {device['device_id']} {device['display_name'] or ''}".rstrip() for device in answer["devices"]),
    ]
    tell(answer, as_json, "\n".join(lines))


def _why(pinned: dict[str, Any] | None) -> str:
    """Since when, and by what that was decided."""
    if pinned is None:
        return ""
    day = datetime.fromtimestamp(pinned["ts"] / 1000, UTC).date().isoformat()
    rule = f" ({pinned['rule']})" if pinned["rule"] else ""
    return f", since {day}, by {pinned['how']}{rule}"


@user.command("deactivate", epilog="Example: domicile user deactivate parisa")
@click.argument("name")
@CONFIG
@click.option("--erase", is_flag=True, help="Also ask that what they wrote is forgotten.")
@JSON
def user_deactivate(name: str, config: Path, erase: bool, as_json: bool) -> None:
    """Deactivate an account for ever; its name is not given away again."""
    answer = perform(config, "user-deactivate", user=name, erase=erase)
    tell(answer, as_json, f"{answer['user_id']} is deactivated")


@user.command("reset-password", epilog="Example: domicile user reset-password parisa --password-stdin < password.txt")
@click.argument("name")
@CONFIG
@PASSWORD
@JSON
def user_reset_password(name: str, config: Path, password_stdin: bool, as_json: bool) -> None:
    """Give an account another password, and log its devices out."""
    answer = perform(config, "user-reset-password", user=name, password=_password())
    tell(answer, as_json, f"{answer['user_id']} has a new password; its devices are logged out")


ROLE = click.argument("role", type=click.Choice([role.value for role in Role]))


@user.group("role")
def user_role() -> None:
    """Roles of those who administer the deployment: add, remove, list."""


@user_role.command("add", epilog="Example: domicile user role add parisa auditor")
@click.argument("name")
@ROLE
@CONFIG
@JSON
def role_add(name: str, role: str, config: Path, as_json: bool) -> None:
    """Give somebody a role."""
    answer = perform(config, "user-role-add", user=name, role=role)
    tell(answer, as_json, _roles_of(answer))


@user_role.command("remove", epilog="Example: domicile user role remove parisa auditor")
@click.argument("name")
@ROLE
@CONFIG
@JSON
def role_remove(name: str, role: str, config: Path, as_json: bool) -> None:
    """Take a role from somebody."""
    answer = perform(config, "user-role-remove", user=name, role=role)
    tell(answer, as_json, _roles_of(answer))


@user_role.command("list", epilog="Example: domicile user role list --json")
@click.argument("name", required=False)
@CONFIG
@JSON
def role_list(name: str | None, config: Path, as_json: bool) -> None:
    """Who has which role. Status 1 when a node could not be asked."""
    answer = perform(config, "user-role-list", user=name)
    tell(answer, as_json, "\n".join(map(_roles_of, answer["users"])) or "Nobody has a role.")
    no_if_down(answer)


def _roles_of(answer: dict[str, Any]) -> str:
    return f"{answer['user_id']}  {' '.join(answer['roles']) or '(no role)'}"
