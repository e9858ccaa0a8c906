"""The event: built, received, or read back from the two byte strings that storage keeps of it.

``client``  the client format, ready to be spliced into answers (see client_format.py);
``rest``    canonical JSON of those properties of the federation format that ``client`` lacks or changes.

The two give back the exact canonical bytes of the federation format. An event never changes: what redacts or signs it
makes another. ``unsigned`` is no part of it.

spec: client-server-api/#room-event-format, server-server-api/#pdus
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import orjson

from homeserver.protocol import canonical, client_format, signing, stickiness
from homeserver.protocol.errors import BadJson
from homeserver.protocol.event_format import (
    check_event_id,
    check_fields,
    check_format,
    check_size,
    referenced,
    references,
)
from homeserver.protocol.redaction import redact, redaction_target

if TYPE_CHECKING:
    from homeserver.protocol.signing import SigningKey
    from homeserver.protocol.versions import RoomRules

_NOT_IN_REST: Final = frozenset(("content", "event_id", "origin_server_ts", "sender", "state_key", "type", "unsigned"))
_REDACTION: Final = "m.room.redaction"
_NO_HASHES: Final[Mapping[str, str]] = MappingProxyType({})


class Event:
    """One event of a room, immutable. ``content`` and all that only servers see is parsed when first asked for."""

    __slots__ = (
        "_content",
        "_server_fields",
        "client",
        "event_id",
        "origin_server_ts",
        "redacts",
        "rest",
        "room_id",
        "rules",
        "sender",
        "state_key",
        "type",
    )

    def __init__(self, rules: RoomRules, room_id: str, client: bytes, rest: bytes) -> None:
        """From what storage keeps; use `from_stored`, `from_pdu` or `build`."""
        fields = client_format.after_content(client)
        self.rules = rules
        self.room_id = room_id
        self.client = client
        self.rest = rest
        self.event_id: str = fields["event_id"]
        self.type: str = fields["type"]
        self.state_key: str | None = fields.get("state_key")
        """None for an event that is not a state event."""
        self.sender: str = fields["sender"]
        self.origin_server_ts: int = fields["origin_server_ts"]
        """Milliseconds since the epoch, as the sender's server claims."""
        self.redacts: str | None = fields.get("redacts")
        """The event that an m.room.redaction wants redacted, wherever its room version says so."""
        self._content: dict[str, Any] | None = None
        self._server_fields: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<Event {self.event_id} {self.type}>"

    @property
    def content(self) -> dict[str, Any]:
        """The content as signed. Not to be changed by anybody."""
        if self._content is None:
            self._content = self._parse_content()
        return self._content

    @property
    def server_fields(self) -> dict[str, Any]:
        """The properties of ``rest``. Not to be changed by anybody."""
        if self._server_fields is None:
            self._server_fields = canonical.parse(self.rest, strict=self.rules.strict_canonical_json)
        return self._server_fields

    @property
    def depth(self) -> int:
        """One more than the greatest depth of ``prev_events``, as claimed."""
        depth: int = self.server_fields["depth"]
        return depth

    @property
    def prev_events(self) -> Sequence[str]:
        """Event ids."""
        return referenced(self.rules, self.server_fields["prev_events"])

    @property
    def auth_events(self) -> Sequence[str]:
        """Event ids."""
        return referenced(self.rules, self.server_fields["auth_events"])

    @property
    def signatures(self) -> Mapping[str, Mapping[str, str]]:
        """By server name, by key id."""
        signatures: dict[str, dict[str, str]] = self.server_fields["signatures"]
        return signatures

    @property
    def reference_hash(self) -> str:
        """In unpadded Base64; the same once redacted. Computed each time.

        spec: server-server-api/#calculating-the-reference-hash-for-an-event
        """
        return signing.encode_base64(signing.reference_hash(self.rules, self.pdu()))

    @property
    def is_state(self) -> bool:
        """Whether this is a state event."""
        return self.state_key is not None

    def pdu(self) -> dict[str, Any]:
        """The federation format as a new dictionary."""
        return {"content": self.content, **_scalars(self.rules, self.client), **self.server_fields}

    def pdu_bytes(self) -> bytes:
        """The federation format as canonical JSON, to the byte as it was hashed."""
        return pdu_bytes(self.rules, self.client, self.rest)

    def redacted(self) -> Event:
        """This event as it is once redacted: same id, same signatures."""
        return _of_pdu(self.rules, self.event_id, redact(self.rules, self.pdu()))

    def signed_too(self, server_name: str, key: SigningKey) -> Event:
        """This event with one more signature; its id stays."""
        pdu = signing.sign_event(self.rules, self.pdu(), server_name, key)
        return _of_pdu(self.rules, self.event_id, pdu)

    def with_signature(self, server_name: str, key_id: str, signature: str) -> Event:
        """This event with a signature that somebody else made; its id stays. Nothing is verified."""
        pdu = self.pdu()
        signatures = dict(pdu["signatures"])
        signatures[server_name] = {**signatures.get(server_name, {}), key_id: signature}
        return _of_pdu(self.rules, self.event_id, {**pdu, "signatures": signatures})

    def verify(self, server_name: str, keys: Mapping[str, signing.VerifyKey]) -> None:
        """Raise InvalidSignature unless this server signed the event. See `signing.verify_event`."""
        signing.verify_event(self.rules, self.pdu(), server_name, keys)

    def _parse_content(self) -> dict[str, Any]:
        if self.type == _REDACTION and "content" in self.server_fields:
            content: dict[str, Any] = self.server_fields["content"]
        else:
            content = canonical.parse(client_format.content_of(self.client), strict=self.rules.strict_canonical_json)
        return content


