"""The grammar of identifiers: user ids, room ids, aliases, event ids, server names, mxc URIs and opaque tokens.

``is_*`` answer a question and never raise; ``parse_*`` raise InvalidParam. Whatever arrives from outside is a string
that one of these has said yes to before it is used as an identifier.

spec: appendices/#identifier-grammar
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import Final, NamedTuple

from homeserver.protocol.errors import InvalidParam, InvalidUsername

MAX_BYTES: Final = 255
"""The longest identifier, sigil and domain included, in bytes of UTF-8."""

_SERVER_NAME: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9A-Za-z.-]{1,255}))(?::([0-9]{1,5}))?")
_DOTTED_QUAD: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_LOCALPART: Final = re.compile(r"[a-z0-9._=/+-]+")
_COMPLIANT_LOCALPART: Final = re.compile(r"[\x21-\x39\x3b-\x7e]+")
_HASH_ROOM_ID: Final = re.compile(r"![A-Za-z0-9_-]{43}")
_OPAQUE: Final = re.compile(r"[0-9A-Za-z._~-]{1,255}")
_NAMESPACED: Final = re.compile(r"[a-z][a-z0-9._-]{0,254}")
_MEDIA_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
_SIGNING_KEY_ID: Final = re.compile(r"ed25519:[A-Za-z0-9_]+")
_MAX_DEVICE_ID: Final = 512


class ServerName(NamedTuple):
    """A server name taken apart: ``host`` without brackets, ``port`` if one is named."""

    host: str
    port: int | None


def fits(text: str) -> bool:
    """Whether a string is at most 255 bytes of UTF-8 (and is UTF-8: no lone surrogates)."""
    if len(text) > MAX_BYTES:
        return False
    if text.isascii():
        return True
    try:
        return len(text.encode()) <= MAX_BYTES
    except UnicodeEncodeError:
        return False


# -- server names


@lru_cache(maxsize=4096)
def is_server_name(name: str) -> bool:
    """Whether ``name`` is a DNS name, IPv4 literal or bracketed IPv6 literal, with or without a port.

    spec: appendices/#server-name
    """
    match = _SERVER_NAME.fullmatch(name)
    if match is None:
        return False
    ipv6, host, _port = match.groups()
    if ipv6 is not None:
        return _is_ipv6(ipv6)
    if _DOTTED_QUAD.fullmatch(host):
        return all(int(part) <= 255 for part in host.split("."))
    return True


def parse_server_name(name: str) -> ServerName:
    """Take a server name apart. Raises InvalidParam. spec: appendices/#server-name"""
    match = _SERVER_NAME.fullmatch(name) if is_server_name(name) else None
    if match is None:
        raise InvalidParam("That is not a server name")
    ipv6, host, port = match.groups()
    return ServerName(ipv6 or host, int(port) if port else None)


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True


# -- what the kinds have in common


def domain_of(identifier: str) -> str:
    """The server name in a user id, alias or old room or event id; "" if it has none. Does not validate."""
    return identifier.partition(":")[2]


def localpart_of(identifier: str) -> str:
    """What stands between sigil and domain. Does not validate."""
    return identifier[1:].partition(":")[0]


def _has_domain(sigil: str, identifier: str) -> bool:
    """``sigil localpart ":" server_name``, the localpart of any code points but ``:`` and NUL."""
    if not identifier.startswith(sigil) or not fits(identifier):
        return False
    localpart, colon, domain = identifier.partition(":")
    return bool(colon) and "\0" not in localpart and is_server_name(domain)


# -- users


def user_id(localpart: str, server_name: str) -> str:
    """The user id of a localpart on a server. Does not validate."""
    return f"@{localpart}:{server_name}"


def is_user_id(identifier: object) -> bool:
    """Whether events may name this user: the grammar of historical user ids, which allows an empty localpart.

    spec: appendices/#historical-user-ids
    """
    return isinstance(identifier, str) and len(identifier) <= MAX_BYTES and _is_user_id(identifier)


@lru_cache(maxsize=16_384)
def _is_user_id(identifier: str) -> bool:
    return _has_domain("@", identifier)


def is_compliant_user_id(identifier: object) -> bool:
    """Whether clients may be told of this user outside of events: a localpart of U+0021 to U+007E, not empty.

    spec: appendices/#historical-user-ids
    """
    return (
        isinstance(identifier, str)
        and _has_domain("@", identifier)
        and _COMPLIANT_LOCALPART.fullmatch(localpart_of(identifier)) is not None
    )


