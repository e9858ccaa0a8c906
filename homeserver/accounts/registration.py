"""Making accounts: a name is claimed in the directory first, then the account is written on the node of the route.

A crash in between leaves a route without an account, which the next registration of that name on the same node
takes over; on another node the name stays taken.

spec: client-server-api/#legacy-account-registration
"""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from config.placement import Attributes, MustChoose, Pinned, place
from homeserver.accounts import (
    callers,
    contacts,
    devices,
    letters,
    passwords,
    registration_tokens,
    sessions,
    validation,
)
from homeserver.accounts.interactive import DUMMY, NODE, REGISTRATION_TOKEN, STAGE_OF, Offer
from homeserver.accounts.sessions import DeviceWish
from homeserver.application_services import exclusive
from homeserver.protocol.errors import (
    Forbidden,
    InvalidParam,
    InvalidUsername,
    NodeUnavailable,
    NotFound,
    Refusal,
    Unauthorized,
    UserInUse,
    UserLocked,
)
from homeserver.protocol.identifiers import localpart_of, new_localpart, user_id
from homeserver.protocol.threepids import MSISDN
from homeserver.storage import accounts as stored
from homeserver.storage import browser_sessions, pins, upstream_identities
from homeserver.storage.directory import Kind
from homeserver.storage.pins import PinEvidence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from config.application_services import ApplicationService
    from homeserver.accounts.sessions import Login
    from homeserver.context import Caller, Server
    from homeserver.storage.accounts import Threepid
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAccount:
    """The account that is wanted. Without ``password`` nobody can log in to it; without ``device`` nobody is logged in.

    ``attributes`` decide where it rests. ``threepids`` are verified phone numbers and addresses. ``identity``: by which
    provider, and as which subject there, its owner signs in; the caller has claimed its route. ``service``: the
    application service that makes it.
    """

    localpart: str
    password: str | None
    attributes: Attributes
    admin: bool = False
    guest: bool = False
    threepids: tuple[Threepid, ...] = ()
    device: DeviceWish | None = None
    identity: tuple[str, str] | None = None
    service: ApplicationService | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """An account that was made."""

    user_id: str
    node: str
    login: Login | None = None


def flows(server: Server) -> Sequence[Sequence[str]]:
    """The flows by which anybody may register. Raises Forbidden when nobody may.

    A flow that asks for nothing, or for a token only, ends with m.login.dummy: with that some clients finish whatever
    else they were asked, and it tells the flow from those that ask for more. What somebody may prove besides what they
    must comes first, so that no shorter flow is complete before.
    """
    mode = server.settings.registration.mode
    if mode == "closed":
        raise Forbidden("Registration is not open on this server")
    token = (REGISTRATION_TOKEN,) if mode == "token" else ()
    needed = server.settings.registration.verify
    offered = [medium for medium in STAGE_OF if medium not in needed and letters.is_possible(server, medium)]
    must = tuple(STAGE_OF[medium] for medium in needed)
    least = (*token, *(must or (DUMMY,)))
    return (least, *((*token, STAGE_OF[medium], *must) for medium in offered))


def offer(server: Server, choice: str | None, completed: Mapping[str, str]) -> Offer:
    """What somebody is asked who registers: the flows and, where the policy leaves the place of their data to them and
    the client has not said it for them (``choice``), that too.

    Whether it does may depend on what other stages establish; it is asked for as soon as these are completed.
    Raises Forbidden when nobody may register, ThreepidAuthFailed for a proof that has ended meanwhile.
    """
    offered = flows(server)
    telling = {*STAGE_OF.values(), REGISTRATION_TOKEN}
    nodes: dict[str, None] = {}
    asked: list[Sequence[str]] = []
    for flow in offered:
        placement = None
        if telling.intersection(flow) <= completed.keys():
            placement = place(server.policy.now, attributes_of(server, completed, choice))
        if isinstance(placement, MustChoose):
            nodes |= dict.fromkeys(placement.nodes)
        chosen = placement is not None and NODE in completed
        asked.append((*flow, NODE) if chosen or isinstance(placement, MustChoose) else flow)
    if not nodes:
        return Offer(asked)
    choices = _choices(server, list(nodes))
    reason = {"org.domicile.reason": "node_choice_needed", "org.domicile.nodes": choices}
    return Offer(asked, {NODE: {"nodes": choices}}, reason)


