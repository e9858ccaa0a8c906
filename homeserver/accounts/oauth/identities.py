"""Who of us somebody is whom a provider has signed in; and the account of somebody who has none yet.

An identity rests on its owner's node; the directory has a keyed hash of it that leads there.

spec: client-server-api/#handling-the-callback-from-the-authentication-server
"""

from __future__ import annotations

import secrets
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from config.placement import Attributes, MustChoose, place
from homeserver.accounts import profile, registration
from homeserver.accounts.oauth import browsers
from homeserver.accounts.oauth.upstream import IN_TIME
from homeserver.accounts.registration import NewAccount
from homeserver.accounts.tokens import digest
from homeserver.protocol.errors import Forbidden, InvalidUsername, Refusal, UserInUse, UserLocked
from homeserver.protocol.identifiers import new_localpart
from homeserver.runtime.passing import Passing
from homeserver.runtime.turns import Turns
from homeserver.storage import upstream_identities as stored
from homeserver.storage.directory import Kind

if TYPE_CHECKING:
    from config.sections.signing_in import IdentityProvider
    from homeserver.accounts.oauth.upstream import Person
    from homeserver.context import Server
    from homeserver.storage.nodes import Node


class _Arrival(NamedTuple):
    """Somebody who has been signed in and has no account yet: in which browser, and where they go on."""

    person: Person
    mark: str
    onward: str


class _Arrivals(Passing[bytes, _Arrival]):
    """Those who are choosing a name, by the digest of what their form holds. One for the deployment."""


class _Registering(Turns):
    """Those for whom an account is being made, each in one place at a time. One for the deployment."""


def _name(person: Person) -> str:
    return route_of(person.provider.id, person.subject)


def route_of(provider: str, subject: str) -> str:
    """The name under which the directory knows where an identity at a provider rests."""
    return f"{provider} {subject}"


async def sign_in(server: Server, person: Person) -> str | None:
    """Sign the browser in of somebody who has an account; returns what it is to hold, None for whoever has none.

    Raises UserLocked, Forbidden for an account that is closed, NodeUnavailable.
    """
    name = await server.nodes.directory.find(Kind.UPSTREAM, _name(person))
    if name is None:
        return None
    node = server.nodes[name]
    found = await node.read(stored.find, person.provider.id, person.subject)
    if found is None:
        return None
    if found.deactivated:
        raise Forbidden("This account is closed.")
    if found.locked:
        raise UserLocked
    return await browsers.sign_in(server, node, found.user_id, found.user_nid)


def arrive(server: Server, person: Person, mark: str, onward: str) -> str:
    """Let somebody choose a name; returns what their form is to hold. Raises Forbidden where nobody new is let in."""
    _check_registers(person.provider)
    _attributes(server, person, None)
    arrivals, now = server.nodes.directory.memory(_Arrivals), server.clock.monotonic()
    pending = secrets.token_urlsafe(32)
    arrivals.put(digest(pending), _Arrival(person, mark, onward), now, IN_TIME)
    return pending


def _check_registers(asked: IdentityProvider) -> None:
    if not asked.registers:
        raise Forbidden("You have no account here, and this provider cannot make one.")


def arrived(server: Server, pending: str, mark: str) -> tuple[Person, str]:
    """Who is choosing a name, and where they go on. Raises Forbidden."""
    found = server.nodes.directory.memory(_Arrivals).get(digest(pending), server.clock.monotonic())
    if found is None or found.mark != mark:
        raise Forbidden("This sign-in has ended, or was begun in another browser. Begin again.")
    return found.person, found.onward


def suggestion(server: Server, person: Person) -> str:
    """A name for somebody new, from what the provider calls them; empty when none can be made of it.

    spec: appendices/#mapping-from-other-character-sets
    """
    called = person.claim(person.provider.localpart_claim) or ""
    plain = unicodedata.normalize("NFKD", called.partition("@")[0]).encode("ascii", "ignore").decode().lower()
    kept = "".join(letter if letter.isalnum() or letter in "._=-/+" else "_" for letter in plain)
    try:
        return new_localpart(kept.strip("_"), server.name)
    except InvalidUsername:
        return ""


def places(server: Server, person: Person) -> tuple[str, ...]:
    """The nodes between which somebody new chooses, if that is left to them."""
    placement = place(server.policy.now, _attributes(server, person, None))
    return placement.nodes if isinstance(placement, MustChoose) else ()


def _attributes(server: Server, person: Person, choice: str | None) -> Attributes:
    """What decides where the data of somebody new rests. Raises Forbidden when the provider's word leads nowhere."""
    code = _jurisdiction(person.provider, person)
    if code is None:
        return Attributes(choice=choice)
    nodes = [node.name for node in server.policy.now.nodes.values() if node.jurisdiction == code]
    if not nodes:
        raise Forbidden("There is no place for your data here.")
    return Attributes(node=nodes[0], named_by="provider")


def _jurisdiction(asked: IdentityProvider, person: Person) -> str | None:
    """The code that the provider, or what it says of somebody, stands for; None leaves it to the policy."""
    named = None if asked.jurisdiction_claim is None else person.claim(asked.jurisdiction_claim)
    if named is None and asked.jurisdiction is None and asked.jurisdiction_claim is not None:
        return ""  # it was to say so, and did not
    return asked.jurisdiction if named is None else named


async def register(server: Server, pending: str, mark: str, localpart: str, choice: str | None) -> tuple[str, str]:
    """Make the account of somebody who has chosen a name; returns what the browser is to hold, and where it goes on.

    Raises Forbidden, and what `registration.register` raises.
    """
    person, onward = arrived(server, pending, mark)
    attributes = _attributes(server, person, choice)
    node = server.nodes[registration.placed(server, attributes).node]
    await registration.check_available(server, localpart)
    wanted = NewAccount(
        localpart=localpart, password=None, attributes=attributes, identity=(person.provider.id, person.subject)
    )
    async with server.nodes.directory.memory(_Registering).alone(_name(person)):
        await _claim(server, node, person)
        made = await registration.register(server, wanted)
    server.nodes.directory.memory(_Arrivals).pop(digest(pending), server.clock.monotonic())
    token = await browsers.sign_in(server, *await browsers.account_of(server, made.user_id))
    await _call(server, token, person)
    return token, onward


async def _claim(server: Server, node: Node, person: Person) -> None:
    """Have the identity lead to this node, unless it leads to an account."""
    directory = server.nodes.directory
    there = await directory.claim(Kind.UPSTREAM, _name(person), node.name)
    if await server.nodes[there].read(stored.find, person.provider.id, person.subject) is not None:
        raise UserInUse("You have an account already")
    if there != node.name:
        await directory.reroute(Kind.UPSTREAM, _name(person), node.name)


async def _call(server: Server, token: str, person: Person) -> None:
    """Give somebody new the display name by which the provider knows them, if it can be one."""
    visitor = await browsers.find(server, token)
    display_name = person.claim(person.provider.display_name_claim)
    if visitor is not None and display_name is not None:
        try:
            await profile.set_field(server, visitor.caller, "displayname", display_name)
        except Refusal:
            return  # they can choose one themselves
