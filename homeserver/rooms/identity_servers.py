"""Asks identity servers: whose an address is, to keep an invitation for whoever gets it, and whether a key still holds.

Only those are asked that the operator has named, and only where the residency policy lets `events` go: that somebody
wants to have somebody in a room. Addresses go there as hashes; in the clear only with an invitation that is to be kept.

spec: identity-service-api/
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import orjson
import structlog

from config.residency import DataClass
from homeserver.protocol.errors import Forbidden, InvalidParam, MediumNotSupported, ServerNotTrusted, ServerUnreachable
from homeserver.protocol.identifiers import is_user_id
from homeserver.protocol.signing import encode_base64_url
from homeserver.residency import gate, places, traffic
from homeserver.runtime.exchange import Unreachable
from homeserver.runtime.outbound import place_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from homeserver.context import Server
    from homeserver.protocol.threepids import Identifier
    from homeserver.runtime.exchange import Answer
    from homeserver.storage.nodes import Node

log = structlog.get_logger("rooms.identity")

API: Final = "/_matrix/identity/v2"
SECONDS: Final = 20.0
"""How long an identity server may take to answer."""
MOST_BYTES: Final = 256 * 1024

_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,4096}")
_ERRCODE: Final = re.compile(r"[A-Z][A-Z_.]{0,99}")


@dataclass(frozen=True, slots=True)
class IdentityServer:
    """An identity server that a client names (host and port), and the token that the client has there."""

    name: str
    token: str


def check(server: Server, node: Node, named: IdentityServer) -> str:
    """The jurisdiction of an identity server that may be asked on behalf of a user of ``node``.

    Raises ServerNotTrusted where the operator does not allow it, InvalidParam for a token that is none, FlowDenied.
    """
    if not _is_allowed(server, named.name):
        allowed = server.settings.third_party_invites.identity_servers
        those = f"only {', '.join(allowed)}" if allowed else "none, so nobody can be invited by an address"
        raise ServerNotTrusted(f"This server does not ask the identity server {named.name[:255]}: it asks {those}")
    if not _TOKEN.fullmatch(named.token):
        raise InvalidParam("'id_access_token' cannot be a token")
    there = places.of_place(server, place_of(f"https://{named.name}")[0])
    gate.check(server, DataClass.EVENTS, node.jurisdiction, there)
    return there


def _is_allowed(server: Server, name: str) -> bool:
    return name.lower() in (each.lower() for each in server.settings.third_party_invites.identity_servers)


async def look_up(
    server: Server, node: Node, named: IdentityServer, identifiers: Collection[Identifier]
) -> dict[Identifier, str]:
    """The users of those addresses that are somebody's, by what an identity server says.

    Raises what `check` does, Forbidden when it does not take the token, ServerUnreachable.
    spec: identity-service-api/#post_matrixidentityv2lookup
    """
    for _ in range(2):  # the pepper may change between question and answer
        pepper = await _pepper(server, node, named)
        hashes = {_hash(identifier, pepper): identifier for identifier in identifiers}
        body = {"algorithm": "sha256", "pepper": pepper, "addresses": list(hashes)}
        status, found = await _ask(server, node, named, "POST", f"{API}/lookup", body)
        if status != 400 or found.get("errcode") != "M_INVALID_PEPPER":
            break
    mappings = _taken(named, status, found).get("mappings")
    if not isinstance(mappings, dict):
        raise _nonsense(named, "mappings")
    users = {hashes[key]: user_id for key, user_id in mappings.items() if key in hashes}
    if not all(isinstance(user_id, str) and is_user_id(user_id) for user_id in users.values()):
        raise _nonsense(named, "a user id")
    return users


async def _pepper(server: Server, node: Node, named: IdentityServer) -> str:
    details = _taken(named, *await _ask(server, node, named, "GET", f"{API}/hash_details"))
    pepper, algorithms = details.get("lookup_pepper"), details.get("algorithms")
    if not isinstance(pepper, str) or not isinstance(algorithms, list) or "sha256" not in algorithms:
        raise _nonsense(named, "a hash")  # in the clear nobody is looked up
    return pepper


def _hash(identifier: Identifier, pepper: str) -> str:
    """spec: identity-service-api/#sha256"""
    return encode_base64_url(sha256(f"{identifier.address} {identifier.medium} {pepper}".encode()).digest())


