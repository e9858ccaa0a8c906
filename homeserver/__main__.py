"""The command line: ``domicile``, also ``python -m homeserver``. See docs/operations.md."""

from __future__ import annotations

import click

from homeserver.command_line import moves, policy_changes, signing_orders, withdrawing
from homeserver.command_line.admin_log import admin_log
from homeserver.command_line.answers import Plain
from homeserver.command_line.backups import backup, restore
from homeserver.command_line.deploying import check, init, serve
from homeserver.command_line.disclosing import disclose
from homeserver.command_line.doctor import doctor
from homeserver.command_line.federation_lists import federation_list
from homeserver.command_line.isolation import isolation
from homeserver.command_line.key_logs import log
from homeserver.command_line.keys import key
from homeserver.command_line.passports import build_digest, passport
from homeserver.command_line.reports import report
from homeserver.command_line.residency import residency
from homeserver.command_line.users import user


@click.group(cls=Plain, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="domicile")
def main() -> None:
    """Domicile: a Matrix homeserver that keeps each user's data in their jurisdiction, and unreadable there."""


for command in (*policy_changes.COMMANDS, *moves.COMMANDS, *withdrawing.COMMANDS):
    residency.add_command(command)
for command in (init, check, serve, user, report, residency, isolation, backup, restore, doctor, admin_log, log, key):
    main.add_command(command)
for command in (passport, build_digest, federation_list, disclose):
    main.add_command(command)
for command in signing_orders.COMMANDS:
    disclose.add_command(command)

if __name__ == "__main__":
    main(prog_name="domicile")
