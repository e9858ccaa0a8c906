"""What OAuth 2.0 says as values: scopes, redirect URIs, code challenges, and what clients say of themselves.

Pure. Everything that a client sends is checked here before it is kept or shown to anybody.

spec: client-server-api/#oauth-20-api
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from homeserver.protocol.errors import OAuthRefusal
from homeserver.protocol.identifiers import is_device_id
from homeserver.protocol.signing import encode_base64_url

AUTHORIZATION_CODE: Final = "authorization_code"
REFRESH_TOKEN: Final = "refresh_token"  # noqa: S105  # the name of a grant
DEVICE_CODE: Final = "urn:ietf:params:oauth:grant-type:device_code"
GRANT_TYPES: Final = (AUTHORIZATION_CODE, REFRESH_TOKEN, DEVICE_CODE)
"""spec: client-server-api/#grant-types"""

RESPONSE_MODES: Final = ("query", "fragment")

# -- scope

API: Final = ("urn:matrix:client:api:*", "urn:matrix:org.matrix.msc2967.client:api:*")
"""Full access, as it is written now and as it was before it was specified."""
DEVICE: Final = ("urn:matrix:client:device:", "urn:matrix:org.matrix.msc2967.client:device:")
"""What the device id stands behind."""

_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")
_LONGEST_SCOPE: Final = 2000


@dataclass(frozen=True, slots=True)
class Scope:
    """What a client asks for: a device id, and ``text``, the part of its scope that is granted."""

    device_id: str
    text: str


def read_scope(text: str) -> Scope:
    """Take a scope apart; tokens that we do not know are not granted, as RFC 6749 allows.

    Raises OAuthRefusal unless it asks for full access and exactly one device.

    spec: client-server-api/#allocated-scope-tokens
    """
    if len(text) > _LONGEST_SCOPE or not _SCOPE.fullmatch(text):
        raise OAuthRefusal("invalid_scope", "That is not a scope")
    granted: list[str] = []
    devices: list[str] = []
    for token in dict.fromkeys(text.split(" ")):
        prefix = next((prefix for prefix in DEVICE if token.startswith(prefix)), None)
        if prefix is not None:
            devices.append(token.removeprefix(prefix))
        if prefix is not None or token in API:
            granted.append(token)
    if len(granted) == len(devices):
        raise OAuthRefusal("invalid_scope", f"The scope must have {API[0]}")
    if len(set(devices)) != 1:
        raise OAuthRefusal("invalid_scope", f"The scope must have exactly one {DEVICE[0]}…")
    if not is_device_id(devices[0]):
        raise OAuthRefusal("invalid_scope", "That cannot be the ID of a device")
    return Scope(devices[0], " ".join(granted))


# -- proof key for code exchange

_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}")


def is_challenge(text: str) -> bool:
    """Whether this can be a code challenge of the method S256."""
    return _CHALLENGE.fullmatch(text) is not None


def proves(verifier: str, challenge: str) -> bool:
    """Whether the code verifier is the one of the challenge."""
    if not _VERIFIER.fullmatch(verifier):
        return False
    return hmac.compare_digest(challenge_of(verifier), challenge)


def challenge_of(verifier: str) -> str:
    """The code challenge of the method S256 for a verifier."""
    return encode_base64_url(sha256(verifier.encode()).digest())


# -- redirect URIs

_ADDRESS: Final = re.compile(r"[\x21-\x7e]{1,2000}")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")


def _split(uri: object) -> SplitResult | None:
    """The parts of an address that has nothing in it at which two readers could disagree."""
    if not isinstance(uri, str) or not _ADDRESS.fullmatch(uri) or set(uri) & set('\\<>"`{}|^'):
        return None
    try:
        parts = urlsplit(uri)
        parts.port  # noqa: B018  # raises ValueError for what is no port
    except ValueError:
        return None
    return parts