def attributes_of(server: Server, completed: Mapping[str, str], choice: str | None) -> Attributes:
    """What decides where the data of somebody rests who has completed these stages. Raises ThreepidAuthFailed for a
    proof that has ended meanwhile."""
    sid = completed.get(STAGE_OF[MSISDN])
    return Attributes(
        phone=None if sid is None else validation.proved(server, sid).identifier.address,
        token=completed.get(REGISTRATION_TOKEN),
        choice=completed.get(NODE, choice),
    )


def _choices(server: Server, nodes: Sequence[str]) -> list[dict[str, Any]]:
    """Nodes to choose from, as clients are told of them."""
    policy = server.policy.now
    found = []
    for name in nodes:
        if name in server.policy.withdrawn:
            continue
        code = policy.jurisdiction_of_node(name)
        languages = list(policy.jurisdictions[code].languages)
        found.append({"node": name, "jurisdiction": code, "name": policy.label(code), "languages": languages})
    return found


async def check_available(server: Server, username: str, service: ApplicationService | None = None) -> str:
    """The localpart for a username that could be registered now, by an application service or by somebody else. Raises
    InvalidUsername, UserInUse, Exclusive.

    spec: client-server-api/#get_matrixclientv3registeravailable
    """
    localpart = new_localpart(username, server.name)
    whose = user_id(localpart, server.name)
    exclusive.check_user(server, whose, service)
    node = await server.nodes.of_user(whose)
    if node is not None and await node.read(stored.find, whose) is not None:
        raise UserInUse("That username is taken")
    return localpart


async def register_guest(server: Server, display_name: str | None) -> Registered:
    """Make an account for a guest, and log its one device in. Raises Forbidden where there are none, InvalidParam.

    spec: client-server-api/#guest-access
    """
    if not server.settings.registration.guests:
        raise Forbidden("This server has no guest accounts")
    wanted = NewAccount(
        localpart="".join(secrets.choice(string.digits) for _ in range(12)),
        password=None,
        attributes=Attributes(may_ask=False),
        guest=True,
        device=DeviceWish(display_name=display_name),
    )
    return await register(server, wanted)


async def check_upgrade(server: Server, guest_access_token: str, username: str | None) -> Caller:
    """The guest who is to become a user under the name that they have. Raises UnknownToken, Forbidden, InvalidUsername.

    spec: client-server-api/#guest-access
    """
    guest = await callers.authenticate(server, guest_access_token)
    if not guest.guest:
        raise Forbidden("That is not the access token of a guest")
    if username is None or username.lower() != guest.localpart:
        raise InvalidUsername("A guest keeps the name that they have: it must be given as username")
    return guest


async def upgrade(server: Server, guest: Caller, wanted: NewAccount) -> Registered:
    """Make a user of a guest, whose account stays where it rests. Raises what `register` raises."""
    if wanted.device is not None:
        wanted.device.check()
    if wanted.password is not None:
        passwords.check_strength(server, wanted.password)
    password_hash = None if wanted.password is None else await passwords.hashed(server, wanted.password)
    token = wanted.attributes.token
    if token is not None and not await registration_tokens.use(server, token):
        raise Unauthorized("This registration token does not hold any more")
    try:
        async with contacts.claimed(server, guest.node, wanted.threepids):
            login = await guest.node.write(_upgrade, server, guest, password_hash, wanted)
    except Refusal:
        if token is not None:
            await registration_tokens.give_back(server, token)
        raise
    return Registered(guest.user_id, guest.node.name, login)


async def _upgrade(
    tx: Transaction, server: Server, guest: Caller, password_hash: str | None, wanted: NewAccount
) -> Login | None:
    if not await stored.make_user(tx, guest.user_nid, password_hash):
        raise Forbidden("That is a guest no more")
    await contacts.add_within(tx, guest.user_nid, wanted.threepids)
    tx.after_commit(lambda: callers.forget(server, guest.node, guest.user_id))
    if wanted.device is None:
        return None
    return await sessions.open_session(tx, server, guest.user_id, guest.user_nid, wanted.device)


def random_localpart() -> str:
    """A name for somebody who did not ask for one."""
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(12))


def placed(server: Server, attributes: Attributes) -> Pinned:
    """Where an account with these attributes rests, and why. Raises Forbidden in the policy's words."""
    placement = place(server.policy.now, attributes)
    if isinstance(placement, Pinned):
        if placement.node in server.policy.withdrawn:
            place_name = server.policy.now.label(server.policy.now.jurisdiction_of_node(placement.node))
            raise Forbidden(f"No accounts are made in {place_name} any more.", **{"org.domicile.reason": "withdrawn"})
        return placement
    if isinstance(placement, MustChoose):
        choices = _choices(server, placement.nodes)
        raise Forbidden(
            "Choose where your data is to rest.",
            **{"org.domicile.reason": "node_choice_needed", "org.domicile.nodes": choices},
        )
    raise Forbidden(placement.message, **{"org.domicile.reason": "not_offered"})


