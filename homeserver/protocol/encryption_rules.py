"""What may stand in an event that a server can read: that encryption is not optional, as rules.

Refused is what a careful person would call a message: everything but ciphertext and a short list of types that clients
send in the clear by design, each held to its shape so that it cannot carry a message in passing. State events stay in
the clear, as Matrix leaves them. Nothing here can stop a sender who *wants* to be read, for letters can be packed into
anything; it stops the app that forgot to encrypt, and the one that was told to.

spec: client-server-api/#end-to-end-encryption
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from collections.abc import Mapping, Set
from typing import Any, Final, NoReturn

from homeserver.protocol.clear_shapes import (
    REQUEST,
    SHAPES,
    check_keys,
    check_relation,
    check_relations,
    is_short,
    is_verification_request,
)
from homeserver.protocol.errors import PlaintextRefused

ENCRYPTED: Final = "m.room.encrypted"
ENCRYPTION: Final = "m.room.encryption"
MEGOLM: Final = "m.megolm.v1.aes-sha2"

ROTATION_PERIOD_MS: Final = 7 * 24 * 60 * 60 * 1000
"""The recommended default, and the most that a room may have. spec: client-server-api/#mroomencryption"""
ROTATION_PERIOD_MSGS: Final = 100
"""The recommended default, and the most that a room may have. spec: client-server-api/#mroomencryption"""

_KEY: Final = re.compile(r"[A-Za-z0-9+/]{43}")
_MEGOLM_VERSION: Final = 3
_MEGOLM_TRAILER: Final = 8 + 64
"""Bytes of MAC and signature at the end of a Megolm message. spec: olm-megolm/megolm/#message-format"""

_CIPHERTEXT_KEYS: Final = frozenset(
    (
        "algorithm",
        "ciphertext",
        "session_id",
        "sender_key",
        "device_id",
        "m.relates_to",
        "im.nheko.relations.v1.relations",
    )
)
_MESSAGE_TYPES: Final = frozenset(
    (
        *("m.room.message", "m.sticker", "m.reaction", "m.room.redaction"),
        *(
            "m.message",
            "m.text",
            "m.emote",
            "m.notice",
            "m.image",
            "m.video",
            "m.audio",
            "m.voice",
            "m.file",
            "m.location",
        ),
        *("m.call.invite", "m.call.candidates", "m.call.answer", "m.call.hangup", "m.call.reject"),
        *("m.call.negotiate", "m.call.select_answer", "m.call.sdp_stream_metadata_changed"),
    )
)
_MESSAGE_TYPE_PREFIXES: Final = ("m.key.verification.", "m.poll.", "org.matrix.msc3381.", "org.matrix.msc1767.")

_NOT_ENCRYPTED: Final = (
    "Messages on this server must be end-to-end encrypted, so that nobody but the people in the room can read them. "
    "Your app sent this one in readable form; it was neither sent on nor kept. Use an app that encrypts."
)
_NO_CIPHERTEXT: Final = "Your app marked this message as encrypted, but it is not: {}. It was neither sent on nor kept."


# -- events


def refuse_plaintext(
    event_type: str,
    content: Mapping[str, Any],
    *,
    is_state: bool,
    allow_in_clear: Set[str] | None = None,
    conformance: bool = False,
) -> None:
    """Raise PlaintextRefused, with words for the user, if an event has content that a server must not be able to read.

    ``allow_in_clear`` is what the operator left of IN_CLEAR (None: all of it); types beyond IN_CLEAR are never
    allowed. ``conformance`` lifts the rule altogether. Changes of m.room.encryption have a rule of their own,
    `refuse_weaker_encryption`, and redactions of it another, `refuse_redaction`.
    """
    if conformance:
        return
    if event_type == ENCRYPTED:
        _check_ciphertext(content)
    elif is_state:
        if event_type in _MESSAGE_TYPES or event_type.startswith(_MESSAGE_TYPE_PREFIXES):
            raise PlaintextRefused(_NOT_ENCRYPTED)
    else:
        name = REQUEST if is_verification_request(event_type, content) else event_type
        check_shape = SHAPES.get(name)
        if check_shape is None or (allow_in_clear is not None and name not in allow_in_clear):
            raise PlaintextRefused(_NOT_ENCRYPTED)
        check_shape(content)


