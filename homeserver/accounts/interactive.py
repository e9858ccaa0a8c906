"""User-interactive authentication: an operation is performed once its caller has completed the stages of a flow.

A session belongs to one operation on one address by one user, with the parameters that it was begun with: what
somebody confirmed is what is done. Sessions are kept in memory, bounded in number and in time.

spec: client-server-api/#user-interactive-authentication-api
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from homeserver.accounts import passwords, registration_tokens, sessions, validation
from homeserver.accounts.identifying import named_user, text_of
from homeserver.accounts.letters import Purpose
from homeserver.protocol import threepids
from homeserver.protocol.errors import (
    BadJson,
    Forbidden,
    MissingParam,
    Refusal,
    ThreepidAuthFailed,
    Unauthenticated,
    Unauthorized,
    UserLocked,
)
from homeserver.runtime.passing import Passing

if TYPE_CHECKING:
    from homeserver.context import Caller, Server

PASSWORD: Final = "m.login.password"  # noqa: S105  # the name of a stage
DUMMY: Final = "m.login.dummy"
REGISTRATION_TOKEN: Final = "m.login.registration_token"  # noqa: S105
EMAIL_IDENTITY: Final = "m.login.email.identity"
MSISDN_IDENTITY: Final = "m.login.msisdn"
OAUTH: Final = "m.oauth"
SSO: Final = "m.login.sso"
NODE: Final = "org.domicile.node"
"""The stage in which somebody chooses where their data is to rest; clients that do not know it show its page."""
STAGE_OF: Final = {threepids.MSISDN: MSISDN_IDENTITY, threepids.EMAIL: EMAIL_IDENTITY}
"""The stage in which the ownership of an identifier is proved, by its medium."""

Flow = Sequence[str]
BY_PASSWORD: Final[Sequence[Flow]] = ((PASSWORD,),)
"""The flows of what only the owner of an account may do."""
BY_BROWSER: Final[Sequence[Flow]] = ((SSO,),)
"""The same, of an account without a password: its owner signs in to our pages, and confirms it there."""


class Offer(NamedTuple):
    """What somebody is asked who has completed certain stages. ``params``: what stages tell clients; ``fields``: what
    else the answer says."""

    flows: Sequence[Flow]
    params: Mapping[str, Any] = MappingProxyType({})
    fields: Mapping[str, Any] = MappingProxyType({})


Flows = Sequence[Flow] | Callable[[Mapping[str, str]], Offer]
"""Flows that are the same whatever has been completed, or what tells them by what each completed stage established."""


def _offered(flows: Flows, completed: Mapping[str, str]) -> Offer:
    return flows(completed) if callable(flows) else Offer(flows)


@dataclass(frozen=True, slots=True)
class Operation:
    """What is to be authorised. ``user_id`` is the caller; None where nobody has logged in.

    ``purpose``: for what an identifier may have been verified that is a stage here. ``params``: what stages tell
    clients, whatever has been completed.
    """

    method: str
    path: str
    user_id: str | None = None
    purpose: Purpose | None = None
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Session:
    """One authentication under way. ``completed``: what each completed stage established; ``stages``: those that were
    offered last."""

    operation: Operation
    parameters: bytes | None = None
    completed: dict[str, str] = field(default_factory=dict)
    stages: Collection[str] = ()


class Sessions(Passing[str, _Session]):
    """The sessions under way, by their ids. One for the deployment."""

    def begin(self, server: Server, operation: Operation) -> tuple[str, _Session]:
        """A new session and its id."""
        session, session_id = _Session(operation), secrets.token_urlsafe(18)
        lifetime = server.settings.sessions.authentication_lifetime
        self.put(session_id, session, server.clock.monotonic(), lifetime.seconds)
        return session_id, session


async def by_owner(caller: Caller) -> Sequence[Flow]:
    """The flows of what only the caller may do."""
    return BY_PASSWORD if caller.guest or await passwords.has_password(caller) else BY_BROWSER


async def require(
    server: Server,
    operation: Operation,
    flows: Flows,
    body: Mapping[str, Any],
    *,
    confirmed: Callable[[], bool] | None = None,
) -> Mapping[str, str]:
    """Let pass whoever has completed one of the flows with the ``auth`` of this body.

    Returns what each stage established: the user id for m.login.password and m.login.sso, the token for
    m.login.registration_token, the session of the verification for m.login.email.identity and m.login.msisdn (see
    `validation.proved`). ``confirmed`` says, of whoever comes back without a stage, whether they have completed m.oauth
    in a browser.
    Raises Unauthenticated, which is the answer that asks for more; BadJson and MissingParam for a malformed ``auth``;
    LimitExceeded.
    """
    under_way = server.nodes.directory.memory(Sessions)
    auth = body.get("auth")
    parameters = _digest(server, body)
    if auth is None:
        session_id, session = under_way.begin(server, operation)
        session.parameters = parameters
        raise Unauthenticated(_challenge(session_id, session, _offered(flows, {})))
    if not isinstance(auth, dict):
        raise BadJson("auth must be an object")
    session_id, session = _session(server, under_way, operation, flows, auth)
    if session.parameters is None:
        session.parameters = parameters
    elif session.parameters != parameters:
        raise Forbidden("The parameters of the request changed during its authentication")
    stage = auth.get("type")
    if stage is not None and not isinstance(stage, str):
        raise BadJson("auth.type must be a string")
    if stage is not None and stage not in session.completed:
        await _attempt(server, session_id, session, _offered(flows, session.completed), stage, auth)
    elif confirmed is not None and not _is_complete(session, _offered(flows, session.completed)) and confirmed():
        session.completed[OAUTH] = ""
    offer = _offered(flows, session.completed)
    if not _is_complete(session, offer):
        raise Unauthenticated(_challenge(session_id, session, offer))
    under_way.pop(session_id, server.clock.monotonic())  # its operation is performed now
    return session.completed


def _is_complete(session: _Session, offer: Offer) -> bool:
    return any(set(flow) <= session.completed.keys() for flow in offer.flows)


def established(server: Server, session_id: str, purpose: Purpose) -> Mapping[str, str] | None:
    """What each completed stage of a session has established: for the page of a stage. None: it has ended, or is for
    something else."""
    session = server.nodes.directory.memory(Sessions).get(session_id, server.clock.monotonic())
    return session.completed if session is not None and session.operation.purpose is purpose else None


def waiting(server: Server, session_id: str, stage: str) -> Operation:
    """What a session is to authorise in which a stage has been offered. Raises Forbidden."""
    session = server.nodes.directory.memory(Sessions).get(session_id, server.clock.monotonic())
    if session is None or stage not in session.stages:
        raise Forbidden("This has ended. Go back to your client, and begin again there.")
    return session.operation


async def attempt(server: Server, session_id: str, stage: str, fields: Mapping[str, Any]) -> None:
    """Complete a stage on its page, by what would stand in ``auth``. Raises what the stage raises, and Forbidden."""
    operation = waiting(server, session_id, stage)
    complete(server, session_id, stage, await _STAGES[stage](server, operation, fields))


def complete(server: Server, session_id: str, stage: str, value: str) -> None:
    """Note what somebody has established on the page of a stage, which has seen that the session is under way."""
    session = server.nodes.directory.memory(Sessions).get(session_id, server.clock.monotonic())
    if session is not None:
        session.completed[stage] = value


def check_legacy(caller: Caller) -> None:
    """Raise Forbidden for what an OAuth client leaves to the pages of account management.

    spec: client-server-api/#oauth-20-api
    """
    if caller.oauth:
        raise Forbidden("Clients that sign in by OAuth 2.0 leave this to the account management page")


def _session(
    server: Server, under_way: Sessions, operation: Operation, flows: Flows, auth: Mapping[str, Any]
) -> tuple[str, _Session]:
    """The session that a client goes on with, or a new one for a client that begins with a stage."""
    session_id = auth.get("session")
    if session_id is None:
        return under_way.begin(server, operation)
    if not isinstance(session_id, str):
        raise BadJson("auth.session must be a string")
    session = under_way.get(session_id, server.clock.monotonic())
    if session is None:
        session_id, session = under_way.begin(server, operation)
        failure = Forbidden("The authentication session has ended; start again")
        raise Unauthenticated(_challenge(session_id, session, _offered(flows, {})), failure)
    if session.operation != operation:
        raise Forbidden("This authentication session belongs to another request")
    return session_id, session


_MAY_CHANGE: Final = frozenset(
    ("auth", "device_id", "initial_device_display_name", "inhibit_login", "refresh_token", NODE)
)


def _digest(server: Server, body: Mapping[str, Any]) -> bytes | None:
    """A keyed digest of the parameters, for they hold passwords; None when there are none.

    Clients ask for the flows with an empty request before they know the parameters, and some name the device that is
    to be logged in only in their last one.
    """
    parameters = {name: value for name, value in body.items() if name not in _MAY_CHANGE}
    if not parameters:
        return None
    return server.identity.tag("interactive", orjson.dumps(parameters, option=orjson.OPT_SORT_KEYS).decode())


def _challenge(session_id: str, session: _Session, offer: Offer) -> dict[str, Any]:
    session.stages = {stage for flow in offer.flows for stage in flow}
    challenge: dict[str, Any] = {
        "flows": [{"stages": list(flow)} for flow in offer.flows],
        "params": {**session.operation.params, **offer.params},
        "session": session_id,
        **offer.fields,
    }
    if session.completed:
        challenge["completed"] = list(session.completed)
    return challenge


async def _attempt(
    server: Server, session_id: str, session: _Session, offer: Offer, stage: str, auth: Mapping[str, Any]
) -> None:
    """Try a stage; a failure is part of the answer that asks again."""
    if not any(stage in flow for flow in offer.flows):
        failure: Refusal = Forbidden("This kind of authentication is not offered here")
        raise Unauthenticated(_challenge(session_id, session, offer), failure)
    told = replace(session.operation, params=offer.params)
    try:
        session.completed[stage] = await _STAGES[stage](server, told, auth)
    except (Forbidden, Unauthorized, ThreepidAuthFailed) as failure:
        raise Unauthenticated(_challenge(session_id, session, offer), failure) from None


def _text(auth: Mapping[str, Any], name: str) -> str:
    return text_of(auth, name, f"auth.{name}")


async def _dummy(_server: Server, _operation: Operation, _auth: Mapping[str, Any]) -> str:
    """spec: client-server-api/#dummy-auth"""
    return ""


