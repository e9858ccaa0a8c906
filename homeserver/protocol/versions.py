"""What differs between room versions, as flags: the only file of the project that names a room version.

A rule asks ``rules.knock``, never ``version >= 7``. Each version is the one before it with a few flags changed, so
reading VERSIONS from the top is reading the history of the specification.

spec: rooms/#complete-list-of-room-versions
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from homeserver.protocol.errors import UnsupportedRoomVersion

if TYPE_CHECKING:
    from collections.abc import Mapping


class EventIdFormat(Enum):
    """Where an event's id comes from."""

    OPAQUE = "opaque"
    """Chosen by the sending server and carried in the event; references are ``[event_id, hashes]`` pairs."""
    HASH = "hash"
    """``$`` and the reference hash in unpadded Base64; references are plain ids."""
    URL_SAFE_HASH = "url_safe_hash"
    """``$`` and the reference hash in URL-safe unpadded Base64; references are plain ids."""


class StateResolution(Enum):
    """The algorithm that merges diverging states of a room."""

    V1 = "1"
    V2 = "2"
    V2_1 = "2.1"
    """V2, but starting from an empty state, and with the conflicted state subgraph in the full conflicted set."""


MAX_INTEGER: Final = 2**53 - 1
"""The largest integer of canonical JSON."""


@dataclass(frozen=True, slots=True, eq=False)
class RoomRules:
    """The rules of one room version. Instances are unique per version: compare and hash by identity."""

    version: str
    """The identifier, for ``content.room_version`` and answers. Never compared by a rule."""
    stable: bool

    # -- event format
    event_id_format: EventIdFormat
    max_depth: int
    """The highest ``depth`` that an event may have; deeper rooms stay at it."""
    strict_canonical_json: bool
    """Events that are not canonical JSON (floats, integers beyond ±(2^53-1)) are refused."""
    room_id_is_create_hash: bool
    """The room id is the create event's id with sigil ``!``, and the create event has no ``room_id``. Otherwise a
    room id has a domain, which must be that of the create event's sender."""
    redacts_in_content: bool
    """``redacts`` of m.room.redaction is a property of ``content``, not of the event."""

    # -- signatures
    event_id_domain_signs: bool
    """The server named in the event id must have signed too, besides the sender's."""
    key_validity_enforced: bool
    """A signing key must have been valid (``valid_until_ts``) at the event's ``origin_server_ts``."""

    # -- state resolution
    state_resolution: StateResolution

    # -- redaction: what survives
    redaction_keeps_aliases: bool
    """``aliases`` of m.room.aliases."""
    redaction_keeps_historical_keys: bool
    """The top-level keys ``origin``, ``membership`` and ``prev_state``."""
    redaction_keeps_allow: bool
    """``allow`` of m.room.join_rules."""
    redaction_keeps_join_authorisation: bool
    """``join_authorised_via_users_server`` of m.room.member."""
    redaction_keeps_create_content: bool
    """All content of m.room.create, instead of ``creator`` alone."""
    redaction_keeps_invite_level: bool
    """``invite`` of m.room.power_levels."""
    redaction_keeps_third_party_signed: bool
    """``third_party_invite.signed`` of m.room.member."""

    # -- authorisation
    create_has_creator: bool
    """m.room.create must have ``content.creator``, who is the creator. Otherwise the creator is its sender."""
    creators_unlimited: bool
    """Creators (the sender of m.room.create and its ``content.additional_creators``) have a power level above every
    integer and may not be listed in m.room.power_levels."""
    create_in_auth_events: bool
    """m.room.create is selected for, and required among, ``auth_events``. Otherwise it must not be there: the room id
    implies it."""
    aliases_rule: bool
    """m.room.aliases is allowed if and only if its ``state_key`` is the sender's domain."""
    redaction_rule: bool
    """m.room.redaction needs the redact level or the domain of the redacted event's id. Otherwise that is checked
    when the redaction is applied, by the redact level or the domain of the original sender."""
    notification_levels_checked: bool
    """Changes in ``notifications`` of m.room.power_levels are checked like those in ``events``."""
    integer_power_levels: bool
    """Values in m.room.power_levels must be integers; a string that reads as an integer is refused."""
    knock: bool
    """Membership ``knock`` and join rule ``knock``."""
    restricted_join: bool
    """Join rule ``restricted`` and ``join_authorised_via_users_server``."""
    knock_restricted: bool
    """Join rule ``knock_restricted``."""

    # -- between servers
    previews_are_events: bool
    """What is shown of a room to the invited must be events in federation format, the m.room.create among them. Older
    rooms may be shown by stripped state."""

    @property
    def event_id_is_hash(self) -> bool:
        """Whether event ids are computed instead of carried (and references plain ids instead of pairs)."""
        return self.event_id_format is not EventIdFormat.OPAQUE


