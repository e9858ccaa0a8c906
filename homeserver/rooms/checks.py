"""What is refused before an event is stored: what the state does not allow, what is not encrypted, and redactions of
what others sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from homeserver.protocol import auth_rules, encryption_rules
from homeserver.protocol.errors import Forbidden, PlaintextRefused
from homeserver.protocol.event_view import CREATE, POWER_LEVELS, StateKey
from homeserver.protocol.power_levels import Levels
from homeserver.protocol.rejection import Rejected
from homeserver.rooms.steps import Redacted

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.rooms.send import Draft
    from homeserver.rooms.state import Room, Snapshot

ENCRYPTION: StateKey = ("m.room.encryption", "")


def check_encryption(server: Server, room: Room, draft: Draft, target: Event | None) -> None:
    """Close every way by which something readable could enter; the room's m.room.encryption has been loaded.

    That the event is there is not enough: its algorithm may be none that encrypts. Raises PlaintextRefused.
    """
    if server.settings.conformance_mode:
        return
    encryption_rules.refuse_plaintext(
        draft.type,
        draft.content,
        is_state=draft.state_key is not None,
        allow_in_clear=frozenset(server.settings.encryption.allow_in_clear),
    )
    current = room.head.event(ENCRYPTION)
    if draft.state_key is None and not encryption_rules.is_encrypted(None if current is None else current.content):
        raise PlaintextRefused("This room is not encrypted, so nothing can be sent to it")
    if draft.type == encryption_rules.ENCRYPTION:
        encryption_rules.refuse_weaker_encryption(
            draft.state_key or "", draft.content, None if current is None else current.content
        )
    if target is not None:
        encryption_rules.refuse_redaction(target.type, target.state_key)


def authorise(room: Room, event: Event, snapshot: Snapshot) -> None:
    """Check an event against a snapshot whose entries have been loaded. Raises Forbidden with the rule's reason."""
    places = (CREATE, *auth_rules.auth_types_for(room.rules, event))
    known = {key: found for key in places if (found := snapshot.event(key)) is not None}
    try:
        auth_rules.check(room.rules, event, known)
    except Rejected as error:
        raise Forbidden(error.reason) from None


def check_redaction(room: Room, sender: str, target: Event) -> None:
    """Refuse to redact what others sent without the power to: between servers only the domains of the two count.

    Raises Forbidden. spec: client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid
    """
    levels = Levels(room.rules, room.head.event(CREATE), room.head.event(POWER_LEVELS))
    if sender != target.sender and levels.of(sender) < levels.redact:
        raise Forbidden("You may not redact what others sent to this room")


def redacted(room: Room, redaction: Event, target: Event) -> Redacted | None:
    """What a redaction leaves of its target. Raises Forbidden when its sender may not redact that."""
    known = {key: found for key in (CREATE, POWER_LEVELS) if (found := room.head.event(key)) is not None}
    if target.type == "m.room.create" or not auth_rules.may_redact(room.rules, redaction.sender, target.sender, known):
        raise Forbidden("You may not redact that event")
    return Redacted(
        target.redacted(),
        b'"redacted_because":' + redaction.client + b',"room_id":' + orjson.dumps(room.room_id) + b"}",
    )
