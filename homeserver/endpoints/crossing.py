"""In what words people are told what crosses a border, and what can be seen there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from config.residency import DataClass
from homeserver.pages import places
from homeserver.residency import exposure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.pages.languages import Language

CARRIED: Final[Mapping[DataClass, str]] = {
    DataClass.EVENTS: "messages, in encrypted form, and who does what in the room",
    DataClass.KEYS: "your public encryption keys and the list of your devices",
    DataClass.MEDIA: "files, in encrypted form, and the pictures of people and rooms",
    DataClass.PROFILE: "your profile: name and picture",
    DataClass.RECEIPTS: "how far you have read, and that you are typing",
    DataClass.PRESENCE: "when you are online",
}
"""What flows to a place where a class does."""

SEEN: Final[Mapping[str, str]] = {
    "membership": "who is in the room, and when they come and go",
    "member_names": "the names and pictures of the members",
    "room_name": "the name of the room",
    "room_topic": "the topic of the room",
    "room_avatar": "the picture of the room",
    "room_addresses": "the addresses of the room",
    "roles": "who may do what in the room",
    "timing": "who writes, when, how often and how much",
    "relations": "which message answers or changes which",
    "reactions": "reactions",
    "calls": "that somebody calls",
    "verifying": "who verifies whom, where their apps do not hide it",
    "devices": "which devices you have",
    "file_sizes": "when files are sent, and how large they are",
    "profile": "your name and your picture",
    "reading": "how far you have read",
    "typing": "that you are typing",
    "presence": "when you are online",
    "messages": "messages: this room is not encrypted",
    "files": "files: this room is not encrypted",
}
"""What `exposure.VISIBLE` names."""


class Crossing(NamedTuple):
    """What somebody is told of one place that rooms of theirs would reach: what goes there, what can be seen there."""

    place: str
    carried: list[str]
    seen: list[str]


def crossing(server: Server, spoken: Language, target: str, flowing: Sequence[DataClass]) -> Crossing:
    """What there is to be told of any room that reaches a jurisdiction to which these classes flow."""
    return Crossing(
        places.label(server.policy.now, spoken, target),
        [spoken.text(CARRIED[each]) for each in flowing],
        seen(spoken, exposure.visible(server, flowing)),
    )


def seen(spoken: Language, names: Iterable[str]) -> list[str]:
    """What can be seen, in words."""
    return [spoken.text(SEEN[name]) for name in names]