def is_plaintext(
    event_type: str, content: Mapping[str, Any], *, is_state: bool, allow_in_clear: Set[str] | None = None
) -> bool:
    """Whether `refuse_plaintext` would refuse an event: for those of peers, which are not answered."""
    try:
        refuse_plaintext(event_type, content, is_state=is_state, allow_in_clear=allow_in_clear)
    except PlaintextRefused:
        return True
    return False


# -- ciphertext


def _check_ciphertext(content: Mapping[str, Any]) -> None:
    """Whether this is the content of an m.room.encrypted event with a Megolm message, and nothing beside it.

    spec: client-server-api/#mmegolmv1aes-sha2
    """
    if content.get("algorithm") != MEGOLM:
        _not_ciphertext(f"its algorithm is not {MEGOLM}")
    if not is_megolm_message(content.get("ciphertext")):
        _not_ciphertext("it holds no ciphertext")
    if not _is_key(content.get("session_id")):
        _not_ciphertext("it names no session")
    if len(content) == 3:
        return
    if "sender_key" in content and not _is_key(content["sender_key"]):
        _not_ciphertext("its sender_key is no key")
    if "device_id" in content and not is_short(content["device_id"]):
        _not_ciphertext("its device_id is none")
    check_keys(content, _CIPHERTEXT_KEYS)
    if "m.relates_to" in content:
        check_relation(content["m.relates_to"])
    if "im.nheko.relations.v1.relations" in content:
        check_relations(content["im.nheko.relations.v1.relations"])


def is_megolm_message(text: object) -> bool:
    """Whether this is the unpadded Base64 of bytes with the parts of a Megolm message, of the right lengths.

    Runs for every message that is sent.

    spec: olm-megolm/megolm/#message-format
    """
    if not isinstance(text, str):
        return False
    try:
        raw = a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except ValueError:
        return False
    if raw[:2] != bytes((_MEGOLM_VERSION, 0x08)):
        return False
    position = _after_integer(raw, 2)[1]
    if raw[position : position + 1] != b"\x12":
        return False
    length, position = _after_integer(raw, position + 1)
    return length > 0 and position + length + _MEGOLM_TRAILER == len(raw)


def _after_integer(raw: bytes, position: int) -> tuple[int, int]:
    """A variable-length integer and the position behind it; of at most five bytes, what follows is then no message."""
    value = 0
    for shift, byte in enumerate(raw[position : position + 5]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, position + shift + 1
    return 0, len(raw)


def _is_key(value: object) -> bool:
    """Whether this is 32 bytes in unpadded Base64."""
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def _not_ciphertext(why: str) -> NoReturn:
    raise PlaintextRefused(_NO_CIPHERTEXT.format(why))


IN_CLEAR: Final = frozenset(SHAPES)
"""The types, other than of state events, that a server may read. An operator can only narrow it."""


# -- the encryption of a room


def refuse_weaker_encryption(
    state_key: str, content: Mapping[str, Any], current: Mapping[str, Any] | None = None
) -> None:
    """Raise PlaintextRefused unless an m.room.encryption event keeps its room at least as well encrypted.

    ``current`` is the content of the present m.room.encryption, None if the room has none yet.
    spec: client-server-api/#mroomencryption
    """
    if state_key != "":
        raise PlaintextRefused("The encryption of a room is set for the whole room, with an empty state_key")
    if content.get("algorithm") != MEGOLM:
        raise PlaintextRefused(f"Rooms on this server are encrypted with {MEGOLM}; this cannot be changed or removed")
    for name, most in (("rotation_period_ms", ROTATION_PERIOD_MS), ("rotation_period_msgs", ROTATION_PERIOD_MSGS)):
        before = most if current is None else _period(current.get(name), most)
        after = content.get(name, most)
        if type(after) is not int or after < 1:
            raise PlaintextRefused(f"{name} must be a positive integer")
        if after > before:
            raise PlaintextRefused(f"{name} may be at most {before}: keys that live longer protect less")


def _period(value: object, most: int) -> int:
    return min(value, most) if type(value) is int and value > 0 else most


def refuse_redaction(event_type: str, state_key: str | None) -> None:
    """Raise PlaintextRefused if a redaction of such an event would take the encryption of a room away.

    spec: client-server-api/#redactions
    """
    if event_type == ENCRYPTION and state_key == "":
        raise PlaintextRefused("The encryption of a room cannot be removed")


def is_encrypted(content: Mapping[str, Any] | None) -> bool:
    """Whether a room with this content of m.room.encryption (None: no such event) may be joined: it is encrypted by
    the algorithm that we insist on."""
    return content is not None and content.get("algorithm") == MEGOLM
