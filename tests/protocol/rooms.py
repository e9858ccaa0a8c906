"""Rooms for tests of the rules: events as plain dataclasses, states as dictionaries, several branches at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from homeserver.protocol.auth_rules import Rejected, auth_types_for, check, check_auth_events
from homeserver.protocol.event_view import CREATE, EventView, StateKey
from homeserver.protocol.versions import VERSIONS, RoomRules

ALICE, BOB, CAROL, DAVE = "@alice:a.example", "@bob:b.example", "@carol:c.example", "@dave:d.example"
EVE = "@eve:a.example"


@dataclass(frozen=True, slots=True)
class Sent:
    """An event with the attributes that the rules look at, and no others."""

    event_id: str
    room_id: str
    type: str
    sender: str
    content: Mapping[str, Any]
    state_key: str | None = None
    origin_server_ts: int = 0
    prev_events: Sequence[str] = ()
    auth_events: Sequence[str] = ()
    depth: int = 1
    redacts: str | None = None


Branch = dict[StateKey, str]
"""The state at one tip of the room's graph."""


@dataclass
class Room:
    """A room that grows. Each method takes a branch and gives the branch after the event; the first makes the room."""

    version: str = "11"
    creator: str = ALICE
    create_content: dict[str, Any] = field(default_factory=dict)
    events: dict[str, Sent] = field(default_factory=dict)
    clock: int = 0

    @property
    def rules(self) -> RoomRules:
        return VERSIONS[self.version]

    @property
    def create(self) -> Sent:
        return self.events["$create"]

    def state(self, branch: Branch) -> dict[StateKey, EventView]:
        return {place: self.events[event_id] for place, event_id in branch.items()}

    def start(self) -> Branch:
        """m.room.create alone."""
        content = {"room_version": self.version, **self.create_content}
        if self.rules.create_has_creator:
            content.setdefault("creator", self.creator)
        room_id = "!create" if self.rules.room_id_is_create_hash else f"!room:{self.creator.partition(':')[2]}"
        self.events["$create"] = Sent("$create", room_id, "m.room.create", self.creator, content, "")
        return {CREATE: "$create"}

    def opened(self, join_rule: str = "public", *, users: dict[str, int] | None = None, **levels: Any) -> Branch:
        """A room whose creator has joined, with power levels and a join rule."""
        branch = self.sends(self.start(), self.creator, "m.room.member", {"membership": "join"}, self.creator)
        listed = {} if self.rules.creators_unlimited else {self.creator: 100}
        power = {"users": {**listed, **(users or {})}, **levels}
        branch = self.sends(branch, self.creator, "m.room.power_levels", power)
        return self.sends(branch, self.creator, "m.room.join_rules", {"join_rule": join_rule})

    def draft(
        self,
        branch: Branch,
        sender: str,
        event_type: str,
        content: Mapping[str, Any] | None = None,
        state_key: str | None = "",
        *,
        event_id: str | None = None,
        ts: int | None = None,
        **other: Any,
    ) -> Sent:
        """An event on a branch with the auth events that it should have; it is not yet part of the room."""
        self.clock += 1
        place = Sent("$", self.create.room_id, event_type, sender, content or {}, state_key)
        fields: dict[str, Any] = {
            "event_id": event_id or f"${self.clock}",
            "origin_server_ts": self.clock if ts is None else ts,
            "depth": 1 + max((self.events[each].depth for each in branch.values()), default=0),
            "prev_events": ["$create"] if len(branch) == 1 else [f"${self.clock - 1}"],
            "auth_events": [branch[each] for each in auth_types_for(self.rules, place) if each in branch],
            **other,
        }
        return Sent(room_id=self.create.room_id, type=event_type, sender=sender, content=content or {},
                    state_key=state_key, **fields)  # fmt: skip

    def add(self, branch: Branch, event: Sent) -> Branch:
        """The branch after an event, which must be allowed by its auth events and by the branch. Raises Rejected."""
        cited = {(each.type, each.state_key or ""): each for each in (self.events[x] for x in event.auth_events)}
        check_auth_events(self.rules, event, list(cited.values()))
        check(self.rules, event, {CREATE: self.create, **cited})
        check(self.rules, event, self.state(branch))
        self.events[event.event_id] = event
        if event.state_key is None:
            return branch
        return {**branch, (event.type, event.state_key): event.event_id}

    def sends(self, branch: Branch, sender: str, event_type: str, content: Mapping[str, Any] | None = None,
              state_key: str | None = "", **other: Any) -> Branch:  # fmt: skip
        """The branch after an event that is allowed. Raises Rejected."""
        return self.add(branch, self.draft(branch, sender, event_type, content, state_key, **other))

    def member(self, branch: Branch, sender: str, membership: str, target: str | None = None, **other: Any) -> Branch:
        """The branch after a change of membership that is allowed. Raises Rejected."""
        extra = other.pop("content", {})
        return self.sends(
            branch, sender, "m.room.member", {"membership": membership, **extra}, target or sender, **other
        )

    def verdict(self, branch: Branch, event: Sent) -> str | None:
        """The reason why an event is rejected on a branch, None if it is allowed."""
        try:
            check(self.rules, event, self.state(branch))
        except Rejected as rejection:
            return rejection.reason
        return None

    def allows(self, branch: Branch, sender: str, event_type: str, content: Mapping[str, Any] | None = None,
               state_key: str | None = "", **other: Any) -> bool:  # fmt: skip
        return self.verdict(branch, self.draft(branch, sender, event_type, content, state_key, **other)) is None

    def allows_member(self, branch: Branch, sender: str, membership: str, target: str | None = None,
                      **other: Any) -> bool:  # fmt: skip
        content = {"membership": membership, **other.pop("content", {})}
        return self.allows(branch, sender, "m.room.member", content, target or sender, **other)
