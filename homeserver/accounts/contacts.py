"""Phone numbers and addresses of accounts: whose they are, and what it takes that they become somebody's.

An identifier rests on its owner's node only; the directory has a keyed hash of it, that leads there. It belongs to one
account of the whole deployment: whoever gives it to somebody holds its lock and has claimed its route. A route
without a row on its node, which a crash can leave, leads to nobody, and the next claim takes it over.

spec: client-server-api/#adding-account-administrative-contact-information
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from homeserver.accounts import validation
from homeserver.accounts.letters import Purpose
from homeserver.protocol.errors import ThreepidAuthFailed, ThreepidInUse
from homeserver.storage import accounts as stored
from homeserver.storage.accounts import Threepid
from homeserver.storage.directory import Kind

if TYPE_CHECKING:
    from homeserver.accounts.validation import Proved, Wish
    from homeserver.context import Caller, Server
    from homeserver.protocol.threepids import Identifier
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

STRIPES = 64


class _Locks:
    """Locks of identifiers, many to one lock. One for the deployment."""

    def __init__(self) -> None:
        self.stripes = [asyncio.Lock() for _ in range(STRIPES)]


async def of_caller(caller: Caller) -> list[dict[str, Any]]:
    """The caller's, as they are shown. spec: client-server-api/#get_matrixclientv3account3pid"""
    return [
        {
            "medium": threepid.medium,
            "address": threepid.address,
            "validated_at": threepid.validated_ts,
            "added_at": threepid.added_ts,
        }
        for threepid in await caller.node.read(stored.threepids, caller.user_nid)
    ]


def _name(identifier: tuple[str, str]) -> str:
    return " ".join(identifier)


def route_of(medium: str, address: str) -> str:
    """The name under which the directory knows where a phone number or e-mail address rests."""
    return _name((medium, address))


async def owner(server: Server, identifier: tuple[str, str]) -> str | None:
    """The user id of whose account it is. Raises NodeUnavailable."""
    name = await server.nodes.directory.find(Kind.THREEPID, _name(identifier))
    return None if name is None else await server.nodes[name].read(stored.threepid_owner, *identifier)


async def proved_owner(server: Server, sid: str) -> str:
    """The user id of whose account it is that a session has proved to own. Raises ThreepidAuthFailed."""
    found = await owner(server, validation.proved(server, sid).identifier)
    if found is None:
        raise ThreepidAuthFailed("There is no account with that")
    return found


async def begin(server: Server, wish: Wish) -> str:
    """Have the ownership of an identifier proved; returns the session id.

    To set a password it must be somebody's, for everything else nobody's; if it is otherwise, only its owner is told.
    Raises InvalidParam, MediumNotSupported, ThreepidDenied, LimitExceeded, NotDelivered, NodeUnavailable.
    """
    wish.check()
    validation.check_permitted(server, wish.identifier)
    is_known = await owner(server, wish.identifier) is not None
    return await validation.begin(server, wish, fits=is_known is (wish.purpose is Purpose.PASSWORD))


def as_row(server: Server, proved: Proved) -> Threepid:
    """An identifier as an account gets it now."""
    return Threepid(*proved.identifier, proved.validated_ts, server.clock.now_ms())


@asynccontextmanager
async def claimed(server: Server, node: Node, threepids: Iterable[Threepid]) -> AsyncIterator[None]:
    """While somebody of this node is given these: nobody else is, and their routes lead to the node.

    Raises ThreepidInUse, NodeUnavailable. Afterwards a route that leads to no row is gone again.
    """
    directory = server.nodes.directory
    names = {(threepid.medium, threepid.address) for threepid in threepids}
    locks = directory.memory(_Locks).stripes
    async with AsyncExitStack() as stack:
        for stripe in sorted({directory.hash(Kind.THREEPID, _name(name))[0] % STRIPES for name in names}):
            await stack.enter_async_context(locks[stripe])
        for name in names:
            await _claim(server, node, name)
        try:
            yield
        except BaseException:
            for name in names:
                if await node.read(stored.threepid_owner, *name) is None:
                    await directory.release(Kind.THREEPID, _name(name))
            raise


async def _claim(server: Server, node: Node, identifier: tuple[str, str]) -> None:
    directory = server.nodes.directory
    there = await directory.claim(Kind.THREEPID, _name(identifier), node.name)
    if there != node.name:
        if await server.nodes[there].read(stored.threepid_owner, *identifier) is not None:
            raise ThreepidInUse("That belongs to an account already")
        await directory.reroute(Kind.THREEPID, _name(identifier), node.name)


async def add_within(tx: Transaction, user_nid: int, threepids: Iterable[Threepid]) -> None:
    """Give a resident what was `claimed`. Raises ThreepidInUse."""
    for threepid in threepids:
        if not await stored.add_threepid(tx, user_nid, threepid):
            raise ThreepidInUse("That belongs to an account already")


async def add(server: Server, caller: Caller, sid: str, client_secret: str) -> None:
    """Give the caller what a session has proved. Raises ThreepidAuthFailed, ThreepidInUse, NodeUnavailable.

    spec: client-server-api/#post_matrixclientv3account3pidadd
    """
    proved = validation.proof(server, Purpose.ADD, sid, client_secret)
    threepid = as_row(server, proved)
    async with claimed(server, caller.node, [threepid]):
        await caller.node.write(add_within, caller.user_nid, [threepid])
    validation.use(server, sid)


async def remove(server: Server, caller: Caller, identifier: Identifier) -> None:
    """Take an identifier away from the caller, if it is theirs.

    spec: client-server-api/#post_matrixclientv3account3piddelete
    """
    async with _locked(server, identifier):
        if await caller.node.write(stored.remove_threepid, caller.user_nid, *identifier):
            await server.nodes.directory.release(Kind.THREEPID, _name(identifier))


@asynccontextmanager
async def _locked(server: Server, identifier: tuple[str, str]) -> AsyncIterator[None]:
    directory = server.nodes.directory
    stripe = directory.hash(Kind.THREEPID, _name(identifier))[0] % STRIPES
    async with directory.memory(_Locks).stripes[stripe]:
        yield


async def forget_routes(server: Server, identifiers: Iterable[tuple[str, str]]) -> None:
    """Forget where identifiers lead that nobody has any more, such as those of a closed account."""
    for identifier in identifiers:
        async with _locked(server, identifier):
            if await owner(server, identifier) is None:
                await server.nodes.directory.release(Kind.THREEPID, _name(identifier))
