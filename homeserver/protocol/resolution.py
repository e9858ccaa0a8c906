"""State resolution: one state out of the states of several forks, the same on every server.

Works on what is loaded: an event that is lacking makes it raise Missing, the caller loads and calls again. Nothing
depends on the order of the arguments, on the clock or on earlier calls.

spec: server-server-api/#room-state-resolution
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.protocol import resolution_v1, resolution_v2
from homeserver.protocol.membership_rules import verify_signed
from homeserver.protocol.missing import Missing as Missing
from homeserver.protocol.versions import StateResolution

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence, Set

    from homeserver.protocol.event_view import EventView, StateIds, StateKey
    from homeserver.protocol.membership_rules import Verify
    from homeserver.protocol.versions import RoomRules

_NONE: Final[frozenset[str]] = frozenset()


def resolve(
    rules: RoomRules,
    state_sets: Sequence[StateIds],
    events: Mapping[str, EventView],
    *,
    edges: Mapping[str, Sequence[str]] | None = None,
    rejected: Set[str] = _NONE,
    verify: Verify = verify_signed,
) -> dict[StateKey, str]:
    """The resolution of the states after each of an event's ``prev_events``.

    ``events`` are whole events by id, and ``edges``, if given, the ``auth_events`` of more: large rooms hold many
    members whose content does not matter here. ``rejected`` has the ids of rejected events, as far as they may
    occur; they are not used to authorise others. ``verify`` is as in `auth_rules.check`.

    Raises Missing if events are lacking, ValueError without any state.

    spec: rooms/v12/#state-resolution, rooms/v1/#state-resolution
    """
    if not state_sets:
        raise ValueError("there is no state to resolve")
    if rules.state_resolution is StateResolution.V1:
        return resolution_v1.resolve(rules, state_sets, events, verify)
    return resolution_v2.resolve(rules, state_sets, events, edges or {}, rejected, verify)
