"""Who is calling: whose an access token is, and as whom an application service acts.

An access token that is in use is answered from memory. The memory of a user is dropped whenever a transaction that
ends or changes one of their sessions has committed, and what was read before that is not remembered after it.

spec: client-server-api/#client-authentication
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from homeserver.accounts import recipients, tokens
from homeserver.application_services import masquerade
from homeserver.context import Caller
from homeserver.protocol.errors import MissingToken, UnknownToken, UserLocked
from homeserver.protocol.identifiers import localpart_of
from homeserver.runtime.lru import Lru
from homeserver.storage import tokens as stored_tokens
from homeserver.storage.directory import Kind
from homeserver.storage.nodes import Mirror

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Hashable, Iterable

    from config.application_services import ApplicationService
    from homeserver.context import Server
    from homeserver.runtime.wakeups import Listener
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

REMEMBERED_BYTES = 32 * 1024 * 1024
"""Memory that the sessions of a node may take, as it is estimated."""

USER_BYTES = 500
SESSION_BYTES = 700
TOKENS_OF_A_USER = 100
"""How many are remembered; a user with more of them is asked for again."""


class _Known(NamedTuple):
    """An access token as it is remembered."""

    caller: Caller
    expires_ts: int | None
    locked: bool


class Remembered(Mirror):
    """The sessions of a node's users in memory, by directory hash of the user and digest of the token.

    ``generation`` counts what was forgotten, so that nothing read before that is remembered after it.

    A token is read once for all who come with it meanwhile, and they go on in the order in which they came: else who
    came later, and found it in memory, would overtake who still waits for the database.
    """

    def __init__(self) -> None:
        self._reading: dict[bytes, dict[bytes, asyncio.Future[_Known]]] = {}
        self._users: Lru[bytes, dict[bytes, _Known]] = Lru(
            REMEMBERED_BYTES, lambda tokens: USER_BYTES + SESSION_BYTES * len(tokens), "sessions"
        )
        self.generation = 0

    def find(self, token: tokens.Read) -> _Known | None:
        """What is known about a token."""
        of_user = self._users.get(token.owner)
        return None if of_user is None else of_user.get(token.digest)

    def knows(self, owner: bytes, digest: bytes) -> bool:
        """Whether a token is remembered."""
        return digest in (self._users.get(owner) or ())

    def remember(self, token: tokens.Read, known: _Known, generation: int) -> None:
        """Keep what was read while the generation was ``generation``."""
        if generation != self.generation:
            return
        of_user = self._users.get(token.owner)
        if of_user is None or len(of_user) >= TOKENS_OF_A_USER:
            of_user = {}
        of_user[token.digest] = known
        self._users[token.owner] = of_user  # weighed anew

    async def read(self, token: tokens.Read, load: Callable[[], Coroutine[Any, Any, _Known]]) -> _Known:
        """What ``load`` says of a token, now or when it was asked last and has not answered yet."""
        of_user = self._reading.setdefault(token.owner, {})
        reading = of_user.get(token.digest)
        if reading is None:
            reading = of_user[token.digest] = asyncio.ensure_future(load())
            reading.add_done_callback(lambda done: self._was_read(token, done))
        return await asyncio.shield(reading)

    def _was_read(self, token: tokens.Read, done: asyncio.Future[_Known]) -> None:
        of_user = self._reading.get(token.owner, {})
        if of_user.get(token.digest) is done:
            del of_user[token.digest]
            if not of_user:
                del self._reading[token.owner]
        if not done.cancelled():
            done.exception()  # whoever waits is told

    def forget(self, owner: bytes) -> None:
        """Forget a user's sessions: one of them has ended or changed."""
        self.generation += 1
        self._users.pop(owner)
        self._reading.pop(owner, None)

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.generation += 1
        self._users.clear()
        self._reading.clear()


def owner_hash(server: Server, localpart: str) -> bytes:
    """The directory's hash of a user: how tokens and memories name them."""
    return server.nodes.directory.hash(Kind.USER, localpart)


def forget(server: Server, node: Node, whose: str) -> None:
    """Drop a user's sessions and devices from memory; to be called after the commit that changed them."""
    node.memory(Remembered).forget(owner_hash(server, localpart_of(whose)))
    node.memory(masquerade.Masks).forget(whose)
    recipients.forget(node, whose)
    server.wakeups.wake(_changed(node, whose))


async def authenticate(server: Server, token: str, *, even_locked: bool = False) -> Caller:
    """Who has this access token. No trip to a database while the token is in memory.

    Raises UnknownToken (``soft_logout`` when it merely expired), UserLocked unless ``even_locked``, NodeUnavailable.

    spec: client-server-api/#using-access-tokens
    """
    read = tokens.read(tokens.ACCESS, token)
    known = await _known(server, read)
    if known.expires_ts is not None and known.expires_ts <= server.clock.now_ms():
        raise UnknownToken("The access token has expired", soft_logout=True)
    if known.locked and not even_locked:
        raise UserLocked
    return known.caller


