"""Asks the policy server of a room to sign an event. spec: server-server-api/#policy-servers"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from config.residency import DataClass
from federation.remote import RemoteRefusal, ask_for
from homeserver.protocol import policy_server, signing
from homeserver.protocol.errors import Forbidden, LimitExceeded, ServerUnreachable
from homeserver.protocol.policy_server import KEY_ID

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.protocol.policy_server import PolicyServer
    from homeserver.storage.nodes import Node

MOST_BYTES: Final = 64 * 1024
SECONDS: Final = 20.0
"""How long a policy server is waited for."""
RETRY_AFTER_MS: Final = 10_000
"""When those try again whose events were too many for a policy server."""


async def recommend(server: Server, node: Node, event: Event, policy: PolicyServer) -> Event:
    """See `context.Remote.recommend`. spec: server-server-api/#post_matrixpolicyv1sign"""
    try:
        answer = await ask_for(
            server,
            node,
            DataClass.EVENTS,
            policy.name,
            "POST",
            "/_matrix/policy/v1/sign",
            event.pdu_bytes(),
            most=MOST_BYTES,
            seconds=SECONDS,
        )
    except RemoteRefusal as refusal:
        if refusal.status == 429:
            raise LimitExceeded(RETRY_AFTER_MS) from None
        if refusal.errcode == Forbidden.errcode and refusal.words:  # it may say to the user why
            raise Forbidden(refusal.words) from None
        if refusal.status in (400, 403):
            raise Forbidden("The policy server of this room does not recommend that event") from None
        raise ServerUnreachable(f"{policy.name}, the policy server of this room, could not answer") from None
    given = answer.get(policy.name)
    text = given.get(KEY_ID) if isinstance(given, dict) else None
    if isinstance(text, str):
        signed = event.with_signature(policy.name, KEY_ID, text)
        covered = signing.event_signed_bytes(event.rules, signed.pdu())
        if policy_server.recommends(policy, covered, signed.signatures):
            return signed
    raise Forbidden("The policy server of this room does not recommend that event")
