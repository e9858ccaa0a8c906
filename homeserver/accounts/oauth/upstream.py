"""Providers of identities, by OpenID Connect: asked who somebody is, and believed when it is signed, for us, and new.

What a sign-in needs between leaving and coming back is kept in memory, bounded in number and in time, and belongs to
one browser. Providers are asked by the one door for outgoing requests.

spec: client-server-api/#sso-client-loginauthentication
"""

from __future__ import annotations

import hmac
import secrets
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

import orjson
import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from config.load import read_secret
from homeserver.accounts.tokens import digest
from homeserver.protocol.errors import Forbidden, NotFound, ServerUnreachable
from homeserver.protocol.oauth import challenge_of
from homeserver.runtime.exchange import Unreachable
from homeserver.runtime.outbound import place_of
from homeserver.runtime.passing import Passing

if TYPE_CHECKING:
    from config.sections.signing_in import IdentityProvider
    from homeserver.context import Server

log = structlog.get_logger("upstream")

CALLBACK: Final = "/_domicile/sso/callback"
SECONDS: Final = 10.0
MOST_BYTES: Final = 512 * 1024
FRESH: Final = 3600.0
"""Seconds for which what a provider says of itself is believed."""
KEYS_APART: Final = 60.0
"""Seconds between two looks for a key that is not known."""
IN_TIME: Final = 900.0
"""Seconds that somebody may take at their provider, and then to choose a name."""
LEEWAY: Final = 60
ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "Ed25519",
    "EdDSA",
)
"""What an ID token may be signed with: with a key that only the provider has."""

Claims = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Away:
    """Somebody who is at their provider: in which browser, and where they go on afterwards."""

    provider: str
    mark: str
    nonce: str
    verifier: str
    onward: str


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody as their provider knows them."""

    provider: IdentityProvider
    subject: str
    claims: Claims

    def claim(self, name: str) -> str | None:
        """A claim that is a text; ``address.country`` is one inside another."""
        value = self.claims.get(name)
        if value is None:
            value = self.claims
            for part in name.split("."):
                value = value.get(part) if isinstance(value, dict) else None
        return value if isinstance(value, str) and value else None


@dataclass(slots=True)
class _Known:
    """What a provider says of itself, and its keys; moments in monotonic seconds."""

    metadata: dict[str, Any]
    keys: KeySet
    until: float
    keys_since: float


class _Providers(dict[str, _Known]):
    """What is known of providers. One for the deployment."""


class _Leavers(Passing[bytes, _Away]):
    """Who is away, by the digest of ``state``. One for the deployment."""


def provider(server: Server, provider_id: str) -> IdentityProvider:
    """A provider by its id. Raises NotFound."""
    for each in server.settings.identity_providers:
        if each.id == provider_id:
            return each
    raise NotFound("There is no such provider of identities")


# -- there and back


async def leave(server: Server, asked: IdentityProvider, mark: str, onward: str) -> str:
    """Where to send a browser that is to sign in at a provider; it will come back to `CALLBACK`.

    Raises ServerUnreachable.
    """
    known = await _known(server, asked)
    leavers, now = server.nodes.directory.memory(_Leavers), server.clock.monotonic()
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    leavers.put(digest(state), _Away(asked.id, mark, nonce, verifier, onward), now, IN_TIME)
    parameters = {
        "response_type": "code",
        "client_id": asked.client_id,
        "redirect_uri": server.settings.base_url + CALLBACK,
        "scope": " ".join(dict.fromkeys(("openid", *asked.scopes))),
        "state": state,
        "nonce": nonce,
        "code_challenge": challenge_of(verifier),
        "code_challenge_method": "S256",
    }
    endpoint = _address(known.metadata, "authorization_endpoint")
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(parameters)}"


async def come_back(
    server: Server, mark: str, state: str, *, code: str | None, error: str | None, issuer: str | None
) -> tuple[Person, str]:
    """Who somebody is who comes back from their provider, and where they go on.

    Raises Forbidden for whoever did not leave from this browser, or whom the provider did not sign in, or of whom it
    says something that does not hold; ServerUnreachable.
    """
    found = server.nodes.directory.memory(_Leavers).pop(digest(state), server.clock.monotonic())
    if found is None or not hmac.compare_digest(found.mark, mark):
        raise Forbidden("This sign-in has ended, or was begun in another browser. Begin again.")
    asked = provider(server, found.provider)
    if error is not None or code is None:
        raise Forbidden("The provider did not sign you in.")
    if issuer is not None and issuer != asked.issuer:  # RFC 9207
        raise _untrue(asked, "the answer is of another issuer")
    known = await _known(server, asked)
    answer = await _token(server, asked, known, code, found.verifier)
    claims = await _verified(server, asked, known, answer.get("id_token"), found.nonce)
    return await _person(server, asked, known, claims, answer), found.onward


async def _token(server: Server, asked: IdentityProvider, known: _Known, code: str, verifier: str) -> dict[str, Any]:
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": server.settings.base_url + CALLBACK,
        "code_verifier": verifier,
        "client_id": asked.client_id,
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    if asked.client_secret is not None:
        secret = read_secret(asked.client_secret)
        methods = known.metadata.get("token_endpoint_auth_methods_supported")
        if isinstance(methods, list) and "client_secret_basic" not in methods and "client_secret_post" in methods:
            form["client_secret"] = secret
        else:
            pair = f"{quote(asked.client_id, safe='')}:{quote(secret, safe='')}"
            headers["Authorization"] = "Basic " + b64encode(pair.encode()).decode()
            del form["client_id"]
    return await _ask(server, asked, _address(known.metadata, "token_endpoint"), headers, urlencode(form).encode())


async def _verified(server: Server, asked: IdentityProvider, known: _Known, token: object, nonce: str) -> Claims:
    """The claims of an ID token that is the provider's, for us, and for this sign-in (OpenID Connect Core, 3.1.3.7)."""
    if not isinstance(token, str) or len(token) > MOST_BYTES:
        raise _untrue(asked, "there is no ID token")
    claims = await _signed(server, asked, known, token)
    rules = jwt.JWTClaimsRegistry(
        now=server.clock.now_ms() // 1000,
        leeway=LEEWAY,
        iss={"essential": True, "value": asked.issuer},
        aud={"essential": True, "value": asked.client_id},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
        nonce={"essential": True, "value": nonce},
    )
    try:
        rules.validate(claims)
    except (JoseError, TypeError, ValueError) as fault:
        raise _untrue(asked, f"the ID token does not hold: {type(fault).__name__}") from None
    several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if (several or "azp" in claims) and claims.get("azp") != asked.client_id:
        raise _untrue(asked, "the ID token is for another party")
    if not isinstance(claims["sub"], str) or not 0 < len(claims["sub"]) <= 255:
        raise _untrue(asked, "the ID token names nobody")
    return claims