# -- from storage


def from_stored(rules: RoomRules, room_id: str, client: bytes, rest: bytes) -> Event:
    """The event that storage keeps as these two byte strings of ours. Trusts them."""
    return Event(rules, room_id, client, rest)


def pdu_bytes(rules: RoomRules, client: bytes, rest: bytes) -> bytes:
    """The federation format of a stored event as canonical JSON, without parsing its content."""
    strict = rules.strict_canonical_json
    fields = _scalars(rules, client)
    fields.update(canonical.parse(rest, strict=strict))
    if "content" in fields:  # a redaction, whose content the clients see changed
        return canonical.encode(fields, strict=strict)
    return _join(fields, client_format.content_of(client), strict=strict)


# -- from other servers


def from_pdu(rules: RoomRules, pdu: Mapping[str, Any]) -> Event:
    """The event that another server sent: its format checked, its id computed or, in old rooms, believed.

    If its content hash does not match, this is the redacted event, as the specification demands. Signatures are the
    caller's to verify, before or after: they cover the redacted event either way. ``unsigned`` is dropped.

    Raises BadJson for what is no valid event of this room version, TooLarge for one over a size limit.
    spec: server-server-api/#checks-performed-on-receipt-of-a-pdu
    """
    return read_pdu(rules, pdu)[0]


def read_pdu(rules: RoomRules, pdu: Mapping[str, Any]) -> tuple[Event, bytes]:
    """`from_pdu`, and what the signatures of the event cover: for `signing.verify_bytes`."""
    check_format(rules, pdu)
    signed = signing.event_signed_bytes(rules, pdu)
    digest = hashlib.sha256(signed).digest()
    event_id = signing.event_id_of_hash(rules, digest) if rules.event_id_is_hash else str(pdu["event_id"])
    event = _of_pdu(rules, event_id, pdu)
    check_size(event.pdu_bytes())
    if signing.content_hash_matches(rules, pdu):
        return event, signed
    return _of_pdu(rules, event_id, redact(rules, pdu)), signed


def event_id_of(rules: RoomRules, pdu: Mapping[str, Any]) -> str:
    """The id of an event in federation format, even of one that is refused; for logs and for answers about it.

    Raises BadJson if it is too malformed to have one.
    """
    if not isinstance(pdu.get("type"), str) or not isinstance(pdu.get("content"), dict):
        raise BadJson("An event needs a type and content")
    if rules.event_id_is_hash:
        return signing.event_id_of_hash(rules, signing.reference_hash(rules, pdu))
    event_id = pdu.get("event_id")
    check_event_id(rules, event_id)
    return str(event_id)


# -- made here


def draft(
    rules: RoomRules,
    *,
    type: str,  # noqa: A002 - the specification's word
    sender: str,
    room_id: str | None,
    content: dict[str, Any],
    state_key: str | None = None,
    prev_events: Sequence[str],
    auth_events: Sequence[str],
    depth: int,
    origin_server_ts: int,
    redacts: str | None = None,
    reference_hashes: Mapping[str, str] = _NO_HASHES,
) -> dict[str, Any]:
    """The federation format of an event before it is hashed and signed, as ``make_join`` and its like give it away.

    ``room_id`` is None for a create event whose room id follows from it. A ``depth`` over the limit becomes the limit.
    ``redacts`` is put where the room version wants it. ``reference_hashes`` of all prev and auth events, by event id,
    are only needed where event ids are not hashes: KeyError if they lack.

    Raises BadJson, or TooLarge for a property over its limit.
    """
    fields: dict[str, Any] = {
        "auth_events": references(rules, auth_events, reference_hashes),
        "content": content,
        "depth": min(depth, rules.max_depth),
        "origin_server_ts": origin_server_ts,
        "prev_events": references(rules, prev_events, reference_hashes),
        "sender": sender,
        "type": type,
    }
    if room_id is not None:
        fields["room_id"] = room_id
    if state_key is not None:
        fields["state_key"] = state_key
    if redacts is not None and rules.redacts_in_content:
        fields["content"] = {**content, "redacts": redacts}
    elif redacts is not None:
        fields["redacts"] = redacts
    check_fields(rules, fields)
    return fields


