"""The header ``Authorization: X-Matrix``, read and written, and what its signature covers. Values in, values out.

spec: server-server-api/#request-authentication
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from homeserver.protocol import canonical
from homeserver.protocol.errors import Unauthorized
from homeserver.protocol.identifiers import is_server_name, is_signing_key_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.protocol.signing import SigningKey

LONGEST: Final = 4096
"""Characters of a header that is read."""

_SCHEME: Final = re.compile(r"x-matrix +", re.IGNORECASE)
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER: Final = re.compile(
    rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s",\\]+))',
)
_COMMAS: Final = re.compile(r"[ \t]*(?:,[ \t]*)+")
_ESCAPED: Final = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a header says. Nothing of it is verified."""

    origin: str
    destination: str | None
    key_id: str
    signature: str


def read(header: str) -> Claim:
    """The claim of a header's value. Raises Unauthorized for one that is malformed, or names something twice.

    Values may be quoted or not, and unquoted ones may hold more than a token, as older servers write them.
    """
    found = _parameters(header) if len(header) <= LONGEST else None
    if found is None:
        raise Unauthorized("The header Authorization is not one of X-Matrix")
    origin, key_id, signature = found.get("origin"), found.get("key"), found.get("sig")
    if origin is None or key_id is None or signature is None:
        raise Unauthorized("The header Authorization lacks origin, key or sig")
    if not is_server_name(origin) or not is_signing_key_id(key_id):
        raise Unauthorized("The header Authorization names no server, or no key of ed25519")
    return Claim(origin, found.get("destination"), key_id, signature)


def _parameters(header: str) -> dict[str, str] | None:
    """The parameters by name, in lower case; None for what is no header of ours."""
    scheme = _SCHEME.match(header)
    if scheme is None:
        return None
    found: dict[str, str] = {}
    at = scheme.end()
    while parameter := _PARAMETER.match(header, at):
        name, quoted, plain = parameter.groups()
        if name.lower() in found:
            return None
        found[name.lower()] = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
        at = parameter.end()
        if at == len(header):
            return found
        comma = _COMMAS.match(header, at)
        if comma is None:
            return None
        at = comma.end()
    return None


def write(origin: str, destination: str, key: SigningKey, message: bytes) -> str:
    """The header's value for a request of ours, of which ``message`` is what `signed` gives."""
    return f'X-Matrix origin="{origin}",destination="{destination}",key="{key.key_id}",sig="{key.sign(message)}"'


def signed_over(method: str, target: str, origin: str, destination: str, content: bytes | None) -> bytes:
    """`signed` for a request of ours, whose content is canonical JSON already and is not looked into."""
    parts: dict[str, Any] = {"method": method, "uri": target, "origin": origin, "destination": destination}
    if content is not None:
        parts["content"] = orjson.Fragment(content)
    return orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)


def signed(method: str, target: str, origin: str, destination: str | None, content: Mapping[str, Any] | None) -> bytes:
    """What is signed. Raises BadJson when it has no canonical form.

    Not strictly canonical: a transaction may carry events of old room versions, in which any number is legal.
    """
    parts: dict[str, Any] = {"method": method, "uri": target, "origin": origin}
    if destination is not None:
        parts["destination"] = destination
    if content is not None:
        parts["content"] = content
    return canonical.encode(parts, strict=False)