def parse_user_id(identifier: object) -> tuple[str, str]:
    """(localpart, server name) of a user id, historical ones included. Raises InvalidParam."""
    if not isinstance(identifier, str) or not _has_domain("@", identifier):
        raise InvalidParam("That is not a user ID, such as @name:example.org")
    return localpart_of(identifier), domain_of(identifier)


def new_localpart(username: str, server_name: str) -> str:
    """The localpart of a new account for the username that somebody asks for, in lower case.

    Raises InvalidUsername when it is empty, has characters outside ``a-z0-9._=-/+``, or makes a user id of more
    than 255 bytes. spec: appendices/#user-identifiers
    """
    localpart = username.translate(_ASCII_LOWER)
    if _LOCALPART.fullmatch(localpart) is None:
        raise InvalidUsername("A username may contain only the characters a-z, 0-9, and . _ = - / +")
    if not fits(user_id(localpart, server_name)):
        raise InvalidUsername("That username is too long")
    return localpart


_ASCII_LOWER: Final = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


# -- rooms and events


def is_room_id(identifier: object) -> bool:
    """Whether this is a room id of any room version, with a domain or without. spec: appendices/#room-ids"""
    return isinstance(identifier, str) and (is_hash_room_id(identifier) or _has_domain("!", identifier))


def is_hash_room_id(identifier: str) -> bool:
    """Whether this is a room id without a domain: the create event's id with another sigil."""
    return _HASH_ROOM_ID.fullmatch(identifier) is not None


def is_room_id_with_domain(identifier: str) -> bool:
    """Whether this is a room id of the form ``!opaque_id:domain``."""
    return _has_domain("!", identifier)


def is_room_alias(identifier: object) -> bool:
    """spec: appendices/#room-aliases"""
    return isinstance(identifier, str) and _has_domain("#", identifier)


def parse_room_alias(identifier: object) -> tuple[str, str]:
    """(localpart, server name) of a room alias. Raises InvalidParam."""
    if not isinstance(identifier, str) or not _has_domain("#", identifier):
        raise InvalidParam("That is not a room alias, such as #name:example.org")
    return localpart_of(identifier), domain_of(identifier)


def is_event_id(identifier: object) -> bool:
    """Whether this could be an event id; what follows the sigil is opaque. spec: appendices/#event-ids"""
    return isinstance(identifier, str) and identifier.startswith("$") and len(identifier) > 1 and fits(identifier)


def is_event_id_with_domain(identifier: object) -> bool:
    """Whether this is an event id of the form ``$opaque_id:domain``. spec: rooms/v1/#event-ids"""
    return isinstance(identifier, str) and _has_domain("$", identifier)


# -- media, devices, keys and the general grammars


def is_media_id(text: str) -> bool:
    """Whether this may stand as media id in a path. spec: client-server-api/#matrix-content-mxc-uris"""
    return _MEDIA_ID.fullmatch(text) is not None


def parse_mxc(uri: object) -> tuple[str, str]:
    """(server name, media id) of an ``mxc://`` URI. Raises InvalidParam; neither part can hold a path trick.

    spec: client-server-api/#matrix-content-mxc-uris
    """
    if isinstance(uri, str) and uri.startswith("mxc://"):
        server_name, slash, media_id = uri[6:].partition("/")
        if slash and is_server_name(server_name) and is_media_id(media_id):
            return server_name, media_id
    raise InvalidParam("That is not an mxc:// URI, such as mxc://example.org/abc")


def is_device_id(text: object) -> bool:
    """Whether a client may use this as its device id: not empty, at most 512 bytes, no NUL.

    The specification gives no grammar; it is bounded because it is stored, and keyed by.
    """
    if not isinstance(text, str) or not text or len(text) > _MAX_DEVICE_ID or "\0" in text:
        return False
    try:
        return len(text.encode()) <= _MAX_DEVICE_ID
    except UnicodeEncodeError:
        return False


def is_opaque(text: object) -> bool:
    """spec: appendices/#opaque-identifiers"""
    return isinstance(text, str) and _OPAQUE.fullmatch(text) is not None


def is_namespaced(text: object) -> bool:
    """spec: appendices/#common-namespaced-identifier-grammar"""
    return isinstance(text, str) and _NAMESPACED.fullmatch(text) is not None


def is_signing_key_id(text: object) -> bool:
    """Whether this names a server's signing key of the algorithm that we know. spec: appendices/#signing-details"""
    return isinstance(text, str) and _SIGNING_KEY_ID.fullmatch(text) is not None
