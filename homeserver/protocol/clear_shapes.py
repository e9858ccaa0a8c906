"""The shapes of what clients send in the clear by design: each type may carry what it is for, and no message beside it.

spec: client-server-api/#end-to-end-encryption
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import Any, Final, NoReturn

from homeserver.protocol.errors import PlaintextRefused

_LONGEST_NAME: Final = 255
"""Characters of an identifier, a key or another short word in the clear."""
_LONGEST_REACTION: Final = 64
_LONGEST_REASON: Final = 500
_MOST_ENTRIES: Final = 50
_RELATION_KEYS: Final = frozenset(
    ("rel_type", "event_id", "key", "is_falling_back", "io.element.show_reply", "m.in_reply_to")
)
_TEXT_KEYS: Final = frozenset(
    ("body", "formatted_body", "msgtype", "m.new_content", "m.text", "m.message", "url", "file")
)

_TOO_MUCH: Final = "Your app put more than it needs into a part of the message that is not encrypted: {}."


def check_relation(relation: object) -> None:
    """What an event says it relates to, and nothing beside it. Raises PlaintextRefused.

    spec: client-server-api/#definition-mrelates_to
    """
    if not isinstance(relation, Mapping):
        _too_much("m.relates_to")
    check_keys(relation, _RELATION_KEYS, "m.relates_to.")
    for name in ("rel_type", "event_id"):
        if name in relation and not is_short(relation[name]):
            _too_much(f"m.relates_to.{name}")
    if "key" in relation:
        _check_reaction_key(relation["key"])
    for name in ("is_falling_back", "io.element.show_reply"):
        if not isinstance(relation.get(name, False), bool):
            _too_much(f"m.relates_to.{name}")
    if "m.in_reply_to" in relation:
        reply = relation["m.in_reply_to"]
        if not isinstance(reply, Mapping) or set(reply) != {"event_id"} or not is_short(reply["event_id"]):
            _too_much("m.in_reply_to")


def check_relations(relations: object) -> None:
    """A list of relations, as nheko writes them. Raises PlaintextRefused."""
    if not isinstance(relations, list) or len(relations) > _MOST_ENTRIES:
        _too_much("relations")
    for relation in relations:
        check_relation(relation)


def _check_reaction_key(key: object) -> None:
    longest = _LONGEST_NAME if isinstance(key, str) and key.startswith("mxc://") else _LONGEST_REACTION
    if not isinstance(key, str) or len(key) > longest:
        raise PlaintextRefused("Reactions are not encrypted, and this one is too long to be a reaction")


def _check_reaction(content: Mapping[str, Any]) -> None:
    """An annotation and nothing else. spec: client-server-api/#mreaction"""
    check_keys(content, frozenset(("m.relates_to", "shortcode", "com.beeper.reaction.shortcode")))
    relation = content.get("m.relates_to")
    check_relation(relation)
    if not isinstance(relation, Mapping) or not {"rel_type", "event_id", "key"} <= relation.keys():
        raise PlaintextRefused("A reaction must name the message that it is for, and a key")
    if relation["rel_type"] != "m.annotation":
        raise PlaintextRefused("A reaction must be an annotation")
    for name in ("shortcode", "com.beeper.reaction.shortcode"):
        if name in content:
            _check_reaction_key(content[name])


def _check_redaction(content: Mapping[str, Any]) -> None:
    """The redacted event's id and a short reason, which everybody sees. spec: client-server-api/#mroomredaction"""
    check_keys(content, frozenset(("redacts", "reason", "org.matrix.msc3912.with_relations", "with_rel_types")))
    if "redacts" in content and not is_short(content["redacts"]):
        _too_much("redacts")
    reason = content.get("reason")
    if reason is not None and (not isinstance(reason, str) or len(reason) > _LONGEST_REASON):
        raise PlaintextRefused(f"The reason of a redaction is not encrypted; it may have {_LONGEST_REASON} characters")
    for name in ("org.matrix.msc3912.with_relations", "with_rel_types"):
        if name in content:
            _check_short_values(name, content[name], 1)


def _check_signalling(content: Mapping[str, Any]) -> None:
    """Short words, numbers and relations, no text."""
    for name, value in content.items():
        if name in _TEXT_KEYS:
            _too_much(name)
        if name == "m.relates_to":
            check_relation(value)
        else:
            _check_short_values(name, value, 2)


