"""The authorisation rules for m.room.member: who may join, invite, leave, kick, ban and knock.

Each function states one rule of the specification and raises Rejected if it does not hold.

spec: rooms/v12/#authorisation-rules
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson
from homeserver.protocol.event_view import CREATE, JOIN_RULES, MEMBER, THIRD_PARTY_INVITE
from homeserver.protocol.identifiers import domain_of, is_user_id
from homeserver.protocol.power_levels import creator_of
from homeserver.protocol.rejection import Rejected
from homeserver.protocol.signing import VerifyKey, decode_base64

if TYPE_CHECKING:
    from homeserver.protocol.event_view import EventCore, EventView, State
    from homeserver.protocol.power_levels import Levels
    from homeserver.protocol.versions import RoomRules

AUTHORISED_VIA: Final = "join_authorised_via_users_server"

Verify = Callable[[Mapping[str, Any], str, str], bool]
"""``(signed, signature, public_key) -> bool``: whether an Ed25519 signature of the JSON object ``signed`` (without its
``signatures`` and ``unsigned``) is by that key; both in Base64, of either alphabet, padded or not."""


def verify_signed(signed: Mapping[str, Any], signature: str, public_key: str) -> bool:
    """The Verify that is used in earnest. False for whatever cannot be decoded.

    spec: appendices/#checking-for-a-signature
    """
    message = {key: value for key, value in signed.items() if key not in ("signatures", "unsigned")}
    try:
        key = VerifyKey.from_base64("ed25519:any", public_key)
        return key.verifies(canonical.encode(message, strict=False), decode_base64(signature))
    except BadJson:
        return False


# -- reading the state


def membership_of(state: State, user_id: str) -> str:
    """The membership of a user in a state: ``leave`` if there is no event, or one without a string for it."""
    event = state.get((MEMBER, user_id))
    value = None if event is None else event.content.get("membership")
    return value if isinstance(value, str) else "leave"


def join_rule_of(state: State) -> str:
    """The ``join_rule`` of a state: ``invite`` if there is none. spec: client-server-api/#mroomjoin_rules"""
    event = state.get(JOIN_RULES)
    value = "invite" if event is None else event.content.get("join_rule")
    return value if isinstance(value, str) else ""


def authorising_user(rules: RoomRules, event: EventCore) -> str | None:
    """The user whose server vouches for a restricted join, if the event names one and the room version knows it.

    The event must be signed by that user's server (``domain_of`` the answer); who receives an event checks this
    together with the sender's signature, before the rules are asked.

    spec: rooms/v8/#authorisation-rules
    """
    if event.type != MEMBER or not rules.restricted_join:
        return None
    value = event.content.get(AUTHORISED_VIA)
    return value if isinstance(value, str) else None


# -- the rules


def check_membership(
    rules: RoomRules, event: EventView, state: State, levels: Levels, verify: Verify = verify_signed
) -> None:
    """Whether an m.room.member event is allowed in ``state``, which has the m.room.create. Raises Rejected.

    spec: rooms/v12/#authorisation-rules
    """
    if event.state_key is None:
        raise Rejected("A membership must have a state_key")
    if not is_user_id(event.state_key):
        raise Rejected("The state_key of a membership must be a user ID")
    membership = event.content.get("membership")
    if not isinstance(membership, str):
        raise Rejected("A membership event must have a membership")
    if rules.restricted_join and AUTHORISED_VIA in event.content and not is_user_id(event.content[AUTHORISED_VIA]):
        raise Rejected(f"{AUTHORISED_VIA} is not a user ID, so that nobody can have signed for it")
    if membership == "join":
        _check_join(rules, event, state, levels)
    elif membership == "invite":
        _check_invite(event, state, levels, verify)
    elif membership == "leave":
        _check_leave(rules, event, state, levels)
    elif membership == "ban":
        _check_ban(event, state, levels)
    elif membership == "knock" and rules.knock:
        _check_knock(rules, event, state)
    else:
        raise Rejected("That membership is unknown in this room version")


def _check_join(rules: RoomRules, event: EventView, state: State, levels: Levels) -> None:
    if _is_first_join(rules, event, state):
        return
    if event.sender != event.state_key:
        raise Rejected("Nobody can join in the name of another user")
    membership = membership_of(state, event.sender)
    if membership == "ban":
        raise Rejected("The user is banned from this room")
    join_rule = join_rule_of(state)
    if join_rule == "public":
        return
    if not _admits_invited(rules, join_rule):
        raise Rejected("The join rule of this room admits nobody")
    if membership in ("join", "invite"):
        return
    if not _is_restricted(rules, join_rule):
        raise Rejected("The user is not invited to this room")
    _check_authorising_user(event, state, levels)


def _is_first_join(rules: RoomRules, event: EventView, state: State) -> bool:
    create = state[CREATE]
    return list(event.prev_events) == [create.event_id] and event.state_key == creator_of(rules, create)


def _is_restricted(rules: RoomRules, join_rule: str) -> bool:
    return (join_rule == "restricted" and rules.restricted_join) or (
        join_rule == "knock_restricted" and rules.knock_restricted
    )


def _admits_invited(rules: RoomRules, join_rule: str) -> bool:
    return join_rule == "invite" or (join_rule == "knock" and rules.knock) or _is_restricted(rules, join_rule)


