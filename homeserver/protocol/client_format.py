"""The client format of events as bytes: how it is stored, and how answers are spliced from it without parsing.

Stored is ``{"content":…,"event_id":…,"msc4354_sticky":…,"origin_server_ts":…,"redacts":…,"sender":…,"state_key":…,
"type":…`` in this order, ``msc4354_sticky``, ``redacts`` and ``state_key`` only where they exist, and no closing brace:
what differs between readers (``unsigned``, ``room_id``) is appended.

spec: client-server-api/#room-event-format
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from homeserver.protocol import identifiers, stickiness
from homeserver.protocol.errors import BadJson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_CONTENT_STARTS: Final = len(b'{"content":')
_EVENT_ID_MEMBER: Final = b',"event_id":"'
_SENDER_MEMBER: Final = b',"sender":"'
_STICKY_MEMBER: Final = b',"%b":{"%b":' % (stickiness.FIELD.encode(), stickiness.DURATION.encode())


def stored(event_id: str, pdu: Mapping[str, Any], redacts: str | None, content: bytes) -> bytes:
    """The bytes to store for a checked event in federation format, whose content clients shall see as ``content``.

    Raises BadJson for lone surrogates.
    """
    fields: dict[str, Any] = {
        "content": orjson.Fragment(content),
        "event_id": event_id,
        stickiness.FIELD: stickiness.as_shown(pdu),
        "origin_server_ts": pdu["origin_server_ts"],
        "redacts": redacts,
        "sender": pdu["sender"],
        "state_key": pdu.get("state_key"),
        "type": pdu["type"],
    }
    try:
        return orjson.dumps({key: value for key, value in fields.items() if value is not None})[:-1]
    except orjson.JSONEncodeError:
        raise BadJson("Strings must not contain surrogate code points") from None


def content_of(client: bytes) -> bytes:
    """The ``content`` of a stored event, as JSON."""
    return client[_CONTENT_STARTS : _end_of_content(client)]


def with_content(client: bytes, content: bytes) -> bytes:
    """A stored event with another ``content``, which is JSON."""
    return client[:_CONTENT_STARTS] + content + client[_end_of_content(client) :]


def after_content(client: bytes) -> dict[str, Any]:
    """All properties of a stored event but its ``content``, parsed."""
    fields: dict[str, Any] = orjson.loads(b"{" + client[_end_of_content(client) + 1 :] + b"}")
    return fields


def sticky_ms(client: bytes) -> int | None:
    """For how many milliseconds from its beginning a stored event is sticky; None for one that is not."""
    end = _end_of_content(client)
    start = client.find(_STICKY_MEMBER, end)
    if start < 0:
        return None
    start += len(_STICKY_MEMBER)
    return int(client[start : client.index(b"}", start)])


def event(client: bytes, *, unsigned: bytes | None = None, room_id: str | None = None) -> bytes:
    """The whole client event of a stored one, with ``unsigned`` (a JSON object) and ``room_id`` where wanted.

    spec: client-server-api/#room-event-format
    """
    parts = [client]
    if room_id is not None:
        parts += (b',"room_id":', orjson.dumps(room_id))
    if unsigned is not None:
        parts += (b',"unsigned":', unsigned)
    parts.append(b"}")
    return b"".join(parts)


def events(clients: Iterable[bytes]) -> bytes:
    """A JSON array of stored events as they are, without ``unsigned``."""
    joined = b"},".join(clients)
    return b"[" + joined + b"}]" if joined else b"[]"


def unsigned(
    *,
    age: int | None = None,
    membership: str | None = None,
    transaction_id: str | None = None,
    replaces_state: str | None = None,
    prev_content: bytes | None = None,
    redacted_because: bytes | None = None,
    relations: bytes | None = None,
    invite_room_state: Sequence[bytes] | None = None,
    knock_room_state: Sequence[bytes] | None = None,
) -> bytes:
    """The ``unsigned`` of a client event as JSON: ``age`` in milliseconds, ``membership`` of the reader at the event.

    What is bytes is spliced: ``prev_content`` of the replaced state event (`content_of`), the redaction as a whole
    client event, ``m.relations``, and stripped state events (`stripped`).
    spec: client-server-api/#room-event-format
    """
    fields: dict[str, Any] = {
        "age": age,
        "membership": membership,
        "transaction_id": transaction_id,
        "replaces_state": replaces_state,
        "prev_content": _spliced(prev_content),
        "redacted_because": _spliced(redacted_because),
        "m.relations": _spliced(relations),
        "invite_room_state": _spliced_list(invite_room_state),
        "knock_room_state": _spliced_list(knock_room_state),
    }
    return orjson.dumps({key: value for key, value in fields.items() if value is not None})


def stripped(client: bytes) -> bytes:
    """The stripped state event of a stored state event. spec: client-server-api/#stripped-state"""
    return client[: _end_of_content(client)] + client[client.rindex(_SENDER_MEMBER) :] + b"}"


def stripped_from(state_event: object) -> bytes | None:
    """A stripped state event pruned from what another server sent as one; None if it is none.

    spec: client-server-api/#stripped-state
    """
    if not isinstance(state_event, dict):
        return None
    content, sender = state_event.get("content"), state_event.get("sender")
    event_type, state_key = state_event.get("type"), state_event.get("state_key")
    if not isinstance(content, dict) or not isinstance(event_type, str) or not isinstance(state_key, str):
        return None
    if not identifiers.is_user_id(sender) or not identifiers.fits(event_type) or not identifiers.fits(state_key):
        return None
    try:
        return orjson.dumps({"content": content, "sender": sender, "state_key": state_key, "type": event_type})
    except orjson.JSONEncodeError:
        return None


def _end_of_content(client: bytes) -> int:
    """The index of the comma after the content.

    No string can hold this sequence, for in a string a backslash comes before a quotation mark; and ``event_id`` is
    followed by strings and numbers only, and an object of one number. So its last occurrence is at the top level; so is
    that of ``sender``.
    """
    return client.rindex(_EVENT_ID_MEMBER)


def _spliced(encoded: bytes | None) -> orjson.Fragment | None:
    return None if encoded is None else orjson.Fragment(encoded)


def _spliced_list(encoded: Sequence[bytes] | None) -> orjson.Fragment | None:
    return None if encoded is None else orjson.Fragment(b"[" + b",".join(encoded) + b"]")