async def _registration_token(server: Server, _operation: Operation, auth: Mapping[str, Any]) -> str:
    """spec: client-server-api/#token-authenticated-registration"""
    token = _text(auth, "token")
    if not await registration_tokens.is_valid(server, token):
        raise Unauthorized("This registration token does not hold")
    return token


async def _email_identity(server: Server, operation: Operation, auth: Mapping[str, Any]) -> str:
    """spec: client-server-api/#email-based-identity--homeserver"""
    return _identity(server, operation, auth, threepids.EMAIL)


async def _msisdn_identity(server: Server, operation: Operation, auth: Mapping[str, Any]) -> str:
    """spec: client-server-api/#phone-numbermsisdn-based-identity--homeserver"""
    return _identity(server, operation, auth, threepids.MSISDN)


async def _node(_server: Server, operation: Operation, auth: Mapping[str, Any]) -> str:
    """The node that a client names by itself, of those between which its user may choose."""
    node = _text(auth, "node")
    if node not in [each["node"] for each in operation.params[NODE]["nodes"]]:
        raise Forbidden("That is none of the places between which you choose")
    return node


def _identity(server: Server, operation: Operation, auth: Mapping[str, Any], medium: str) -> str:
    # COMPAT(matrix-js-sdk, 2019): threepidCreds is what it was called before it was specified.
    credentials = auth.get("threepid_creds", auth.get("threepidCreds"))
    if credentials is None:
        raise MissingParam("Missing parameter: auth.threepid_creds")
    if not isinstance(credentials, dict):
        raise BadJson("auth.threepid_creds must be an object")
    sid, client_secret = text_of(credentials, "sid"), text_of(credentials, "client_secret")
    if operation.purpose is None:
        raise Forbidden("This kind of authentication is not offered here")
    validation.proof(server, operation.purpose, sid, client_secret, medium)
    return sid


async def _password(server: Server, operation: Operation, auth: Mapping[str, Any]) -> str:
    """spec: client-server-api/#password-based"""
    whose = sessions.full_user_id(server, await named_user(server, auth))
    password = _text(auth, "password")
    if operation.user_id is not None and whose != operation.user_id:
        raise Forbidden("That is not the account that you are logged in to")
    verified = await passwords.verify(server, whose, password)
    if verified is None:
        raise Forbidden("Invalid password")
    if verified[1].locked:
        raise UserLocked
    return whose


async def _sso(_server: Server, _operation: Operation, _auth: Mapping[str, Any]) -> str:
    """spec: client-server-api/#single-sign-on"""
    raise Forbidden("This is confirmed in a browser, at the address of its fallback")


_STAGES: Final[Mapping[str, Callable[[Server, Operation, Mapping[str, Any]], Awaitable[str]]]] = {
    DUMMY: _dummy,
    SSO: _sso,
    REGISTRATION_TOKEN: _registration_token,
    PASSWORD: _password,
    EMAIL_IDENTITY: _email_identity,
    MSISDN_IDENTITY: _msisdn_identity,
    NODE: _node,
}
