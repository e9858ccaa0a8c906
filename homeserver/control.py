"""What the command line asks of a deployment, running or not: each command is a function of values to values.

A running server answers them on a UNIX socket in its data directory, which only its own user may open; otherwise the
command line opens the databases itself. Either way the same function does the work.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from config.placement import Attributes
from homeserver.accounts import administration, deactivation, registration, reports
from homeserver.accounts.registration import NewAccount
from homeserver.protocol import identifiers
from homeserver.protocol.errors import BadJson, InvalidParam, MissingParam, NodeUnavailable, Unrecognized
from homeserver.residency import traffic
from homeserver.storage.accounts import Threepid

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.accounts import Account

_PHONE = re.compile(r"\+[1-9][0-9]{3,14}")
Arguments = Mapping[str, Any]
Command = Callable[["Server", Arguments], Awaitable[dict[str, Any]]]


def _user_id(server: Server, name: str) -> str:
    """The user whom the operator means: a localpart or a whole user id."""
    return name if name.startswith("@") else identifiers.user_id(name, server.name)


def _given(arguments: Arguments, name: str) -> str | None:
    """A string. Raises BadJson."""
    value = arguments.get(name)
    if value is not None and (not isinstance(value, str) or "\0" in value):
        raise BadJson(f"'{name}' must be a string")
    return value


def _needed(arguments: Arguments, name: str) -> str:
    """A string. Raises MissingParam, BadJson."""
    value = _given(arguments, name)
    if value is None:
        raise MissingParam(f"'{name}' is missing")
    return value


async def user_add(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Make an account: ``localpart``, ``password``, and as wished ``node``, ``phone``, ``admin``."""
    phone = _given(arguments, "phone")
    if phone is not None and not _PHONE.fullmatch(phone):
        raise InvalidParam("A phone number is written with + and the country code, such as +33123456789")
    now = server.clock.now_ms()
    made = await registration.register(
        server,
        NewAccount(
            localpart=_needed(arguments, "localpart"),
            password=_needed(arguments, "password"),
            attributes=Attributes(phone=phone, node=_given(arguments, "node"), may_ask=False),
            admin=bool(arguments.get("admin")),
            threepids=() if phone is None else (Threepid("msisdn", phone.removeprefix("+"), now, now),),
        ),
    )
    return {"user_id": made.user_id, "node": made.node}


async def user_list(server: Server, _: Arguments) -> dict[str, Any]:
    """All accounts, and the nodes that could not be asked."""
    found: list[dict[str, Any]] = []
    down = []
    for node in server.nodes:
        try:
            after = ""
            while page := await administration.page(node, after):
                found += [{**_shown(account), "node": node.name} for account in page]
                after = page[-1].user_id
        except NodeUnavailable:
            down.append(node.name)
    return {"users": found, "nodes_down": down}


def _shown(account: Account) -> dict[str, Any]:
    state = [name for name in ("admin", "guest", "locked", "suspended") if getattr(account, name)]
    if account.deactivated_ts is not None:
        state.append("deactivated")
    return {"user_id": account.user_id, "created_ts": account.created_ts, "state": state}


async def user_show(server: Server, arguments: Arguments) -> dict[str, Any]:
    """One account (``user``): where it rests, and what belongs to it."""
    shown = await administration.show(server, _user_id(server, _needed(arguments, "user")))
    return {
        **_shown(shown.account),
        "node": shown.node,
        "jurisdiction": shown.jurisdiction,
        "threepids": [{"medium": threepid.medium, "address": threepid.address} for threepid in shown.threepids],
        "devices": [{"device_id": device.device_id, "display_name": device.display_name} for device in shown.devices],
    }


async def user_deactivate(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Deactivate an account (``user``), with ``erase`` also its name on what it wrote."""
    user_id = _user_id(server, _needed(arguments, "user"))
    await deactivation.deactivate(server, user_id, erase=bool(arguments.get("erase")))
    return {"user_id": user_id}


async def user_reset_password(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Give an account (``user``) another ``password``, and log its devices out."""
    user_id = _user_id(server, _needed(arguments, "user"))
    await administration.reset_password(server, user_id, _needed(arguments, "password"))
    return {"user_id": user_id}


async def report_list(server: Server, _: Arguments) -> dict[str, Any]:
    """What users have reported, oldest first, and the nodes that could not be asked."""
    found: list[dict[str, Any]] = []
    down = []
    for node in server.nodes:
        try:
            found += [{**report._asdict(), "node": node.name} async for report in reports.all_of(node)]
        except NodeUnavailable:
            down.append(node.name)
    return {"reports": found, "nodes_down": down}


async def report_dismiss(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Remove a report: ``node`` and its number there, ``report_id``."""
    report_id = arguments.get("report_id")
    if not isinstance(report_id, int):
        raise BadJson("'report_id' must be an integer")
    await reports.dismiss(server, _needed(arguments, "node"), report_id)
    return {}


async def residency_traffic(server: Server, _: Arguments) -> dict[str, Any]:
    """Bytes by source and target jurisdiction."""
    return {"traffic": traffic.table(server)}


COMMANDS: Mapping[str, Command] = {
    "user-add": user_add,
    "user-list": user_list,
    "user-show": user_show,
    "user-deactivate": user_deactivate,
    "user-reset-password": user_reset_password,
    "report-list": report_list,
    "report-dismiss": report_dismiss,
    "residency-traffic": residency_traffic,
}


async def perform(server: Server, command: str, arguments: Arguments) -> dict[str, Any]:
    """Do what the command line asks. Raises Unrecognized, and what the command raises."""
    if command not in COMMANDS:
        raise Unrecognized("This server does not know that command: is the command line of another version?")
    return await COMMANDS[command](server, arguments)
