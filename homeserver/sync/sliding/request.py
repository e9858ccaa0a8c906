"""A request of sliding sync, whichever form it came in.

The unstable form is that of ``org.matrix.simplified_msc3575``, which clients speak; the stable one is ``/v4/sync``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from homeserver.rooms.tokens import Token
from homeserver.sync.sliding.wanted import Wanted


class Form(Enum):
    """How requests and answers are written."""

    UNSTABLE = "unstable"
    STABLE = "stable"


class Pos(NamedTuple):
    """The position of a connection: ``number`` names what it has been told, ``token`` up to when."""

    number: int
    token: Token

    def __str__(self) -> str:
        return f"{self.number}/{self.token}"


@dataclass(frozen=True, slots=True)
class Filters:
    """Which rooms a list has; None: no matter."""

    is_dm: bool | None = None
    is_encrypted: bool | None = None
    is_invite: bool | None = None
    room_types: frozenset[str | None] | None = None
    not_room_types: frozenset[str | None] = frozenset()
    tags: frozenset[str] | None = None
    not_tags: frozenset[str] = frozenset()
    spaces: frozenset[str] | None = None


ALL_ROOMS = Filters()


@dataclass(frozen=True, slots=True)
class Config:
    """What is wanted of a room: at most so many events of its timeline, and which state."""

    limit: int
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class WantedList:
    """A list of rooms. ``ranges``: places in it, both ends included; None: all of it."""

    config: Config
    ranges: tuple[tuple[int, int], ...] | None
    filters: Filters = ALL_ROOMS


@dataclass(frozen=True, slots=True)
class Scope:
    """Of which rooms an extension tells: those of some lists, and some that are subscribed to. None: all of them."""

    lists: frozenset[str] | None = None
    rooms: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Inbox:
    """Messages to the device: behind ``since``, at most ``limit``. ``text``: how the client wrote it."""

    since: int | None
    text: str | None
    limit: int


@dataclass(frozen=True, slots=True)
class StickyWish:
    """Sticky events: behind ``since``, at most ``limit``."""

    since: int | None
    limit: int


@dataclass(frozen=True, slots=True)
class Extensions:
    """What is wanted beside rooms; None: nothing."""

    to_device: Inbox | None = None
    e2ee: bool = False
    account_data: Scope | None = None
    receipts: Scope | None = None
    typing: Scope | None = None
    threads: int | None = None
    """Which threads the user follows, at most so many changes."""
    sticky: StickyWish | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client asks. ``timeout`` in milliseconds."""

    form: Form
    conn_id: str = ""
    pos: Pos | None = None
    timeout: int = 0
    lists: Mapping[str, WantedList] = field(default_factory=dict)
    subscriptions: Mapping[str, Config] = field(default_factory=dict)
    extensions: Extensions = Extensions()
    txn_id: str | None = None