async def _known(server: Server, read: tokens.Read) -> _Known:
    """What an access token stands for, wherever its owner is by now. Raises UnknownToken."""
    while True:
        node = await node_of(server, read)
        try:
            memory = node.memory(Remembered)
            return memory.find(read) or await memory.read(read, partial(_load, server, node, read))
        except UnknownToken:
            if await node_of(server, read) is node:
                raise


class Parameters(Protocol):
    """The parameters of a request's address."""

    def get(self, name: str) -> str | None:
        """The first value of one."""


class Asking(Protocol):
    """A request, as far as it says as whom an application service acts."""

    @property
    def query(self) -> Parameters:
        """Its parameters."""


async def identify(server: Server, token: str, request: Asking) -> Caller:
    """Who calls: the owner of an access token, or the user as whom the application service acts whose token it is.

    Raises what `authenticate` and `masquerade.caller` raise.

    spec: application-service-api/#identity-assertion
    """
    service = server.services.of_token(token) if server.services else None
    if service is None:
        return await authenticate(server, token)
    named = request.query.get
    device_id = named("device_id") or named("org.matrix.msc3202.device_id")
    return await masquerade.caller(server, service, named("user_id") or None, device_id or None)


def is_unlimited(server: Server, token: str | None) -> bool:
    """Whether no rate limit holds for what an application service does before it says as whom."""
    if token is None or not server.services:
        return False
    service = server.services.of_token(token)
    return service is not None and not service.rate_limited


def service_of(server: Server, token: str | None) -> ApplicationService:
    """The application service that registers a user, or logs one in. Raises MissingToken, UnknownToken.

    spec: application-service-api/#server-admin-style-permissions
    """
    if token is None:
        raise MissingToken("The token of an application service is needed")
    service = server.services.of_token(token)
    if service is None:
        raise UnknownToken("That is not the token of an application service")
    return service


async def node_of(server: Server, token: tokens.Read) -> Node:
    """Where the owner of a token is at home now. Raises UnknownToken for nobody."""
    name = await server.nodes.directory.find_hash(Kind.USER, token.owner)
    if not name:
        raise UnknownToken("Unrecognised access token")
    return server.nodes[name]


async def _load(server: Server, node: Node, token: tokens.Read) -> _Known:
    memory = node.memory(Remembered)
    generation = memory.generation
    session = await node.read(stored_tokens.find_access, token.digest)
    if session is None:
        raise UnknownToken("Unrecognised access token")
    known = _Known(
        Caller(
            user_id=session.user_id,
            localpart=localpart_of(session.user_id),
            node=node,
            user_nid=session.user_nid,
            device_id=session.device_id,
            device_nid=session.device_nid,
            admin=session.admin,
            guest=session.guest,
            suspended=session.suspended,
            oauth=session.oauth,
            epoch=session.epoch,
            came_pos=session.came_pos,
            token_hash=token.digest,
        ),
        session.expires_ts,
        session.locked,
    )
    in_time = session.expires_ts is None or session.expires_ts > server.clock.now_ms()
    if in_time and session.refresh_hash is not None:
        await node.write(_revoke_used, session.refresh_hash)
    if in_time:
        memory.remember(token, known, generation)
    return known


# while a request waits ----------------------------------------------------------------------


def listen(server: Server, caller: Caller, keys: Iterable[Hashable]) -> Listener:
    """`Wakeups.listen`, for a request of a caller that waits: see `stay`."""
    changed = _changed(caller.node, caller.user_id)
    listener = server.wakeups.listen([*keys, changed])
    token, memory = caller.token_hash, caller.node.memory(Remembered)
    if token is not None and not memory.knows(owner_hash(server, caller.localpart), token):
        listener.wake(changed)  # it may have changed before anybody listened
    return listener


async def stay(server: Server, caller: Caller, listener: Listener, woken: Collection[Hashable]) -> None:
    """Go on only while the caller's session stands: to be called before what was found is told.

    ``woken``: the keys that the listener, which is one of `listen`, has told of last. An access token that has expired
    meanwhile, or was exchanged for another, ends no session. Raises UnknownToken, UserLocked, NodeUnavailable.
    """
    changed = _changed(caller.node, caller.user_id)
    if caller.token_hash is not None and (changed in woken or changed in listener.woken):
        session = await caller.node.read(stored_tokens.find_access, caller.token_hash)
        if session is None and await server.nodes.of_user(caller.user_id) is caller.node:  # else they moved meanwhile
            raise UnknownToken("This device was logged out")
        if session is not None and session.locked:
            raise UserLocked


def _changed(node: Node, user_id: str) -> Hashable:
    """What is woken when sessions of a user have ended or changed."""
    return ("sessions", node.name, user_id)


async def _revoke_used(tx: Transaction, refresh_hash: bytes) -> None:
    stored_tokens.revoke_used(tx, refresh_hash)