def _check_short_values(name: str, value: object, depth: int) -> None:
    """Refuse anything but short strings, numbers, booleans and, down to ``depth``, small containers of them."""
    if is_short(name) and (value is None or isinstance(value, bool | int) or is_short(value)):
        return
    if depth and isinstance(value, list) and len(value) <= _MOST_ENTRIES:
        for each in value:
            _check_short_values(name, each, depth - 1)
    elif depth and isinstance(value, Mapping) and len(value) <= _MOST_ENTRIES and not _TEXT_KEYS & value.keys():
        for key, each in value.items():
            _check_short_values(key, each, depth - 1)
    else:
        _too_much(name)


def check_keys(content: Mapping[str, Any], allowed: Set[str], within: str = "") -> None:
    """Refuse an event with another key than these. Raises PlaintextRefused."""
    for key in content:
        if key not in allowed:
            _too_much(within + key[:_LONGEST_NAME])


def is_short(value: object) -> bool:
    """Whether this is an identifier, a key or another short word."""
    return isinstance(value, str) and len(value) <= _LONGEST_NAME


def _too_much(name: str) -> NoReturn:
    raise PlaintextRefused(_TOO_MUCH.format(name))


# -- verifying one another in a room

REQUEST: Final = "m.key.verification.request"
"""In a room it is an ``m.room.message`` of this ``msgtype``."""

_REQUEST_KEYS: Final = frozenset(("msgtype", "body", "to", "from_device", "methods", "m.mentions"))
_REQUEST_BODY: Final = re.compile(
    r"(@\S{1,254} is requesting to verify your key, but your client does not support in-chat key verification\.  ?"
    r"You will need to use legacy key verification to verify keys\.)?"
)
"""What clients write for those that know no verification, or nothing."""

STEPS: Final[Mapping[str, Set[str]]] = {
    "m.key.verification.ready": {"from_device", "methods"},
    "m.key.verification.start": {
        *("from_device", "method", "next_method", "hashes", "key_agreement_protocols"),
        *("message_authentication_codes", "short_authentication_string", "secret"),
    },
    "m.key.verification.accept": {
        *("method", "commitment", "hash", "key_agreement_protocol"),
        *("message_authentication_code", "short_authentication_string"),
    },
    "m.key.verification.key": {"key"},
    "m.key.verification.mac": {"mac", "keys"},
    "m.key.verification.done": set(),
    "m.key.verification.cancel": {"code", "reason"},
}
"""The events of a verification, and what each says beside what it relates to."""


def is_verification_request(event_type: str, content: Mapping[str, Any]) -> bool:
    """Whether an event says that it asks somebody to verify the sender's keys."""
    return event_type == "m.room.message" and content.get("msgtype") == REQUEST


def _check_verification_request(content: Mapping[str, Any]) -> None:
    """Whom it asks, from which device, by which methods.

    spec: client-server-api/#mroommessagemkeyverificationrequest
    """
    check_keys(content, _REQUEST_KEYS)
    body = content.get("body", "")
    if not isinstance(body, str) or _REQUEST_BODY.fullmatch(body) is None:
        _too_much("body")
    for name, value in content.items():
        if name not in ("body", "msgtype"):
            _check_short_values(name, value, 2)


def _check_step(allowed: Set[str], content: Mapping[str, Any]) -> None:
    """Keys, codes and names of methods, about an event of the room.

    spec: client-server-api/#key-verification-framework
    """
    check_keys(content, {*allowed, "m.relates_to", "transaction_id"})
    check_relation(content.get("m.relates_to"))
    for name, value in content.items():
        if name != "m.relates_to":
            _check_short_values(name, value, 1)


SHAPES: Final[Mapping[str, Callable[[Mapping[str, Any]], None]]] = {
    "m.reaction": _check_reaction,
    "m.room.redaction": _check_redaction,
    # Ringing and declining say that there is a call. The older m.call.* are not here: they carry the addresses of the
    # callers, and the fingerprints that authenticate the call's media, which a server could then exchange.
    "m.rtc.notification": _check_signalling,
    "org.matrix.msc4075.rtc.notification": _check_signalling,
    "m.rtc.decline": _check_signalling,
    "org.matrix.msc4310.rtc.decline": _check_signalling,
    # Some clients verify one another without encrypting it. Nothing of it is secret, and what a server changed would
    # show: that is what the short string that both people compare is for.
    REQUEST: _check_verification_request,
    **{kind: partial(_check_step, allowed) for kind, allowed in STEPS.items()},
}
"""How each type that may be sent in the clear is checked, by the name that it has in the operator's list."""
