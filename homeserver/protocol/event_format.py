"""The event format of each room version: required properties, their types, and the size limits.

What passes here can be hashed, stored and looked at by the authorisation rules without another type check.

spec: server-server-api/#pdus, client-server-api/#size-limits
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol import canonical, identifiers
from homeserver.protocol.errors import BadJson, TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from homeserver.protocol.versions import RoomRules

MAX_PDU_BYTES: Final = 65_536
"""The whole event in federation format as canonical JSON, signatures included, ``unsigned`` not."""
MAX_PREV_EVENTS: Final = 20
MAX_AUTH_EVENTS: Final = 10
_INT64: Final = 2**63


def check_format(rules: RoomRules, pdu: Mapping[str, Any]) -> None:
    """Check an event in federation format as another server sends it, except for its size as a whole.

    Raises BadJson, or TooLarge for a property that exceeds its limit. spec: rooms/v12/#event-format
    """
    check_fields(rules, pdu)
    check_event_id(rules, pdu.get("event_id"))
    hashes = pdu.get("hashes")
    if not isinstance(hashes, dict) or not isinstance(hashes.get("sha256"), str):
        raise BadJson("An event needs hashes with a sha256")
    _check_signatures(pdu.get("signatures"))
    if not isinstance(pdu.get("unsigned", {}), dict):
        raise BadJson("unsigned of an event must be an object")
    if rules.strict_canonical_json:
        canonical.check({key: value for key, value in pdu.items() if key != "unsigned"})


def check_fields(rules: RoomRules, pdu: Mapping[str, Any]) -> None:
    """The part of `check_format` that holds for an event before it is hashed and signed. Raises BadJson, TooLarge."""
    _check_strings(pdu)
    _check_room_id(rules, pdu)
    if not isinstance(pdu.get("content"), dict):
        raise BadJson("content of an event must be an object")
    if not 0 <= _integer(pdu, "depth") <= rules.max_depth:
        raise BadJson("depth of an event is out of range")
    if not -_INT64 <= _integer(pdu, "origin_server_ts") < _INT64:
        raise BadJson("origin_server_ts of an event is out of range")
    _check_references(rules, pdu, "prev_events", MAX_PREV_EVENTS)
    _check_references(rules, pdu, "auth_events", MAX_AUTH_EVENTS)
    if pdu["type"] == "m.room.redaction" and not rules.redacts_in_content:
        _check_redacts(pdu)


def check_event_id(rules: RoomRules, event_id: object) -> None:
    """Check the ``event_id`` of an event in federation format, None if it has none. Raises BadJson."""
    if not rules.event_id_is_hash:
        if not identifiers.is_event_id_with_domain(event_id):
            raise BadJson("event_id of an event must be an event ID with a domain")
    elif event_id is not None:
        # Nobody may mistake it for the true one. spec: rooms/v3/#event-format
        raise BadJson("An event of this room version does not carry its event_id")


def check_size(pdu: bytes) -> None:
    """Raise TooLarge if an event in federation format, without ``unsigned``, exceeds 65,536 bytes."""
    if len(pdu) > MAX_PDU_BYTES:
        raise TooLarge(f"The event is larger than {MAX_PDU_BYTES} bytes")


# -- references


def references(rules: RoomRules, event_ids: Iterable[str], hashes: Mapping[str, str]) -> list[Any]:
    """``prev_events`` or ``auth_events`` as they stand in the federation format.

    ``hashes`` has the reference hash in Base64 of each event, where the room version wants it: KeyError if not.
    spec: rooms/v1/#event-format, rooms/v3/#event-format
    """
    if rules.event_id_is_hash:
        return list(event_ids)
    return [[event_id, {"sha256": hashes[event_id]}] for event_id in event_ids]


def referenced(rules: RoomRules, checked: Sequence[Any]) -> Sequence[str]:
    """The event ids in ``prev_events`` or ``auth_events`` that have been checked."""
    return checked if rules.event_id_is_hash else [reference[0] for reference in checked]


# -- the checks, one by one


def _check_strings(pdu: Mapping[str, Any]) -> None:
    event_type, state_key = pdu.get("type"), pdu.get("state_key", "")
    if not isinstance(event_type, str) or not isinstance(state_key, str):
        raise BadJson("type and state_key of an event must be strings")
    if not identifiers.fits(event_type):
        raise TooLarge("type of an event must be at most 255 bytes")
    if not identifiers.fits(state_key):
        raise TooLarge("state_key of an event must be at most 255 bytes")
    if not identifiers.is_user_id(pdu.get("sender")):
        raise BadJson("sender of an event must be a user ID")


def _check_room_id(rules: RoomRules, pdu: Mapping[str, Any]) -> None:
    room_id = pdu.get("room_id")
    if not rules.room_id_is_create_hash:
        if not isinstance(room_id, str) or not identifiers.is_room_id_with_domain(room_id):
            raise BadJson("room_id of an event must be a room ID with a domain")
    elif pdu["type"] == "m.room.create":
        if "room_id" in pdu or pdu.get("state_key") != "":
            raise BadJson("The create event of this room version has an empty state_key and no room_id")
    elif not isinstance(room_id, str) or not identifiers.is_hash_room_id(room_id):
        raise BadJson("room_id of an event must be a room ID without a domain")


def _integer(pdu: Mapping[str, Any], key: str) -> int:
    value = pdu.get(key)
    if type(value) is not int:  # bool is an int to isinstance
        raise BadJson(f"{key} of an event must be an integer")
    return value


def _check_references(rules: RoomRules, pdu: Mapping[str, Any], key: str, limit: int) -> None:
    references = pdu.get(key)
    is_reference = identifiers.is_event_id if rules.event_id_is_hash else _is_pair
    if not isinstance(references, list | tuple) or not all(map(is_reference, references)):
        raise BadJson(f"{key} of an event must be a list of references to events")
    if len(references) > limit:
        raise BadJson(f"{key} of an event must name at most {limit} events")


def _is_pair(reference: object) -> bool:
    """Whether this is an event id with hashes. What hashes they are is left open, for nothing is derived from them."""
    return (
        isinstance(reference, list | tuple)
        and len(reference) == 2
        and identifiers.is_event_id(reference[0])
        and isinstance(reference[1], dict)
    )


def _check_redacts(pdu: Mapping[str, Any]) -> None:
    redacts = pdu.get("redacts", "")
    if not isinstance(redacts, str):
        raise BadJson("redacts of a redaction must be an event ID")
    canonical.encode(redacts)  # refuses lone surrogates


def _check_signatures(signatures: object) -> None:
    if not isinstance(signatures, dict):
        raise BadJson("signatures of an event must be an object")
    for by_key in signatures.values():
        if not isinstance(by_key, dict) or not all(isinstance(text, str) for text in by_key.values()):
            raise BadJson("signatures of a server must be an object of strings")
