"""Accounts: add, list, show, deactivate, reset their passwords."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from config.placement import Attributes
from homeserver.accounts import administration, deactivation, registration
from homeserver.accounts.registration import NewAccount
from homeserver.control.arguments import given, needed, user_id_of
from homeserver.protocol.errors import InvalidParam, NodeUnavailable
from homeserver.storage.accounts import Threepid

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments
    from homeserver.storage.accounts import Account

_PHONE = re.compile(r"\+[1-9][0-9]{3,14}")


async def user_add(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Make an account: ``localpart``, ``password``, and as wished ``node``, ``phone``, ``admin``."""
    phone = given(arguments, "phone")
    if phone is not None and not _PHONE.fullmatch(phone):
        raise InvalidParam("A phone number is written with + and the country code, such as +33123456789")
    now = server.clock.now_ms()
    made = await registration.register(
        server,
        NewAccount(
            localpart=needed(arguments, "localpart"),
            password=needed(arguments, "password"),
            attributes=Attributes(phone=phone, node=given(arguments, "node"), may_ask=False),
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
    shown = await administration.show(server, user_id_of(server, needed(arguments, "user")))
    return {
        **_shown(shown.account),
        "node": shown.node,
        "jurisdiction": shown.jurisdiction,
        "pinned": None if shown.pinned is None else shown.pinned._asdict(),
        "threepids": [{"medium": threepid.medium, "address": threepid.address} for threepid in shown.threepids],
        "devices": [{"device_id": device.device_id, "display_name": device.display_name} for device in shown.devices],
    }


async def user_deactivate(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Deactivate an account (``user``), with ``erase`` also its name on what it wrote."""
    user_id = user_id_of(server, needed(arguments, "user"))
    await deactivation.deactivate(server, user_id, erase=bool(arguments.get("erase")))
    return {"user_id": user_id}


async def user_reset_password(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Give an account (``user``) another ``password``, and log its devices out."""
    user_id = user_id_of(server, needed(arguments, "user"))
    await administration.reset_password(server, user_id, needed(arguments, "password"))
    return {"user_id": user_id}
