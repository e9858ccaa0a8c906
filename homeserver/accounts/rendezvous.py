"""Slots in which two devices of a user leave each other short texts while one signs the other in by a QR code.

What they leave is encrypted between them. Slots are kept in memory, bounded in number, size and time, and belong to
nobody: whoever knows the name of one may read and write it, and nobody can find out a name.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from homeserver.protocol.errors import NotFound, TooLarge
from homeserver.runtime.passing import Passing

if TYPE_CHECKING:
    from homeserver.context import Server

LARGEST: Final = 4096
"""Bytes of a text."""
LIFETIME_MS: Final = 5 * 60 * 1000


@dataclass(slots=True)
class Slot:
    """One slot. ``version`` is another after each write; times in milliseconds since 1970."""

    name: str
    text: bytes
    version: str
    written_ts: int
    ends_ts: int


class Slots(Passing[str, Slot]):
    """All slots, by their names. One for the deployment."""

    most = 2000


def _check(text: bytes) -> None:
    if len(text) > LARGEST:
        raise TooLarge(f"A text has at most {LARGEST} bytes")


def create(server: Server, text: bytes) -> Slot:
    """A new slot with a text in it; beyond the bound the oldest goes. Raises TooLarge."""
    _check(text)
    now = server.clock.now_ms()
    slot = Slot(secrets.token_urlsafe(24), text, secrets.token_urlsafe(12), now, now + LIFETIME_MS)
    slots = server.nodes.directory.memory(Slots)
    slots.put(slot.name, slot, server.clock.monotonic(), LIFETIME_MS / 1000)
    return slot


def find(server: Server, name: str) -> Slot:
    """A slot by its name. Raises NotFound."""
    slot = server.nodes.directory.memory(Slots).get(name, server.clock.monotonic())
    if slot is None:
        raise _none()
    return slot


def _none() -> NotFound:
    return NotFound("There is no such rendezvous, or it has ended")


def write(server: Server, name: str, text: bytes, version: str) -> tuple[Slot, bool]:
    """Put another text into a slot, if it still is of this version; returns it, and whether it was.

    Raises NotFound, TooLarge.
    """
    slot = find(server, name)
    _check(text)
    if slot.version != version:
        return slot, False
    slot.text, slot.version, slot.written_ts = text, secrets.token_urlsafe(12), server.clock.now_ms()
    return slot, True


def delete(server: Server, name: str) -> None:
    """Remove a slot. Raises NotFound."""
    if server.nodes.directory.memory(Slots).pop(name, server.clock.monotonic()) is None:
        raise _none()