async def register(server: Server, wanted: NewAccount) -> Registered:
    """Make an account. A registration token among the attributes is used up by one.

    Raises InvalidUsername, UserInUse, Exclusive, ThreepidInUse, WeakPassword, InvalidParam, Forbidden (the policy has
    no place, too many devices), Unauthorized (the token does not hold any more), NodeUnavailable.
    """
    localpart = new_localpart(wanted.localpart, server.name)
    if wanted.device is not None:
        wanted.device.check()
    if wanted.password is not None:
        passwords.check_strength(server, wanted.password)
    pinned = placed(server, wanted.attributes)
    node = server.nodes[pinned.node]
    await check_available(server, localpart, wanted.service)
    password_hash = None if wanted.password is None else await passwords.hashed(server, wanted.password)
    token = wanted.attributes.token
    if token is not None and not await registration_tokens.use(server, token):
        raise Unauthorized("This registration token does not hold any more")
    try:
        return await _claim(server, node, localpart, password_hash, wanted, pinned)
    except Refusal:
        if token is not None:
            await registration_tokens.give_back(server, token)
        raise


async def _claim(
    server: Server, node: Node, localpart: str, password_hash: str | None, wanted: NewAccount, pinned: Pinned
) -> Registered:
    claimed = await server.nodes.directory.claim(Kind.USER, localpart, node.name)
    if claimed != node.name:
        raise UserInUse("That username is taken")
    whose = user_id(localpart, server.name)
    async with contacts.claimed(server, node, wanted.threepids):
        login = await node.write(_create, server, whose, password_hash, wanted, pinned)
    return Registered(whose, node.name, login)


async def _create(
    tx: Transaction, server: Server, whose: str, password_hash: str | None, wanted: NewAccount, pinned: Pinned
) -> Login | None:
    if tx.node in server.policy.leaving:  # it was not when the place was chosen
        raise NodeUnavailable(tx.node)
    now = server.clock.now_ms()
    user_nid = await stored.create(tx, whose, password_hash, now, admin=wanted.admin, guest=wanted.guest)
    if user_nid is None:
        raise UserInUse("That username is taken")
    pins.put(tx, user_nid, PinEvidence(pinned.how, pinned.conditions, now))
    await contacts.add_within(tx, user_nid, wanted.threepids)
    if wanted.identity is not None and not await upstream_identities.put(tx, *wanted.identity, user_nid):
        raise UserInUse("You have an account already")
    if wanted.device is None:
        return None
    return await sessions.open_session(tx, server, whose, user_nid, wanted.device)


async def change_password(
    server: Server, node: Node, whose: str, password: str, *, log_out: bool, but: str | None = None
) -> None:
    """Give an account another password; with ``log_out`` every device goes, except the device ``but``.

    Browsers that are signed in to our pages are so no more.

    Raises WeakPassword, InvalidParam. spec: client-server-api/#post_matrixclientv3accountpassword
    """
    passwords.check_strength(server, password)
    password_hash = await passwords.hashed(server, password)
    await node.advance(_change_password, server, node, whose, password_hash, log_out, but)


async def change_own_password(
    server: Server, whose: str, password: str, *, log_out: bool, but: str | None = None
) -> None:
    """`change_password` for whoever has proved to own the account. Raises UserLocked."""
    node = await server.nodes.of_user(whose)
    account = None if node is None else await node.read(stored.find, whose)
    if node is None or account is None:
        raise NotFound("There is no such user")
    if account.locked:
        raise UserLocked
    await change_password(server, node, whose, password, log_out=log_out, but=but)


async def _change_password(
    tx: Transaction, server: Server, node: Node, whose: str, password_hash: str, log_out: bool, but: str | None
) -> None:
    account = await stored.find(tx, whose)
    if account is None or account.deactivated_ts is not None:
        raise InvalidParam(f"There is no account {localpart_of(whose)}")
    await stored.set_password(tx, account.user_nid, password_hash)
    tx.after_commit(lambda: callers.forget(server, node, whose))  # a service acts as them no more
    browser_sessions.drop_of(tx, account.user_nid)
    if log_out:
        await devices.remove_within(tx, server, node, whose, account.user_nid, None, but=but)