def _is_https(uri: object, host: str | None = None) -> bool:
    """An address of https without user and password, of ``host`` or something below it."""
    parts = _split(uri)
    if parts is None or parts.scheme != "https" or "@" in parts.netloc or not parts.hostname:
        return False
    named = parts.hostname
    if not _HOST.fullmatch(named):
        return False
    return host is None or named == host or named.endswith("." + host)


def may_redirect(uri: object, application_type: str, client_host: str) -> bool:
    """Whether a client of this type and host may register a redirect URI.

    spec: client-server-api/#redirect-uri-validation
    """
    parts = _split(uri)
    if parts is None or "#" in str(uri):
        return False
    if _is_https(uri, client_host):
        return True
    if application_type != "native":
        return False
    if parts.scheme == "http":
        return parts.hostname in _LOOPBACK and ":" not in parts.netloc.rpartition("]")[2] and "@" not in parts.netloc
    owned = ".".join(reversed(client_host.split(".")))
    if parts.scheme != owned and not parts.scheme.startswith(owned + "."):
        return False
    return not str(uri)[len(parts.scheme) + 1 :].startswith("//")


def is_registered(uri: str, registered: Collection[str]) -> bool:
    """Whether a client may be sent to ``uri``: one of those that it registered, to the byte; on the loopback interface
    at any port.

    spec: client-server-api/#redirect-uri-validation
    """
    if uri in registered:
        return True
    parts = _split(uri)
    if parts is None or parts.scheme != "http" or parts.hostname not in _LOOPBACK or not parts.port:
        return False
    port = f":{parts.port}"
    if "@" in parts.netloc or not parts.netloc.endswith(port):
        return False
    return parts._replace(netloc=parts.netloc.removesuffix(port)).geturl() in registered


def with_answer(uri: str, mode: str, answer: Mapping[str, str]) -> str:
    """A redirect URI with the parameters of an answer, in its query or as its fragment."""
    if mode == "fragment":
        return f"{uri}#{urlencode(answer)}"
    return f"{uri}{'&' if '?' in uri else '?'}{urlencode(answer)}"


def with_login_token(uri: str, token: str) -> str:
    """An address with ``loginToken`` in its query, in the place of those that it had.

    spec: client-server-api/#handling-the-callback-from-the-authentication-server
    """
    address, hash_, fragment = uri.partition("#")
    address, _, query = address.partition("?")
    kept = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name != "loginToken"]
    return f"{address}?{urlencode([*kept, ('loginToken', token)])}{hash_}{fragment}"


