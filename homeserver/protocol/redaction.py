"""The redaction algorithm: what remains of an event once its content may no longer be known.

Signatures and event ids cover exactly this, so it must be the same on every server for every version.

spec: client-server-api/#redactions
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.protocol.versions import RoomRules

_TOP_LEVEL: Final = frozenset(
    (
        "auth_events",
        "content",
        "depth",
        "event_id",
        "hashes",
        "origin_server_ts",
        "prev_events",
        "room_id",
        "sender",
        "signatures",
        "state_key",
        "type",
    )
)
_HISTORICAL_TOP_LEVEL: Final = frozenset(("membership", "origin", "prev_state"))
_POWER_LEVELS: Final = frozenset(
    ("ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default")
)


class _Kept(NamedTuple):
    """What one room version keeps: top-level keys, and keys of the content by event type (None: all of them)."""

    top_level: frozenset[str]
    content: Mapping[str, frozenset[str] | None]


def redact(rules: RoomRules, event: Mapping[str, Any]) -> dict[str, Any]:
    """A redacted copy of an event in federation format; ``event`` itself is left alone.

    ``unsigned`` goes too: a server that serves the redacted event adds its own, with ``redacted_because``.
    """
    top_level = _kept(rules).top_level
    redacted = {key: value for key, value in event.items() if key in top_level}
    redacted["content"] = redact_content(rules, event["type"], event["content"])
    return redacted


def redact_content(rules: RoomRules, event_type: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """What remains of the ``content`` of an event of this type."""
    keys = _kept(rules).content.get(event_type, frozenset())
    if keys is None:
        return dict(content)
    redacted = {key: content[key] for key in keys if key in content}
    if event_type == "m.room.member" and rules.redaction_keeps_third_party_signed:
        invite = content.get("third_party_invite")
        if isinstance(invite, dict):
            redacted["third_party_invite"] = {"signed": invite["signed"]} if "signed" in invite else {}
    return redacted


def redaction_target(rules: RoomRules, event: Mapping[str, Any]) -> str | None:
    """The id of the event that an m.room.redaction in federation format redacts; None if it names none.

    spec: rooms/v11/#moving-the-redacts-property-of-mroomredaction-events-to-a-content-property
    """
    target = (event["content"] if rules.redacts_in_content else event).get("redacts")
    return target if isinstance(target, str) else None


@cache
def _kept(rules: RoomRules) -> _Kept:
    content: dict[str, frozenset[str] | None] = {
        "m.room.create": None if rules.redaction_keeps_create_content else frozenset(("creator",)),
        "m.room.history_visibility": frozenset(("history_visibility",)),
        "m.room.join_rules": _with("allow", rules.redaction_keeps_allow, {"join_rule"}),
        "m.room.member": _with(
            "join_authorised_via_users_server", rules.redaction_keeps_join_authorisation, {"membership"}
        ),
        "m.room.power_levels": _with("invite", rules.redaction_keeps_invite_level, _POWER_LEVELS),
    }
    if rules.redaction_keeps_aliases:
        content["m.room.aliases"] = frozenset(("aliases",))
    if rules.redacts_in_content:
        content["m.room.redaction"] = frozenset(("redacts",))
    historical = _HISTORICAL_TOP_LEVEL if rules.redaction_keeps_historical_keys else frozenset[str]()
    return _Kept(_TOP_LEVEL | historical, content)


def _with(key: str, kept: bool, keys: set[str] | frozenset[str]) -> frozenset[str]:
    return frozenset(keys | {key}) if kept else frozenset(keys)
