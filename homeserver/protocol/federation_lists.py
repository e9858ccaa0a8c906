"""A federation list: in which jurisdiction each of several servers is, who runs it and as what, under a treaty's key.

It is Matrix's signed JSON, the signer being the list's own name. A list is believed whole or not at all, and what it
does not know of a server it leaves out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from homeserver.protocol.errors import BadJson, InvalidSignature
from homeserver.protocol.identifiers import is_server_name
from homeserver.protocol.plain_text import is_plain
from homeserver.protocol.signed_notes import InvalidNote, NamedKey
from homeserver.protocol.signing import SigningKey, VerifyKey, sign_json, signing_key_ids, verify_json

FORMAT: Final = 1
MOST_BYTES: Final = 8 * 2**20
"""Bytes that are read of a list."""
MOST_SERVERS: Final = 50_000
LONGEST: Final = 500
"""Characters of a name, an operator or a role."""
GREATEST: Final = 2**53 - 1

_JURISDICTION: Final = re.compile(r"[A-Z]{2}|X-[A-Z0-9]+(?:-[A-Z0-9]+)*")


class InvalidList(ValueError):
    """It is no list, or not to be believed; the text says why."""


@dataclass(frozen=True, slots=True)
class Witness:
    """With which key a server signs the logs of others (C2SP's vkey), and where it is asked to."""

    key: str
    url: str


@dataclass(frozen=True, slots=True)
class ListedServer:
    """What a list says of a server. ``valid_until`` (milliseconds since 1970): as the list, when it is None."""

    jurisdiction: str
    operator: str | None
    role: str | None
    witness: Witness | None
    valid_until: int | None


@dataclass(frozen=True, slots=True)
class FederationList:
    """A list that has been read. Times in milliseconds since 1970."""

    name: str
    serial: int
    issued: int
    valid_until: int
    servers: Mapping[str, ListedServer]

    def valid(self, now_ms: int) -> dict[str, str]:
        """The jurisdictions of servers by their names, of all entries that hold at that time."""
        if now_ms >= self.valid_until:
            return {}
        return {
            name: each.jurisdiction
            for name, each in self.servers.items()
            if each.valid_until is None or now_ms < each.valid_until
        }


def signed(document: Mapping[str, Any], key: SigningKey) -> dict[str, Any]:
    """A list with one more signature. Raises InvalidList for what is no list.

    It stands under an id that follows from the public key: several sign, and all of them call their keys alike.
    """
    name = read(document).name
    try:
        ours = sign_json({**document, "signatures": {}}, name, key)["signatures"][name][key.key_id]
    except BadJson as fault:
        raise InvalidList(fault.message) from None
    key_id = f"ed25519:{key.verify_key.raw[:8].hex()}"
    others = {each: document["signatures"][name][each] for each in signing_key_ids(document, name)}
    return {**document, "signatures": {name: {**others, key_id: ours}}}


def parsed(raw: bytes) -> dict[str, Any]:
    """The JSON object of a list. Raises InvalidList."""
    if len(raw) > MOST_BYTES:
        raise InvalidList(f"it has more than {MOST_BYTES} bytes")
    try:
        document = orjson.loads(raw)
    except ValueError:
        raise InvalidList("it is not JSON, or not all of it") from None
    if not isinstance(document, dict):
        raise InvalidList("it is not a JSON object")
    return document


def believed(document: Mapping[str, Any], keys: Collection[str]) -> frozenset[str]:
    """Which of these public keys (unpadded Base64) have signed a list. Raises InvalidList when none has."""
    name = document.get("name")
    found = set()
    for key_id in signing_key_ids(document, name) if isinstance(name, str) else ():
        for key in keys:
            try:
                verify_json(document, str(name), {key_id: VerifyKey.from_base64(key_id, key)})
            except (InvalidSignature, BadJson):
                continue
            found.add(key)
    if not found:
        raise InvalidList("its signature is not by a key that is believed")
    return frozenset(found)


# its form -----------------------------------------------------------------------------------


def read(document: Mapping[str, Any]) -> FederationList:
    """What a list says, whoever signed it. Raises InvalidList."""
    if document.get("format") != FORMAT:
        raise InvalidList(f"its format is not {FORMAT}")
    servers = document.get("servers")
    if not isinstance(servers, dict):
        raise InvalidList("servers is not a table of servers by their names")
    if len(servers) > MOST_SERVERS:
        raise InvalidList(f"it has more than {MOST_SERVERS} servers")
    found = FederationList(
        name=_text(document, "name", "the list"),
        serial=_number(document, "serial", "the list"),
        issued=_number(document, "issued", "the list"),
        valid_until=_number(document, "valid_until", "the list"),
        servers={name: _server(name, entry) for name, entry in servers.items()},
    )
    if found.valid_until <= found.issued:
        raise InvalidList("valid_until comes before it was issued")
    return found


def _server(name: str, entry: Any) -> ListedServer:
    if not is_server_name(name) or name != name.lower():
        raise InvalidList(f"{name[:60]!r} is no name of a server in small letters")
    if not isinstance(entry, dict):
        raise InvalidList(f"what it says of {name} is not a table")
    jurisdiction = _text(entry, "jurisdiction", name)
    if not _JURISDICTION.fullmatch(jurisdiction):
        raise InvalidList(f"the jurisdiction of {name} is no ISO 3166 code such as FR, nor X- and a name")
    return ListedServer(
        jurisdiction=jurisdiction,
        operator=_text(entry, "operator", name) if "operator" in entry else None,
        role=_text(entry, "role", name) if "role" in entry else None,
        witness=_witness(name, entry["witness"]) if "witness" in entry else None,
        valid_until=_number(entry, "valid_until", name) if "valid_until" in entry else None,
    )


def _witness(name: str, entry: Any) -> Witness:
    if not isinstance(entry, dict):
        raise InvalidList(f"the witness of {name} is not a table")
    found = Witness(_text(entry, "key", name), _text(entry, "url", name))
    try:
        NamedKey.read(found.key)
    except InvalidNote as fault:
        raise InvalidList(f"the key of the witness of {name} is none: {fault}") from None
    if not found.url.startswith(("https://", "http://")):
        raise InvalidList(f"the url of the witness of {name} is no web address")
    return found


def _text(table: Mapping[str, Any], key: str, whose: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value or len(value) > LONGEST or not is_plain(value):
        raise InvalidList(f"{key} of {whose} is not a text of 1 to {LONGEST} characters")
    return value


def _number(table: Mapping[str, Any], key: str, whose: str) -> int:
    value = table.get(key)
    if type(value) is not int or not 0 < value <= GREATEST:
        raise InvalidList(f"{key} of {whose} is not a number above 0")
    return value
