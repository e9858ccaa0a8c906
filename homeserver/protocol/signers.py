"""Which servers must have signed an event. That they have is proved with `Event.verify`, one by one.

spec: server-server-api/#validating-hashes-and-signatures-on-received-events
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol.event_view import MEMBER
from homeserver.protocol.identifiers import domain_of
from homeserver.protocol.membership_rules import authorising_server

if TYPE_CHECKING:
    from homeserver.protocol.event_view import EventCore, EventView
    from homeserver.protocol.versions import RoomRules


def required_signers(rules: RoomRules, event: EventView) -> frozenset[str]:
    """The servers without whose valid signatures an event is to be dropped.

    It may be none: the invite that comes of a third-party invite is sent in the name of the one who made that, by
    whichever server, and is proved by the signature that the authorisation rules check.

    spec: server-server-api/#validating-hashes-and-signatures-on-received-events, rooms/v8/#authorisation-rules
    """
    signers = set() if _is_third_party_invite(event) else {domain_of(event.sender)}
    if rules.event_id_domain_signs:
        signers.add(domain_of(event.event_id))
    authoriser = authorising_server(rules, event)
    if authoriser is not None:
        signers.add(authoriser)
    return frozenset(signers)


def _is_third_party_invite(event: EventCore) -> bool:
    return (
        event.type == MEMBER and event.content.get("membership") == "invite" and "third_party_invite" in event.content
    )
