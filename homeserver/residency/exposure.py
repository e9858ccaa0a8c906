"""What a jurisdiction gets to see of a room that reaches it, though messages are encrypted: the leak budget.

The data classes that flow there decide, and what the room has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from config.residency import FLOWING, DataClass
from homeserver.protocol.clear_shapes import REQUEST, STEPS
from homeserver.protocol.encryption_rules import IN_CLEAR
from homeserver.residency import gate

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from homeserver.context import Server

CROSSING: Final = tuple(each for each in FLOWING if each is not DataClass.NOTIFICATIONS)
"""The classes of which rooms carry data across a border. Notifications go to gateways, whatever the rooms span."""

_OF_CLASS: Final[Mapping[DataClass, tuple[str, ...]]] = {
    DataClass.EVENTS: (
        "membership",
        "member_names",
        "room",
        "roles",
        "timing",
        "relations",
        "reactions",
        "calls",
        "verifying",
    ),
    DataClass.KEYS: ("devices",),
    DataClass.MEDIA: ("file_sizes",),
    DataClass.PROFILE: ("profile",),
    DataClass.RECEIPTS: ("reading", "typing"),
    DataClass.PRESENCE: ("presence",),
}
_ROOM: Final[Mapping[str, str]] = {
    "room_name": "m.room.name",
    "room_topic": "m.room.topic",
    "room_avatar": "m.room.avatar",
    "room_addresses": "m.room.canonical_alias",
}
"""What ``room`` stands for, by the type of the state event that says it."""
TOLD_BY: Final = tuple(_ROOM.values())
"""Types of state events that a room need not have, and that tell of it where it has them."""
_REACTION: Final = "m.reaction"
_VERIFYING: Final = frozenset((REQUEST, *STEPS))
_CALLS: Final = IN_CLEAR - {_REACTION, "m.room.redaction"} - _VERIFYING
_SENT: Final = {"reactions": frozenset((_REACTION,)), "calls": _CALLS, "verifying": _VERIFYING}
_SEALED: Final = {DataClass.EVENTS: "messages", DataClass.MEDIA: "files"}

VISIBLE: Final = (
    *(name for names in _OF_CLASS.values() for name in names if name != "room"),
    *_ROOM,
    *_SEALED.values(),
)
"""Everything that may be seen, by name."""


def classes(server: Server, source: str, target: str) -> tuple[DataClass, ...]:
    """The classes of which rooms carry data from ``source`` to ``target``, now or as soon as an isolation ends."""
    return tuple(each for each in CROSSING if gate.may_in_time(server, each, source, target))


def visible(
    server: Server, flowing: Collection[DataClass], has: Collection[str] | None = None, *, encrypted: bool = True
) -> list[str]:
    """What can be seen where these classes flow. ``has``: types of state events that a room has; None: any room."""
    found = [name for each in flowing for name in _expanded(_OF_CLASS[each], has) if _is_sent(server, name)]
    return found if encrypted else [*found, *sealed(flowing)]


def sealed(flowing: Collection[DataClass]) -> list[str]:
    """What is there in encrypted form, where these classes flow and the room is encrypted."""
    return [name for each, name in _SEALED.items() if each in flowing]


def _expanded(names: Iterable[str], has: Collection[str] | None) -> list[str]:
    there = [name for name, kind in _ROOM.items() if has is None or kind in has]
    return [each for name in names for each in (there if name == "room" else [name])]


def _is_sent(server: Server, name: str) -> bool:
    kinds = _SENT.get(name)
    return kinds is None or bool(kinds.intersection(server.settings.encryption.allow_in_clear))
