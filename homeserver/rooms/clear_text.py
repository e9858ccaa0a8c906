"""What other servers send in the clear though it should be encrypted: it is soft-failed, and its content is not kept.

The event itself stays, redacted, so that the room's graph is whole. The same rules hold for our own users, who are told
(rooms/checks.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol import encryption_rules
from homeserver.protocol.errors import PlaintextRefused

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.protocol.events import Event


def is_clear(server: Server, event: Event) -> bool:
    """Whether an event has content that no server should be able to read. One that has been redacted has none."""
    if server.settings.conformance_mode or not event.content:
        return False
    return encryption_rules.is_plaintext(
        event.type,
        event.content,
        is_state=event.is_state,
        allow_in_clear=frozenset(server.settings.encryption.allow_in_clear),
    )


def without_text(server: Server, event: Event) -> Event:
    """The event as it is kept: redacted, and counted, if it is in the clear."""
    if not is_clear(server, event):
        return event
    _count(server, "plaintext")
    return event.redacted()


def weakens(server: Server, event: Event, current: Event | None) -> bool:
    """Whether an m.room.encryption event would let a room be less well encrypted than ``current``, its present one,
    does. Such are counted."""
    if server.settings.conformance_mode or event.type != encryption_rules.ENCRYPTION or not event.is_state:
        return False
    try:
        encryption_rules.refuse_weaker_encryption(
            event.state_key or "", event.content, None if current is None else current.content
        )
    except PlaintextRefused:
        _count(server, "weaker_encryption")
        return True
    return False


def _count(server: Server, what: str) -> None:
    server.telemetry.counter(
        "domicile_federation_unencrypted",
        "Events of other servers whose content was not encrypted, or that would have weakened encryption.",
        ["what"],
    ).inc(what)
