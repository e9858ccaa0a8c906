"""Policy servers: who signs the events of a room that it recommends, by the room's m.room.policy.

A recommendation binds no authorisation rule: an event without one is soft-failed, and ours are not sent.

spec: server-server-api/#policy-servers
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from homeserver.protocol.errors import BadJson, InvalidSignature
from homeserver.protocol.identifiers import is_server_name
from homeserver.protocol.signing import VerifyKey, event_signed_bytes, verify_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.protocol.event_view import EventCore, StateKey
    from homeserver.protocol.events import Event
    from homeserver.protocol.signing import SigningKey

POLICY: Final[StateKey] = ("m.room.policy", "")
KEY_ID: Final = "ed25519:policy_server"
"""Under which a policy server's signature stands, whatever its other keys are called."""


class PolicyServer(NamedTuple):
    """A policy server, and the key that a room names for it."""

    name: str
    key: VerifyKey


def named_by(event: EventCore | None) -> PolicyServer | None:
    """The policy server that an m.room.policy names, if it does. It counts only while it has a member in the room.

    spec: server-server-api/#determining-if-a-policy-server-is-enabled-in-a-room
    """
    if event is None:
        return None
    via, keys = event.content.get("via"), event.content.get("public_keys")
    text = keys.get("ed25519") if isinstance(keys, dict) else None
    if not isinstance(via, str) or not is_server_name(via) or not isinstance(text, str):
        return None
    try:
        return PolicyServer(via, VerifyKey.from_base64(KEY_ID, text))
    except BadJson:
        return None


def is_asked_about(event: EventCore) -> bool:
    """Whether an event needs a recommendation: all do but those that name the policy server."""
    return (event.type, event.state_key) != POLICY


def recommends(policy: PolicyServer, signed: bytes, signatures: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a policy server signed an event, of which ``signed`` is what signatures cover.

    spec: server-server-api/#validating-policy-server-signatures
    """
    try:
        verify_bytes(signed, signatures, policy.name, {KEY_ID: policy.key})
    except InvalidSignature:
        return False
    return True


def signature(event: Event, key: SigningKey) -> str:
    """The signature by which a policy server recommends an event, in unpadded Base64; it stands under `KEY_ID`.

    spec: server-server-api/#post_matrixpolicyv1sign
    """
    return key.sign(event_signed_bytes(event.rules, event.pdu()))
