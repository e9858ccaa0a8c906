"""What the command line asks of a deployment, running or not: each command is a function of values to values.

A running server answers them on a UNIX socket in its data directory, which only its own user may open; otherwise the
command line opens the databases itself. Either way the same function does the work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from homeserver.control import (
    admin_log,
    backups,
    disclosures,
    doctor,
    federation_lists,
    isolation,
    key_logs,
    moves,
    passports,
    policy_changes,
    proofs,
    recording,
    reports,
    residency,
    roles,
    users,
    withdrawing,
)
from homeserver.control.arguments import Arguments, user_id_of
from homeserver.control.declared import declared_of
from homeserver.protocol.errors import Unrecognized

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.declarations import Declared
    from homeserver.control.recording import Record

Command = Callable[["Server", Arguments], Awaitable[dict[str, Any]]]

COMMANDS: Mapping[str, Command] = {
    "user-add": users.user_add,
    "user-list": users.user_list,
    "user-show": users.user_show,
    "user-deactivate": users.user_deactivate,
    "user-reset-password": users.user_reset_password,
    "user-role-list": roles.role_list,
    "user-role-add": roles.role_add,
    "user-role-remove": roles.role_remove,
    "admin-log": admin_log.admin_log,
    "report-list": reports.report_list,
    "report-dismiss": reports.report_dismiss,
    "backup": backups.backup,
    "backup-directory": backups.directory,
    "backup-progress": backups.progress,
    "disclose-request": disclosures.disclose_request,
    "disclose-list": disclosures.disclose_list,
    "disclose-show": disclosures.disclose_show,
    "disclose-approve": disclosures.disclose_approve,
    "disclose-narrow": disclosures.disclose_narrow,
    "disclose-refuse": disclosures.disclose_refuse,
    "disclose-unseal": disclosures.disclose_unseal,
    "disclose-clock": disclosures.disclose_clock,
    "disclose-shares": disclosures.disclose_shares,
    "disclose-open": disclosures.disclose_open,
    "doctor": doctor.doctor,
    "federation-list-status": federation_lists.status,
    "federation-list-servers": federation_lists.servers,
    "federation-list-pull": federation_lists.pull,
    "isolation-on": isolation.isolation_on,
    "isolation-off": isolation.isolation_off,
    "isolation-status": isolation.isolation_status,
    "log-status": key_logs.log_status,
    "log-begin-anew": key_logs.log_begin_anew,
    "passport": passports.passport,
    "log-alarms": key_logs.log_alarms,
    "log-alarm-end": key_logs.log_alarm_end,
    "log-witness-list": key_logs.log_witness_list,
    "log-witness-add": key_logs.log_witness_add,
    "log-witness-remove": key_logs.log_witness_remove,
    "residency-audit": proofs.residency_audit,
    "residency-evidence": proofs.residency_evidence,
    "residency-traffic": residency.residency_traffic,
    "residency-history": policy_changes.history,
    "residency-move": moves.residency_move,
    "residency-move-room": moves.residency_move_room,
    "residency-move-status": moves.residency_move_status,
    "residency-receipts": moves.residency_receipts,
    "residency-move-stop": moves.residency_move_stop,
    "residency-move-resume": moves.residency_move_resume,
    "residency-policy": policy_changes.policy,
    "residency-edit": policy_changes.edit,
    "residency-plan": policy_changes.plan,
    "residency-apply": policy_changes.apply,
    "residency-resume": policy_changes.resume,
    "residency-give-up": policy_changes.give_up,
    "residency-progress": policy_changes.progress,
    "residency-approve": policy_changes.approve,
    "residency-withdraw": withdrawing.withdraw,
    "residency-withdraw-status": withdrawing.status,
    "residency-withdraw-call-off": withdrawing.call_off,
    "residency-withdraw-close": withdrawing.close,
    "residency-withdraw-progress": withdrawing.progress,
    "residency-withdraw-erase": withdrawing.erase,
}


async def perform(server: Server, command: str, arguments: Arguments) -> dict[str, Any]:
    """Do what the command line asks, and write it down. Raises Unrecognized, and what the command raises."""
    if command not in COMMANDS:
        raise Unrecognized("This server does not know that command: is the command line of another version?")
    declared = declared_of(command)
    if not declared.is_change(arguments):
        return await COMMANDS[command](server, arguments)
    person = person_of(server, declared, arguments)
    record = await recording.at_machine(server, command, declared, arguments, person)
    answer = await recorded(server, record, command, arguments)
    if person is not None and not record.chain.user_id:  # who was not there before
        await (await recording.at_machine(server, command, declared, arguments, person)).end()
    return answer


async def recorded(server: Server, record: Record, command: str, arguments: Arguments) -> dict[str, Any]:
    """Do what changes something, between two entries of the log. Raises what the command raises, and NodeUnavailable
    when nothing was done since it could not be written down."""
    async with record.around():
        return await COMMANDS[command](server, arguments)


def person_of(server: Server, declared: Declared, arguments: Arguments) -> str | None:
    """The user id of the person whom the arguments name."""
    name = declared.person(arguments)
    return None if name is None else user_id_of(server, name)
