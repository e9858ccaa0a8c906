"""What the command line asks of a deployment, running or not: each command is a function of values to values.

A running server answers them on a UNIX socket in its data directory, which only its own user may open; otherwise the
command line opens the databases itself. Either way the same function does the work.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from homeserver.control import backups, doctor, isolation, moves, policy_changes, proofs, reports, residency, users
from homeserver.control.arguments import Arguments
from homeserver.protocol.errors import Unrecognized

if TYPE_CHECKING:
    from homeserver.context import Server

Command = Callable[["Server", Arguments], Awaitable[dict[str, Any]]]

COMMANDS: Mapping[str, Command] = {
    "user-add": users.user_add,
    "user-list": users.user_list,
    "user-show": users.user_show,
    "user-deactivate": users.user_deactivate,
    "user-reset-password": users.user_reset_password,
    "report-list": reports.report_list,
    "report-dismiss": reports.report_dismiss,
    "backup": backups.backup,
    "backup-progress": backups.progress,
    "doctor": doctor.doctor,
    "isolation-on": isolation.isolation_on,
    "isolation-off": isolation.isolation_off,
    "isolation-status": isolation.isolation_status,
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
    "residency-plan": policy_changes.plan,
    "residency-apply": policy_changes.apply,
    "residency-resume": policy_changes.resume,
    "residency-give-up": policy_changes.give_up,
    "residency-progress": policy_changes.progress,
    "residency-approve": policy_changes.approve,
}


async def perform(server: Server, command: str, arguments: Arguments) -> dict[str, Any]:
    """Do what the command line asks. Raises Unrecognized, and what the command raises."""
    if command not in COMMANDS:
        raise Unrecognized("This server does not know that command: is the command line of another version?")
    return await COMMANDS[command](server, arguments)