def _check_authorising_user(event: EventView, state: State, levels: Levels) -> None:
    authoriser = event.content.get(AUTHORISED_VIA)
    if not isinstance(authoriser, str):
        raise Rejected("The user is neither invited to this room nor admitted by one of its members")
    if membership_of(state, authoriser) != "join":
        raise Rejected("The user who admitted the join is not in the room")
    if levels.of(authoriser) < levels.invite:
        raise Rejected("The user who admitted the join may not invite to this room")


def _check_invite(event: EventView, state: State, levels: Levels, verify: Verify) -> None:
    target = event.state_key or ""
    if "third_party_invite" in event.content:
        _check_third_party_invite(event, state, target, verify)
        return
    _check_sender_joined(event, state)
    membership = membership_of(state, target)
    if membership == "join":
        raise Rejected("The user is already in the room")
    if membership == "ban":
        raise Rejected("The user is banned from this room")
    if levels.of(event.sender) < levels.invite:
        raise Rejected("The sender may not invite to this room")


def _check_third_party_invite(event: EventView, state: State, target: str, verify: Verify) -> None:
    if membership_of(state, target) == "ban":
        raise Rejected("The user is banned from this room")
    signed = signed_part(event)
    if signed is None:
        raise Rejected("The third-party invite is not signed")
    mxid, token = signed.get("mxid"), signed.get("token")
    if mxid is None or token is None:
        raise Rejected("The third-party invite lacks mxid or token")
    if mxid != target:
        raise Rejected("The third-party invite is for another user")
    invite = state.get((THIRD_PARTY_INVITE, token)) if isinstance(token, str) else None
    if invite is None:
        raise Rejected("There is no such third-party invite in this room")
    if invite.sender != event.sender:
        raise Rejected("The third-party invite is by another sender")
    keys = list(_public_keys(invite))
    if not any(verify(signed, signature, key) for signature in _signatures(signed) for key in keys):
        raise Rejected("No signature of the third-party invite is by its keys")


def signed_part(event: EventCore) -> Mapping[str, Any] | None:
    """``third_party_invite.signed`` of an invite, None if there is no such object."""
    invite = event.content.get("third_party_invite")
    signed = invite.get("signed") if isinstance(invite, Mapping) else None
    return signed if isinstance(signed, Mapping) else None


def _signatures(signed: Mapping[str, Any]) -> Iterator[str]:
    servers = signed.get("signatures")
    for by_key in servers.values() if isinstance(servers, Mapping) else ():
        for key_id, signature in by_key.items() if isinstance(by_key, Mapping) else ():
            if key_id.startswith("ed25519:") and isinstance(signature, str):
                yield signature


def keys_of_signer(
    invite: EventView, signed: Mapping[str, Any], verify: Verify = verify_signed
) -> Iterator[tuple[str, str | None]]:
    """The keys of a third-party invite by which something is signed, each with the address at which its validity can be
    asked about; a key without one is valid for ever. spec: client-server-api/#mroomthird_party_invite"""
    for key, url in _keys(invite):
        if any(verify(signed, signature, key) for signature in _signatures(signed)):
            yield key, url


def _public_keys(invite: EventView) -> Iterator[str]:
    return (key for key, _ in _keys(invite))


def _keys(invite: EventView) -> Iterator[tuple[str, str | None]]:
    several = invite.content.get("public_keys")
    for entry in (invite.content, *(several if isinstance(several, list) else ())):
        key = entry.get("public_key") if isinstance(entry, Mapping) else None
        if isinstance(key, str):
            url = entry.get("key_validity_url")
            yield key, url if isinstance(url, str) else None


def _check_leave(rules: RoomRules, event: EventView, state: State, levels: Levels) -> None:
    target = event.state_key or ""
    membership = membership_of(state, target)
    if event.sender == target:
        if membership in ("invite", "join") or (membership == "knock" and rules.knock):
            return
        raise Rejected("The user is not in the room, nor invited to it")
    _check_sender_joined(event, state)
    sender_level = levels.of(event.sender)
    if membership == "ban" and sender_level < levels.ban:
        raise Rejected("The sender may not unban in this room")
    if sender_level < levels.kick:
        raise Rejected("The sender may not remove users from this room")
    if levels.of(target) >= sender_level:
        raise Rejected("The user to be removed is not below the sender in power")


def _check_ban(event: EventView, state: State, levels: Levels) -> None:
    _check_sender_joined(event, state)
    sender_level = levels.of(event.sender)
    if sender_level < levels.ban:
        raise Rejected("The sender may not ban from this room")
    if levels.of(event.state_key or "") >= sender_level:
        raise Rejected("The user to be banned is not below the sender in power")


def _check_knock(rules: RoomRules, event: EventView, state: State) -> None:
    join_rule = join_rule_of(state)
    if join_rule != "knock" and not (join_rule == "knock_restricted" and rules.knock_restricted):
        raise Rejected("This room takes no knocks")
    if event.sender != event.state_key:
        raise Rejected("Nobody can knock in the name of another user")
    if membership_of(state, event.sender) in ("ban", "invite", "join"):
        raise Rejected("The user is banned, invited or in the room already")


def _check_sender_joined(event: EventView, state: State) -> None:
    if membership_of(state, event.sender) != "join":
        raise Rejected("The sender is not in the room")


def authorising_server(rules: RoomRules, event: EventCore) -> str | None:
    """The server that must have signed a restricted join besides the sender's. See `authorising_user`."""
    user = authorising_user(rules, event)
    return None if user is None else domain_of(user)
