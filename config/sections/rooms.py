"""What is possible in rooms, and what users see of each other there."""

from dataclasses import dataclass
from typing import Annotated, Literal

from config.forms import DAY, SERVER_NAME
from config.kinds import Choice, Duration, Flag, Integer, ListOf, Span
from config.tables import Setting

CLEAR_EVENT_TYPES = (
    "m.reaction",
    "m.room.redaction",
    "m.rtc.notification",
    "org.matrix.msc4075.rtc.notification",
    "m.rtc.decline",
    "org.matrix.msc4310.rtc.decline",
    "m.key.verification.request",
    "m.key.verification.ready",
    "m.key.verification.start",
    "m.key.verification.accept",
    "m.key.verification.key",
    "m.key.verification.mac",
    "m.key.verification.done",
    "m.key.verification.cancel",
)
"""The only events, besides ``m.room.encrypted`` and state, that may ever be sent in the clear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Users:
    """What users can see of each other."""

    presence: Annotated[bool, Setting(Flag(), "Whether presence is tracked and shown.")] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """Rooms made on this server."""

    default_version: Annotated[
        str,
        Setting(
            Choice(tuple(str(version) for version in range(3, 13))),
            "Room version of new rooms, unless asked otherwise.",
        ),
    ] = "12"
    publish: Annotated[
        Literal["everyone", "admins", "nobody"],
        Setting(Choice(("everyone", "admins", "nobody")), "Who may put a room into the public room directory."),
    ] = "everyone"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThirdPartyInvites:
    """Invitations by an e-mail address or phone number. They go through an identity server that the client names, and
    that learns who wants to have whom in which room. It stands where residency.toml says that a server of its name
    does; `events` must be let flow there.
    """

    identity_servers: Annotated[
        tuple[str, ...],
        Setting(
            ListOf(SERVER_NAME),
            "The identity servers that may be asked. Without any nobody can be invited by an address.",
            ("id.example.org",),
        ),
    ] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayedEvents:
    """Events that clients have sent later, unless they say otherwise: so a call ends for those whose device is gone."""

    max_delay: Annotated[Duration, Setting(Span(), "The longest that one may be put off at once.")] = DAY
    per_user: Annotated[
        int, Setting(Integer(0, 10_000), "How many of one user's may wait; 0 turns them off altogether.")
    ] = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """What may be sent unencrypted, and which devices are encrypted for. The list of types can be made shorter than the
    built-in one, never longer.
    """

    allow_in_clear: Annotated[
        tuple[str, ...],
        Setting(
            ListOf(Choice(CLEAR_EVENT_TYPES)),
            "Types of events, state aside, that are accepted in the clear. Servers see what they say.",
        ),
    ] = CLEAR_EVENT_TYPES
    unsigned_device_grace: Annotated[
        Duration | None,
        Setting(
            Span(never=True, zero=True),
            "How long others are shown a device that its owner, who has cross-signing keys, has not signed with them. "
            "After that nobody encrypts for it until it is signed.",
        ),
    ] = 0 * DAY
