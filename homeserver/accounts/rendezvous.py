"""Slots in which two devices of a user leave each other short texts while one signs the other in by a QR code.

What they leave is encrypted between them. Slots are kept in memory, bounded in number, size and time, and belong to
nobody: whoever knows the name of one may read and write it, and nobody can find out a name.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from homeserver.protocol.errors import NotFound, TooLarge

if TYPE_CHECKING:
    from homeserver.context import Server

MOST: Final = 2000
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


class _Slots:
    """All slots, the oldest first. One for the deployment."""

    def __init__(self) -> None:
        self.slots: OrderedDict[str, Slot] = OrderedDict()


def _slots(server: Server) -> OrderedDict[str, Slot]:
    slots, now = server.nodes.directory.memory(_Slots).slots, server.clock.now_ms()
    while slots and (len(slots) > MOST or next(iter(slots.values())).ends_ts <= now):
        slots.popitem(last=False)
    return slots


def _check(text: bytes) -> None:
    if len(text) > LARGEST:
        raise TooLarge(f"A text has at most {LARGEST} bytes")


def create(server: Server, text: bytes) -> Slot:
    """A new slot with a text in it; beyond the bound the oldest goes. Raises TooLarge."""
    _check(text)
    now = server.clock.now_ms()
    slot = Slot(secrets.token_urlsafe(24), text, secrets.token_urlsafe(12), now, now + LIFETIME_MS)
    slots = _slots(server)
    slots[slot.name] = slot
    if len(slots) > MOST:
        slots.popitem(last=False)
    return slot


def find(server: Server, name: str) -> Slot:
    """A slot by its name. Raises NotFound."""
    slot = _slots(server).get(name)
    if slot is None:
        raise NotFound("There is no such rendezvous, or it has ended")
    return slot


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
    find(server, name)
    del _slots(server)[name]