async def _signed(server: Server, asked: IdentityProvider, known: _Known, token: str) -> Claims:
    """The content of a signed token; with a key that is not known, once more after a look for new keys."""
    supported = known.metadata.get("id_token_signing_alg_values_supported")
    algorithms = [name for name in ALGORITHMS if not isinstance(supported, list) or name in supported]
    for again in (False, True):
        try:
            claims = jwt.decode(token, known.keys, algorithms=algorithms).claims
        except (JoseError, ValueError, TypeError, KeyError) as fault:
            if again or known.keys_since + KEYS_APART > server.clock.monotonic():
                raise _untrue(asked, f"the ID token is not signed by it: {type(fault).__name__}") from None
            known.keys = await _keys(server, asked, known.metadata)
            known.keys_since = server.clock.monotonic()
        else:
            return dict(claims)
    raise AssertionError("unreachable")


async def _person(
    server: Server, asked: IdentityProvider, known: _Known, claims: Claims, answer: dict[str, Any]
) -> Person:
    """Add what only the provider's userinfo endpoint tells, if it is wanted and there is one."""
    person = Person(asked, claims["sub"], claims)
    wanted = [asked.localpart_claim, asked.display_name_claim, asked.jurisdiction_claim]
    access = answer.get("access_token")
    if all(name is None or person.claim(name) is not None for name in wanted) or not isinstance(access, str):
        return person
    if "userinfo_endpoint" not in known.metadata or not access.isascii() or not access.isprintable():
        return person
    endpoint = _address(known.metadata, "userinfo_endpoint")
    told = await _ask(server, asked, endpoint, {"Authorization": f"Bearer {access}"}, None)
    if told.get("sub") != person.subject:
        raise _untrue(asked, "it tells of somebody else")
    return Person(asked, person.subject, {**told, **claims})


# -- what providers say of themselves


async def _known(server: Server, asked: IdentityProvider) -> _Known:
    known, now = server.nodes.directory.memory(_Providers), server.clock.monotonic()
    found = known.get(asked.id)
    if found is not None and found.until > now:
        return found
    metadata = await _ask(server, asked, asked.issuer.rstrip("/") + "/.well-known/openid-configuration", {}, None)
    if metadata.get("issuer") != asked.issuer:
        raise _unusable(asked, "it calls itself by another issuer")
    keys = await _keys(server, asked, metadata)
    made = known[asked.id] = _Known(metadata, keys, now + FRESH, server.clock.monotonic())
    return made


async def _keys(server: Server, asked: IdentityProvider, metadata: dict[str, Any]) -> KeySet:
    told = await _ask(server, asked, _address(metadata, "jwks_uri"), {}, None)
    usable = []
    for key in told["keys"] if isinstance(told.get("keys"), list) else []:
        try:
            if key.get("use", "sig") == "sig" and key.get("kty") in ("RSA", "EC", "OKP"):
                KeySet.import_key_set({"keys": [key]})
                usable.append(key)
        except (JoseError, ValueError, TypeError, KeyError, AttributeError):
            continue  # of a kind that we do not know
    return KeySet.import_key_set({"keys": usable})


def _address(metadata: dict[str, Any], name: str) -> str:
    value = metadata.get(name)
    if not isinstance(value, str) or not value.startswith("https://") or not value.isascii() or not value.isprintable():
        raise ServerUnreachable("The provider of identities cannot be used at the moment.")
    return value


async def _ask(
    server: Server, asked: IdentityProvider, url: str, headers: dict[str, str], form: bytes | None
) -> dict[str, Any]:
    try:
        place, target = place_of(url)
        answer = await server.outbound.request(
            "GET" if form is None else "POST",
            place,
            target,
            headers=headers,
            body=form or b"",
            most=MOST_BYTES,
            seconds=SECONDS,
        )
    except Unreachable as fault:
        raise _unusable(asked, str(fault.fault)) from None
    try:
        told = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        told = None
    if answer.status != 200 or not isinstance(told, dict):
        raise _unusable(asked, f"the answer was {answer.status}")
    return told


def _unusable(asked: IdentityProvider, reason: str) -> ServerUnreachable:
    log.warning("a provider of identities cannot be used", provider=asked.id, reason=reason)
    return ServerUnreachable("The provider of identities cannot be used at the moment.")


def _untrue(asked: IdentityProvider, reason: str) -> Forbidden:
    log.warning("a provider of identities said what does not hold", provider=asked.id, reason=reason)
    return Forbidden("The provider did not sign you in.")
