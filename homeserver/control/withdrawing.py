"""Leaving a jurisdiction: what it would come to, announce, call off, close accounts, erase; and how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.control.arguments import given, needed
from homeserver.control.policy_changes import as_refusals
from homeserver.protocol.errors import BadJson
from homeserver.residency.withdrawing import announcing, closing, erasing
from homeserver.storage import withdrawals

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments
    from homeserver.storage.withdrawals import Withdrawal


async def withdraw(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Announce that a ``jurisdiction`` is left, with accounts open ``until`` (milliseconds since 1970), as the ``plan``
    with that digest says; with ``dry_run``, only say what it would come to."""
    jurisdiction, ends_ts = needed(arguments, "jurisdiction"), arguments.get("until")
    if not isinstance(ends_ts, int) or isinstance(ends_ts, bool):
        raise BadJson("'until' must be an integer")
    with as_refusals():
        if arguments.get("dry_run"):
            return (await announcing.examine(server, jurisdiction, ends_ts)).shown()
        made = await announcing.announce(server, jurisdiction, ends_ts, needed(arguments, "plan"))
        return await _shown(server, made)


async def status(server: Server, arguments: Arguments) -> dict[str, Any]:
    """How far the withdrawals are that were ever announced, or that from one ``jurisdiction``."""
    jurisdiction = given(arguments, "jurisdiction")
    known = await server.nodes.directory.engine.read(withdrawals.every)
    found = [await _shown(server, each) for each in known if jurisdiction in (None, each.jurisdiction)]
    return {"withdrawals": found}


async def call_off(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Stay in a ``jurisdiction`` after all."""
    await announcing.call_off(server, needed(arguments, "jurisdiction"))
    return {}


async def close(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Close what accounts are left in a ``jurisdiction``; ``done``, or how far it is."""
    return await closing.close(server, needed(arguments, "jurisdiction"))


async def progress(server: Server, _: Arguments) -> dict[str, Any]:
    """Wait for the end of that; ``done``, or how far it is."""
    return await closing.progress(server)


async def erase(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Destroy what the nodes of a ``jurisdiction`` held, which no policy has any more; the signed ``receipt``."""
    with as_refusals():
        return {"receipt": (await erasing.erase(server, needed(arguments, "jurisdiction"))).decode()}


async def _shown(server: Server, each: Withdrawal) -> dict[str, Any]:
    waiting = await closing.servers_waiting(server, each) if each.state == announcing.CLOSED else 0
    receipt = None if each.receipt is None else each.receipt.decode()
    return {**each._asdict(), "nodes": list(each.nodes), "receipt": receipt, "servers_waiting": waiting}
