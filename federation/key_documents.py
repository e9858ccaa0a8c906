"""What a server says about its keys, judged: of whom it is, until when it holds, and whether it is signed.

spec: server-server-api/#publishing-keys
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson, InvalidSignature
from homeserver.protocol.identifiers import is_signing_key_id
from homeserver.protocol.signing import VerifyKey, verify_json
from homeserver.storage.servers import Document, Key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LONGEST_VALIDITY: Final = 7 * 24 * 60 * 60 * 1000
"""Milliseconds from when it is heard that a key is believed to be in use, whatever its server says."""
MOST_KEYS: Final = 50


class BadDocument(Exception):
    """That is not an answer about the keys of this server; the text says why."""


def check(document: Mapping[str, Any], server_name: str, now: int) -> tuple[Document, list[Key]]:
    """A server's answer as it is kept, and the keys that it names. ``now`` is in ms since 1970. Raises BadDocument.

    It is signed by keys that it names itself: that it is the server's own follows from where it was had, or from
    the notary who signed it too.
    """
    if document.get("server_name") != server_name:
        raise BadDocument("it is of another server")
    valid_until = _moment(document, "valid_until_ts")
    in_use = dict(_named(document, "verify_keys"))
    old = dict(_named(document, "old_verify_keys"))
    if len(in_use) + len(old) > MOST_KEYS:
        raise BadDocument(f"it names more than {MOST_KEYS} keys")
    keys = {key_id: key for key_id, (key, _) in in_use.items()}
    try:
        verify_json(document, server_name, keys)
        kept = canonical.encode(document)
        orjson.dumps([[[[document]]]])  # as deep as it will stand in an answer of ours
    except (InvalidSignature, BadJson) as error:
        raise BadDocument(error.message) from None
    except orjson.JSONEncodeError:
        raise BadDocument("it is nested too deeply") from None
    periods = {key_id: min(valid_until, now + LONGEST_VALIDITY) for key_id in in_use}
    periods |= {key_id: min(_moment(entry, "expired_ts"), now) for key_id, (_, entry) in old.items()}
    keys |= {key_id: key for key_id, (key, _) in old.items()}
    return (
        Document(kept, valid_until, now),
        [Key(key_id, key.raw, periods[key_id]) for key_id, key in keys.items()],
    )


def check_notary(document: Mapping[str, Any], notary: str, keys: Mapping[str, VerifyKey]) -> None:
    """Raise BadDocument unless a notary signed this, by one of these keys of its own."""
    try:
        verify_json(document, notary, keys)
    except InvalidSignature as error:
        raise BadDocument(error.message) from None


def _named(document: Mapping[str, Any], field: str) -> Iterator[tuple[str, tuple[VerifyKey, dict[str, Any]]]]:
    """The keys of our algorithm in a field, by id, with their entries."""
    entries = document.get(field, {})
    if not isinstance(entries, dict):
        raise BadDocument(f"its {field} are none")
    for key_id, entry in entries.items():
        if is_signing_key_id(key_id):
            text = entry.get("key") if isinstance(entry, dict) else None
            try:
                yield key_id, (VerifyKey.from_base64(key_id, text if isinstance(text, str) else ""), entry)
            except BadJson:
                raise BadDocument(f"its key {key_id} is none") from None


def _moment(entry: Mapping[str, Any], field: str) -> int:
    moment = entry.get(field)
    if not isinstance(moment, int) or isinstance(moment, bool) or moment < 0:
        raise BadDocument(f"its {field} is no moment")
    return moment