def build(
    rules: RoomRules,
    *,
    type: str,  # noqa: A002 - the specification's word
    sender: str,
    room_id: str | None,
    content: dict[str, Any],
    state_key: str | None = None,
    prev_events: Sequence[str],
    auth_events: Sequence[str],
    depth: int,
    origin_server_ts: int,
    redacts: str | None = None,
    sticky_ms: int | None = None,
    reference_hashes: Mapping[str, str] = _NO_HASHES,
    event_id: str | None = None,
    server_name: str,
    key: SigningKey,
) -> Event:
    """A new event, hashed and signed by ``server_name`` with ``key``. For the other arguments see `draft`.

    ``event_id`` is to be given, and unique, where it is not a hash, and there only. ``sticky_ms``: see stickiness.py.

    Raises BadJson for content that is not canonical JSON or another property that is not as it must be, TooLarge for
    one over a size limit. spec: server-server-api/#adding-hashes-and-signatures-to-outgoing-events
    """
    pdu = draft(
        rules,
        type=type,
        sender=sender,
        room_id=room_id,
        content=content,
        state_key=state_key,
        prev_events=prev_events,
        auth_events=auth_events,
        depth=depth,
        origin_server_ts=origin_server_ts,
        redacts=redacts,
        reference_hashes=reference_hashes,
    )
    if sticky_ms is not None:
        pdu[stickiness.FIELD] = {stickiness.DURATION: sticky_ms}
    check_event_id(rules, event_id)
    if event_id is not None:
        pdu["event_id"] = event_id
    encoded = canonical.encode(pdu["content"], strict=rules.strict_canonical_json)
    pdu["hashes"] = {"sha256": signing.encode_base64(hashlib.sha256(_join(pdu, encoded)).digest())}
    signed = signing.event_signed_bytes(rules, pdu)
    pdu["signatures"] = {server_name: {key.key_id: key.sign(signed)}}
    check_size(_join(pdu, encoded))
    if event_id is None:
        event_id = signing.event_id_of_hash(rules, hashlib.sha256(signed).digest())
    return _assemble(rules, event_id, pdu, encoded)


# -- bytes


def _of_pdu(rules: RoomRules, event_id: str, pdu: Mapping[str, Any]) -> Event:
    return _assemble(rules, event_id, pdu, canonical.encode(pdu["content"], strict=rules.strict_canonical_json))


def _assemble(rules: RoomRules, event_id: str, pdu: Mapping[str, Any], content: bytes) -> Event:
    """The event of a checked federation format whose content has these canonical bytes."""
    strict = rules.strict_canonical_json
    rest = {key: value for key, value in pdu.items() if key not in _NOT_IN_REST}
    redacts = redaction_target(rules, pdu) if pdu["type"] == _REDACTION else None
    if redacts is not None and not rules.redacts_in_content:
        # Clients of today look for it in the content: they get both. spec: rooms/v11/#event-format
        del rest["redacts"]
        shown = canonical.encode({**pdu["content"], "redacts": redacts}, strict=strict)
        if shown != content:
            rest["content"] = pdu["content"]
            content = shown
    room_id = pdu["room_id"] if "room_id" in pdu else "!" + event_id[1:]
    return Event(
        rules, room_id, client_format.stored(event_id, pdu, redacts, content), canonical.encode(rest, strict=strict)
    )


def _scalars(rules: RoomRules, client: bytes) -> dict[str, Any]:
    """The properties of the federation format that ``client`` holds, without the content."""
    fields = client_format.after_content(client)
    if rules.event_id_is_hash:
        del fields["event_id"]
    if rules.redacts_in_content:
        fields.pop("redacts", None)
    return fields


def _join(fields: Mapping[str, Any], content: bytes, *, strict: bool = True) -> bytes:
    """Canonical JSON of ``fields`` with these bytes as ``content``.

    ``strict`` promises that all numbers in ``fields`` are integers of canonical JSON.
    """
    if strict:
        return orjson.dumps({**fields, "content": orjson.Fragment(content)}, option=orjson.OPT_SORT_KEYS)
    before = canonical.encode({key: value for key, value in fields.items() if key < "content"}, strict=False)
    after = canonical.encode({key: value for key, value in fields.items() if key > "content"}, strict=False)
    members = [before[1:-1], b'"content":' + content, after[1:-1]]
    return b"{" + b",".join(member for member in members if member) + b"}"