def origin_of(uri: str) -> str:
    """What the policy of a page must name so that a form of it may lead to this address: an origin, or a scheme."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme in ("http", "https") else f"{parts.scheme}:"


def shown_host(uri: str) -> str:
    """The part of an address by which a person knows whose it is."""
    parts = urlsplit(uri)
    return parts.hostname or f"{parts.scheme}:"


def is_safe_target(uri: str) -> bool:
    """Whether a browser may be sent there at all with a token: a web address, or one that an app has claimed.

    spec: client-server-api/#get_matrixclientv3loginssoredirect
    """
    parts = _split(uri)
    if parts is None or not parts.scheme or "@" in parts.netloc:
        return False
    if parts.scheme in ("http", "https"):
        return bool(parts.hostname)
    return parts.scheme not in _NO_APP


_NO_APP: Final = frozenset(
    ("javascript", "data", "vbscript", "file", "blob", "about", "view-source", "filesystem", "ws")
)

# -- what clients say of themselves

_LOCALIZED: Final = ("client_name", "logo_uri", "tos_uri", "policy_uri")
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,8}(?:-[A-Za-z0-9]{1,8})*")
_MOST_LOCALIZED: Final = 100
_MOST_REDIRECTS: Final = 20
_LONGEST_NAME: Final = 200


def read_client(body: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a client as it is registered: what we do not know of is left out.

    Raises OAuthRefusal.

    spec: client-server-api/#client-metadata
    """
    client_uri = body.get("client_uri")
    if not _is_https(client_uri):
        raise _bad("client_uri must be an address of https")
    host = urlsplit(str(client_uri)).hostname or ""
    kind = body.get("application_type", "web")
    if kind not in ("web", "native"):
        raise _bad('application_type must be "web" or "native"')
    if body.get("token_endpoint_auth_method", "none") != "none":
        raise _bad('token_endpoint_auth_method must be "none": there are no secrets of clients here')
    client: dict[str, Any] = {
        "client_uri": client_uri,
        "application_type": kind,
        "token_endpoint_auth_method": "none",
        **_readable(body, host),
    }
    grants = _strings(body, "grant_types", [AUTHORIZATION_CODE])
    client["grant_types"] = [grant for grant in GRANT_TYPES if grant in grants]
    client["response_types"] = [kind for kind in ("code",) if kind in _strings(body, "response_types", ["code"])]
    given = _strings(body, "redirect_uris", [])
    redirects = list(dict.fromkeys(given))
    if len(redirects) > _MOST_REDIRECTS:
        raise OAuthRefusal("invalid_redirect_uri", f"A client has at most {_MOST_REDIRECTS} redirect URIs")
    for number, uri in enumerate(given):
        if not may_redirect(uri, kind, host):
            raise OAuthRefusal("invalid_redirect_uri", f"redirect_uris[{number}] must be {_redirects_of(kind, host)}")
    by_code = AUTHORIZATION_CODE in client["grant_types"] and "code" in client["response_types"]
    if by_code and not redirects:
        raise OAuthRefusal("invalid_redirect_uri", "The authorization code grant needs a redirect URI")
    if not by_code and DEVICE_CODE not in client["grant_types"]:
        raise _bad("This client could not sign in anybody: it has none of the grants that begin a session")
    if redirects:
        client["redirect_uris"] = redirects
    return client


def _redirects_of(application_type: str, client_host: str) -> str:
    """What `may_redirect` allows, in words."""
    web = f"an address of https at {client_host} or below it, the host of client_uri"
    if application_type != "native":
        return web
    owned = ".".join(reversed(client_host.split(".")))
    return f"{web}, have the scheme {owned} or one that begins so (such as {owned}:/callback), or be http://127.0.0.1/"


def _bad(message: str) -> OAuthRefusal:
    return OAuthRefusal("invalid_client_metadata", message)


def _readable(body: Mapping[str, Any], host: str) -> dict[str, str]:
    """What people are shown, in whatever languages. spec: client-server-api/#metadata-localization"""
    found: dict[str, str] = {}
    for name, value in body.items():
        plain, hash_, language = name.partition("#")
        if plain not in _LOCALIZED or value is None:
            continue
        if hash_ and (not _LANGUAGE.fullmatch(language) or len(found) >= _MOST_LOCALIZED):
            continue
        if plain == "client_name":
            if not isinstance(value, str) or len(value) > _LONGEST_NAME or not value.isprintable():
                raise _bad(f"{plain} must be a text of at most {_LONGEST_NAME} characters")
        elif not _is_https(value, host):
            raise _bad(f"{plain} must be an address of https at the host of client_uri")
        found[name] = value
    return found


def _strings(body: Mapping[str, Any], name: str, default: list[str]) -> list[str]:
    value = body.get(name, default)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _bad(f"{name} must be an array of strings")
    return value


def in_language(client: Mapping[str, Any], name: str, languages: Iterable[str]) -> str | None:
    """A readable value of a client's metadata in the first of these languages that it has, else the one without.

    spec: client-server-api/#metadata-localization
    """
    for language in languages:
        for key, value in client.items():
            plain, _, of = key.partition("#")
            if plain == name and of and of.partition("-")[0].lower() == language:
                return str(value)
    value = client.get(name)
    return None if value is None else str(value)
