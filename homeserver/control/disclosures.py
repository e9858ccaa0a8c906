"""Orders to disclose something: recorded, narrowed, refused, approved, opened; the register says each of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.control.arguments import given, needed, node_called, several, user_id_of
from homeserver.disclosure import approving, lapsing, listing, opening, requesting
from homeserver.disclosure.requesting import Narrowing, Paper
from homeserver.protocol import canonical, disclosure_orders
from homeserver.protocol.disclosure_orders import Scope
from homeserver.protocol.errors import BadJson, InvalidParam, MissingParam
from homeserver.protocol.identifiers import is_user_id

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments
    from homeserver.storage.nodes import Node


async def disclose_request(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Record an order of an ``authority``; the register says so, whether it can be carried out or not."""
    node = _node_for(server, needed(arguments, "jurisdiction"), given(arguments, "node"))
    authority, case, legal_basis = (
        disclosure_orders.text_of(name, needed(arguments, name)) for name in ("authority", "case", "legal_basis")
    )
    document = disclosure_orders.digest_of(needed(arguments, "document_sha256"))
    gag_until = _time(arguments, "gag_until")
    paper = Paper(needed(arguments, "jurisdiction"), authority, case, legal_basis, document, gag_until)
    since, until, expires = (_needed_time(arguments, name) for name in ("since", "until", "expires"))
    scope = Scope.of(_accounts(server, arguments) or [], _fields(arguments) or [], since, until, expires)
    order = await requesting.request(server, node, paper, scope)
    return await listing.one(server, node, order.number)


async def disclose_list(server: Server, _: Arguments) -> dict[str, Any]:
    """All orders, and how far the registers are."""
    return await listing.of_all(server)


async def disclose_show(server: Server, arguments: Arguments) -> dict[str, Any]:
    """One order, whole."""
    return await listing.one(server, *_order(server, arguments))


async def disclose_approve(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Take an ``approval``, which an approver has signed."""
    approval = arguments.get("approval")
    if not isinstance(approval, dict):
        raise BadJson("'approval' must be an object: what `domicile disclose sign` has written")
    return await approving.approve(server, *_order(server, arguments), canonical.encode(approval))


async def disclose_narrow(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Leave out some of what an order reaches, for a ``reason``."""
    reason = disclosure_orders.text_of("reason", needed(arguments, "reason"))
    times = (_time(arguments, name) for name in ("since", "until", "expires"))
    narrowing = Narrowing(_accounts(server, arguments), _fields(arguments), *times)
    node, number = _order(server, arguments)
    return listing.label(await requesting.narrow(server, node, number, narrowing, reason))


async def disclose_refuse(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Say no to an order, for a ``reason``."""
    reason = disclosure_orders.text_of("reason", needed(arguments, "reason"))
    return listing.label(await requesting.decline(server, *_order(server, arguments), reason))


async def disclose_unseal(server: Server, arguments: Arguments) -> dict[str, Any]:
    """End the gag of an order before its time."""
    return listing.label(await lapsing.unseal(server, *_order(server, arguments)))


async def disclose_clock(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Have the register of a ``node`` go on by the clock of now, which had run ahead. Everybody is shown the
    ``reason``."""
    node = node_called(server, needed(arguments, "node"))
    reason = disclosure_orders.text_of("reason", needed(arguments, "reason"))
    done = await lapsing.set_clock_right(server, node, reason)
    return {"node": node.name, "seen": done.seen, "ended": done.ended}


async def disclose_shares(server: Server, arguments: Arguments) -> dict[str, Any]:
    """What custodians need to give their shares for an order that lacks nothing else."""
    return listing.for_custodians(server, await opening.ready(server, *_order(server, arguments)))


async def disclose_open(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Open an order with the custodians' ``shares``: words by the number of the epoch."""
    shares = arguments.get("shares") or {}
    if not isinstance(shares, dict) or not all(name.isdecimal() and len(name) < 16 for name in shares):
        raise BadJson("'shares' must be an object: for each number of an epoch a list of shares")
    entered = {int(name): several(shares, name) for name in shares}
    return await opening.open_order(server, *_order(server, arguments), entered)


def _order(server: Server, arguments: Arguments) -> tuple[Node, int]:
    number = arguments.get("number")
    if type(number) is not int or not 0 < number < 2**31:
        raise InvalidParam("An order is named by its node and its number, as in tehran/3")
    return node_called(server, needed(arguments, "node")), number


def _node_for(server: Server, jurisdiction: str, name: str | None) -> Node:
    """The node on which an order is recorded: the one that was named, or the only one of the jurisdiction."""
    if name is not None:
        return node_called(server, name)
    there = [node for node in server.nodes if node.jurisdiction == jurisdiction]
    if len(there) != 1:
        names = ", ".join(node.name for node in there or server.nodes)
        raise InvalidParam(f"{jurisdiction} has {len(there)} nodes here; say which is meant: {names}")
    return there[0]


def _accounts(server: Server, arguments: Arguments) -> list[str] | None:
    named = several(arguments, "accounts")
    found = [user_id_of(server, name) for name in named]
    for user_id in found:
        if not is_user_id(user_id):
            raise InvalidParam(f"{user_id[:100]} is no user id")
    return found or None


def _fields(arguments: Arguments) -> list[str] | None:
    return several(arguments, "fields") or None


def _time(arguments: Arguments, name: str) -> int | None:
    value = arguments.get(name)
    if value is not None and (type(value) is not int or not 0 <= value < 2**53):
        raise BadJson(f"'{name}' must be a time in milliseconds since 1970")
    return value


def _needed_time(arguments: Arguments, name: str) -> int:
    value = _time(arguments, name)
    if value is None:
        raise MissingParam(f"'{name}' is missing")
    return value