async def keep(
    server: Server, node: Node, named: IdentityServer, identifier: Identifier, details: Mapping[str, str]
) -> dict[str, Any]:
    """Have an invitation kept for an address, and its owner told; ``details``: what else is said of it. Returns the
    answer as it is, or the one that says whose the address is by now (``mxid``).

    Raises what `look_up` does, MediumNotSupported where invitations are kept for e-mail addresses only.
    spec: identity-service-api/#post_matrixidentityv2store-invite
    """
    body = {"medium": identifier.medium, "address": identifier.address, **details}
    status, answer = await _ask(server, node, named, "POST", f"{API}/store-invite", body)
    errcode = answer.get("errcode")
    if status == 400 and errcode == "M_THREEPID_IN_USE" and is_user_id(str(answer.get("mxid"))):
        return answer
    if status == 400 and errcode == "M_UNRECOGNIZED":
        raise MediumNotSupported("Nobody has that address there, and it keeps no invitations for addresses like it")
    return _taken(named, status, answer)


def is_asked_at(server: Server, url: str) -> bool:
    """Whether a web address is one of an identity server that the operator allows."""
    try:
        place, _ = place_of(url)
    except Unreachable:
        return False
    return _is_allowed(server, place.host)


async def holds(server: Server, node: Node, url: str, public_key: str) -> bool:
    """Whether an identity server says, at the address that it gave for that, that a key of its is still valid.

    False too for an address elsewhere than at those that the operator allows. Raises FlowDenied, ServerUnreachable.
    spec: identity-service-api/#get_matrixidentityv2pubkeyisvalid
    """
    if not is_asked_at(server, url):
        return False
    place, target = place_of(url)
    named = IdentityServer(place.host, "")
    gate.check(server, DataClass.EVENTS, node.jurisdiction, places.of_place(server, place))
    mark = "&" if "?" in target else "?"
    status, answer = await _ask(server, node, named, "GET", f"{target}{mark}public_key={quote(public_key, safe='')}")
    return status == 200 and answer.get("valid") is True


async def _ask(
    server: Server, node: Node, named: IdentityServer, method: str, target: str, body: object = None
) -> tuple[int, dict[str, Any]]:
    """Ask, and give the status and the object that came."""
    place, _ = place_of(f"https://{named.name}")
    raw = b"" if body is None else orjson.dumps(body)
    headers = {"Authorization": f"Bearer {named.token}"} if named.token else {}
    if raw:
        headers["Content-Type"] = "application/json"
    try:
        answer = await server.outbound.request(
            method, place, target, headers=headers, body=raw, most=MOST_BYTES, seconds=SECONDS
        )
    except (Unreachable, ValueError) as fault:
        log.info("an identity server gave no answer", server=named.name, fault=str(fault))
        raise ServerUnreachable(f"The identity server {named.name} does not answer") from None
    there = places.of_place(server, place)
    traffic.count(server, node.jurisdiction, there, len(raw))
    traffic.count(server, there, node.jurisdiction, len(answer.body))
    return answer.status, _object(named, answer)


def _object(named: IdentityServer, answer: Answer) -> dict[str, Any]:
    try:
        found = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise _nonsense(named, "a JSON object")
    return found


def _taken(named: IdentityServer, status: int, answer: dict[str, Any]) -> dict[str, Any]:
    """An answer, if it is one of success. Raises Forbidden, ServerUnreachable."""
    if status == 200:
        return answer
    code = answer.get("errcode")
    why = code if isinstance(code, str) and _ERRCODE.fullmatch(code) else f"status {status}"
    log.info("an identity server refused", server=named.name, status=status, errcode=why)
    if status in (401, 403):
        raise Forbidden(f"The identity server {named.name} does not let you: {why}")
    raise ServerUnreachable(f"The identity server {named.name} did not do it: {why}")


def _nonsense(named: IdentityServer, missing: str) -> ServerUnreachable:
    log.info("an identity server answered nonsense", server=named.name, missing=missing)
    return ServerUnreachable(f"The identity server {named.name} answers what cannot be understood")
