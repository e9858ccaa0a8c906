"""The authorisation rules: whether an event is allowed, given the state that the rule is asked against.

`check` runs for each event that a user sends, against the state in memory, so an ordinary message costs a few
dictionary look-ups and no allocation but one. Signatures are not its subject: who receives an event checks them.

spec: rooms/v12/#authorisation-rules
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.protocol import power_levels
from homeserver.protocol.event_view import CREATE, JOIN_RULES, MEMBER, POWER_LEVELS, THIRD_PARTY_INVITE
from homeserver.protocol.identifiers import domain_of, is_user_id
from homeserver.protocol.membership_rules import authorising_user, check_membership, signed_part, verify_signed
from homeserver.protocol.power_levels import Levels
from homeserver.protocol.rejection import Rejected as Rejected
from homeserver.protocol.versions import SUPPORTED

if TYPE_CHECKING:
    from collections.abc import Collection, Container

    from homeserver.protocol.event_view import EventCore, EventView, State, StateKey
    from homeserver.protocol.membership_rules import Verify
    from homeserver.protocol.versions import RoomRules

_MEMBERSHIPS_UNDER_JOIN_RULES: Final = ("join", "invite", "knock")


# -- selection


def auth_types_for(rules: RoomRules, event: EventCore) -> list[StateKey]:
    """The places of the state whose events are an event's ``auth_events``, as far as the state has them.

    Without repetition, in a fixed order. Empty for m.room.create.
    spec: server-server-api/#auth-events-selection
    """
    if event.type == "m.room.create":
        return []
    selected = [POWER_LEVELS, (MEMBER, event.sender)]
    if rules.create_in_auth_events:
        selected.insert(0, CREATE)
    if event.type == MEMBER:
        selected += [place for place in _selected_by_membership(rules, event) if place not in selected]
    return selected


def _selected_by_membership(rules: RoomRules, event: EventCore) -> list[StateKey]:
    selected: list[StateKey] = [] if event.state_key is None else [(MEMBER, event.state_key)]
    membership = event.content.get("membership")
    if membership in _MEMBERSHIPS_UNDER_JOIN_RULES:
        selected.append(JOIN_RULES)
    if membership == "invite":
        token = (signed_part(event) or {}).get("token")
        if isinstance(token, str):
            selected.append((THIRD_PARTY_INVITE, token))
    if membership == "join":
        authoriser = authorising_user(rules, event)
        if authoriser is not None:
            selected.append((MEMBER, authoriser))
    return selected


def check_auth_events(
    rules: RoomRules, event: EventView, auth_events: Collection[EventView], rejected: Container[str] = ()
) -> None:
    """Whether ``auth_events``, the events that ``event.auth_events`` names, are such as it may cite. Raises Rejected.

    ``rejected`` has the ids of those among them that were rejected themselves. The state that they make up, with the
    m.room.create where the room version leaves it out, is what `check` is then to be asked against.

    spec: rooms/v12/#authorisation-rules
    """
    if event.type == "m.room.create":
        return
    expected = auth_types_for(rules, event)
    seen: set[StateKey] = set()
    for cited in auth_events:
        place = (cited.type, cited.state_key)
        if place[1] is None or place not in expected:
            raise Rejected(f"The event cites a {cited.type} that does not bear on it")
        if place in seen:
            raise Rejected(f"The event cites two events for the same {cited.type}")
        if cited.event_id in rejected:
            raise Rejected("The event cites an event that was rejected")
        if cited.room_id != event.room_id:
            raise Rejected("The event cites an event of another room")
        seen.add((cited.type, place[1]))
    if rules.create_in_auth_events and CREATE not in seen:
        raise Rejected("The event does not cite the m.room.create event")


# -- the rules


def check(rules: RoomRules, event: EventView, state: State, verify: Verify = verify_signed) -> None:
    """Whether an event is allowed, by the rules of its room version, when the room is in ``state``. Raises Rejected.

    ``state`` needs the places that `auth_types_for` names and always m.room.create, also where events do not cite it;
    more does no harm. ``verify`` checks signatures of third-party invites. Of ``join_authorised_via_users_server``
    the caller has checked the signature (`membership_rules.authorising_server`).

    spec: rooms/v12/#authorisation-rules
    """
    event_type = event.type
    if event_type == "m.room.create":
        _check_create(rules, event)
        return
    create = state.get(CREATE)
    if create is None:
        raise Rejected("The room has no m.room.create event")
    if event.room_id != create.room_id:
        raise Rejected("The event is of another room than the m.room.create event")
    sender = event.sender
    if create.content.get("m.federate") is False and domain_of(sender) != domain_of(create.sender):
        raise Rejected("This room does not federate")
    if event_type == "m.room.aliases" and rules.aliases_rule:
        if event.state_key is None or event.state_key != domain_of(sender):
            raise Rejected("A server may only list its own aliases")
        return
    current_levels = state.get(POWER_LEVELS)
    levels = Levels(rules, create, current_levels)
    if event_type == MEMBER:
        check_membership(rules, event, state, levels, verify)
        return
    member = state.get((MEMBER, sender))
    if member is None or member.content.get("membership") != "join":
        raise Rejected("The sender is not in the room")
    sender_level = levels.of(sender)
    if event_type == THIRD_PARTY_INVITE:
        if sender_level < levels.invite:
            raise Rejected("The sender may not invite to this room")
        return
    state_key = event.state_key
    if sender_level < levels.to_send(event_type, is_state=state_key is not None):
        raise Rejected(f"The sender does not have the power level to send {event_type}")
    if state_key is not None and state_key[:1] == "@" and state_key != sender:
        raise Rejected("A state_key that is a user ID must be the sender's")
    if event_type == "m.room.power_levels":
        power_levels.check_change(rules, event, create, current_levels, sender_level)
    elif event_type == "m.room.redaction" and rules.redaction_rule:
        _check_redaction(event, levels, sender_level)


def _check_create(rules: RoomRules, event: EventView) -> None:
    content = event.content
    if event.prev_events:
        raise Rejected("The m.room.create event must be the first of its room")
    if rules.room_id_is_create_hash:
        if event.room_id[1:] != event.event_id[1:]:
            raise Rejected("The room ID is not the ID of the m.room.create event")
    elif domain_of(event.room_id) != domain_of(event.sender):
        raise Rejected("The room ID is not of the sender's server")
    version = content.get("room_version", rules.version)
    if not isinstance(version, str) or version not in SUPPORTED:
        raise Rejected("The room version is not supported")
    if rules.create_has_creator and "creator" not in content:
        raise Rejected("The m.room.create event names no creator")
    if rules.creators_unlimited and "additional_creators" in content:
        additional = content["additional_creators"]
        if not isinstance(additional, list) or not all(map(is_user_id, additional)):
            raise Rejected("additional_creators is not a list of user IDs")


def _check_redaction(event: EventView, levels: Levels, sender_level: int) -> None:
    if sender_level >= levels.redact:
        return
    if event.redacts is None or domain_of(event.redacts) != domain_of(event.event_id):
        raise Rejected("The sender may not redact that event")


# -- redactions, where they are decided when they are applied


def may_redact(rules: RoomRules, sender: str, redacted_sender: str, state: State) -> bool:
    """Whether the redaction by ``sender`` of an event by ``redacted_sender`` takes effect in the present ``state``.

    Both events must be valid and of the same room. Where the room version decides this when the redaction is
    authorised, it always does.

    spec: rooms/v12/#handling-redactions
    """
    if rules.redaction_rule or domain_of(sender) == domain_of(redacted_sender):
        return True
    create = state.get(CREATE)
    levels = Levels(rules, create, state.get(POWER_LEVELS))
    return levels.of(sender) >= levels.redact