def _versions() -> dict[str, RoomRules]:
    v1 = RoomRules(
        version="1",
        stable=True,
        event_id_format=EventIdFormat.OPAQUE,
        max_depth=2**63 - 1,
        strict_canonical_json=False,
        room_id_is_create_hash=False,
        redacts_in_content=False,
        event_id_domain_signs=True,
        key_validity_enforced=False,
        state_resolution=StateResolution.V1,
        redaction_keeps_aliases=True,
        redaction_keeps_historical_keys=True,
        redaction_keeps_allow=False,
        redaction_keeps_join_authorisation=False,
        redaction_keeps_create_content=False,
        redaction_keeps_invite_level=False,
        redaction_keeps_third_party_signed=False,
        create_has_creator=True,
        creators_unlimited=False,
        create_in_auth_events=True,
        aliases_rule=True,
        redaction_rule=True,
        notification_levels_checked=False,
        integer_power_levels=False,
        knock=False,
        restricted_join=False,
        knock_restricted=False,
        previews_are_events=False,
    )
    v2 = replace(v1, version="2", state_resolution=StateResolution.V2)
    v3 = replace(v2, version="3", event_id_format=EventIdFormat.HASH, event_id_domain_signs=False, redaction_rule=False)
    v4 = replace(v3, version="4", event_id_format=EventIdFormat.URL_SAFE_HASH)
    v5 = replace(v4, version="5", key_validity_enforced=True)
    v6 = replace(
        v5,
        version="6",
        max_depth=MAX_INTEGER,
        strict_canonical_json=True,
        redaction_keeps_aliases=False,
        aliases_rule=False,
        notification_levels_checked=True,
    )
    v7 = replace(v6, version="7", knock=True)
    v8 = replace(v7, version="8", restricted_join=True, redaction_keeps_allow=True)
    v9 = replace(v8, version="9", redaction_keeps_join_authorisation=True)
    v10 = replace(v9, version="10", integer_power_levels=True, knock_restricted=True)
    v11 = replace(
        v10,
        version="11",
        redacts_in_content=True,
        redaction_keeps_historical_keys=False,
        redaction_keeps_create_content=True,
        redaction_keeps_invite_level=True,
        redaction_keeps_third_party_signed=True,
        create_has_creator=False,
    )
    v12 = replace(
        v11,
        version="12",
        state_resolution=StateResolution.V2_1,
        room_id_is_create_hash=True,
        creators_unlimited=True,
        create_in_auth_events=False,
        previews_are_events=True,
    )
    return {rules.version: rules for rules in (v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12)}


VERSIONS: Final[Mapping[str, RoomRules]] = MappingProxyType(_versions())
"""Every room version that this server takes part in, oldest first."""

SUPPORTED: Final[frozenset[str]] = frozenset(VERSIONS)


VERSION_IF_ABSENT: Final = "1"
"""The version of a room whose create event has no ``room_version``. spec: client-server-api/#mroomcreate"""

STABILITY: Final[Mapping[str, str]] = MappingProxyType(
    {version: "stable" if rules.stable else "unstable" for version, rules in VERSIONS.items()}
)
"""``m.room_versions.available`` of the capabilities. spec: client-server-api/#mroom_versions-capability"""


def rules_of(version: object) -> RoomRules:
    """The rules of a room version as it stands in a create event or a request.

    Raises UnsupportedRoomVersion if this server does not know it (or it is not even a string).
    """
    rules = VERSIONS.get(version) if isinstance(version, str) else None
    if rules is None:
        raise UnsupportedRoomVersion(f"This server knows no such room version; it knows {', '.join(VERSIONS)}")
    return rules


def rules_of_create(content: Mapping[str, object]) -> RoomRules:
    """The rules that the content of an m.room.create event asks for. Raises UnsupportedRoomVersion."""
    return rules_of(content.get("room_version", VERSION_IF_ABSENT))
