"""The step of an event that was ordered elsewhere: what the checks on it come to, and what it does to the room.

Nothing here waits, so that it can stand between reading a room's head and submitting the step. What is not accepted
becomes no tip and no current state.

spec: server-server-api/#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from homeserver.protocol.encryption_rules import ENCRYPTION
from homeserver.protocol.errors import Forbidden
from homeserver.rooms import effects, state
from homeserver.rooms.branches import difference
from homeserver.rooms.checks import authorise, redacted
from homeserver.rooms.invitations import OUTSIDE
from homeserver.rooms.steps import GroupStep, MemberChange, Step, relation_of, replaced
from homeserver.rooms.stripped import stripped_keys, stripped_state
from homeserver.storage.events import Verdict
from homeserver.storage.outbox import NewParcel
from homeserver.storage.state import Group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.protocol.event_view import StateKey
    from homeserver.protocol.events import Event
    from homeserver.rooms.branches import State
    from homeserver.rooms.state import Room, Snapshot
    from homeserver.storage.nodes import Node

MOST_TIPS: Final = 2_000
"""Forward extremities that a room keeps; of more, the oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was looked up for an event, valid as long as the room's head is ``head``.

    ``before``: the room as it was before the event; ``base``: the snapshot that this state is based on, unless it was
    ``resolved`` from several. ``current``: what the current state becomes if the event is one of several tips;
    ``tips``: the others. ``keys``: the entries that the checks look at. ``verdict``: what is certain before the rules
    are asked against any state. ``ours``: a node of this deployment ordered the event and showed it to its users, so
    that it is not soft-failed. ``redaction``: the one that came before the event, and wants it redacted.
    """

    head: Snapshot
    before: Snapshot
    base: Group
    resolved: bool
    known: tuple[int, int | None] | None
    target: Event | None
    places: Mapping[str, effects.Place]
    current: State | None
    tips: Mapping[str, Group]
    keys: Sequence[StateKey]
    verdict: Verdict | None = None
    ours: bool = False
    redaction: Event | None = None


def build(room: Room, event: Event, found: Found) -> Step:
    """The step of an event, whatever the checks come to."""
    head = found.head
    verdict = _verdict(room, event, found)
    step = Step(room, event, head, found.base, verdict, relation=relation_of(event.content))
    step.held_as = None if found.known is None else found.known[0]
    groups: list[GroupStep] = []
    step.group = root(found.before.state, groups) if found.resolved else found.base
    if event.state_key is not None and verdict is not Verdict.REJECTED:
        _add_entry(step, event, found, groups)
    step.groups = groups
    if verdict is Verdict.ACCEPTED:
        _take_effect(room, step, found, groups)
        _redact_itself(room, step, found)
    return step


def _verdict(room: Room, event: Event, found: Found) -> Verdict:
    if found.verdict in (Verdict.REJECTED, Verdict.ACCEPTED):
        return found.verdict
    try:
        authorise(room, event, found.before)
    except Forbidden:
        return Verdict.REJECTED
    if found.verdict is not None or found.ours:
        return found.verdict or Verdict.ACCEPTED
    try:
        authorise(room, event, found.head)
    except Forbidden:
        return Verdict.SOFT_FAILED
    return Verdict.ACCEPTED


def _add_entry(step: Step, event: Event, found: Found, groups: list[GroupStep]) -> None:
    """The snapshot after a state event."""
    key = (event.type, event.state_key or "")
    entry = None if found.current is None else found.current.get(key)
    if entry is None or entry.event_id != event.event_id:
        entry = state.entry_of(event)
    step.entry = entry
    step.unsigned = replaced(found.before.state.get(key))
    previous, step.group = step.group, step.group.successor()
    groups.append(GroupStep(step.group, previous, {key: entry}))


def _take_effect(room: Room, step: Step, found: Found, groups: list[GroupStep]) -> None:
    """What an accepted event does to the room."""
    head, event = found.head, step.event
    current = found.current
    if current is None:
        current = found.before.state
        if step.entry is not None:
            current = current.set((event.type, event.state_key or ""), step.entry)
    step.changes = difference(head.state, current)
    done = effects.apply(head, step.changes, found.places)
    tips = dict(list(found.tips.items())[-(MOST_TIPS - 1) :])
    step.after = replace(
        done.after,
        tips={**tips, event.event_id: step.group},
        depth=max(head.depth, event.depth),
        group=_current_group(head, step.changes, current, groups) if found.tips else step.group,
    )
    step.members, step.nodes = [_with_preview(member, event, step.after) for member in done.members], done.nodes
    step.entered, step.left = done.entered, done.left
    if found.target is None:
        step.awaits = event.redacts
    elif (found.target.type, found.target.state_key) != (ENCRYPTION, ""):  # that stays, whoever wants it gone
        try:
            step.redacted = redacted(room, event, found.target)
        except Forbidden:
            step.redacted = None  # the event stands, and so does its target


def _redact_itself(room: Room, step: Step, found: Found) -> None:
    """An event whose redaction came before it enters as that leaves it."""
    if found.redaction is None:
        return
    try:
        left = redacted(room, found.redaction, step.event)
    except Forbidden:
        return
    if left is not None:
        step.event, step.unsigned, step.relation = left.event, left.unsigned, None
        if step.entry is not None:
            step.entry.event = left.event


def _with_preview(member: MemberChange, event: Event, after: Snapshot) -> MemberChange:
    """A change of membership, with what a resident who is invited or knocks by ``event`` may see of the room."""
    if member.membership not in OUTSIDE or member.entry is None or member.entry.event_id != event.event_id:
        return member
    if state.lacking(after, stripped_keys(after, event.sender)):
        return member  # a branch brought other names along: what an earlier invitation showed has to do
    return replace(member, stripped=stripped_state(after, event))


def root(whole: State, groups: list[GroupStep]) -> Group:
    """A snapshot that holds all of a state."""
    made = Group(None, 0, None)
    groups.append(GroupStep(made, None, dict(whole)))
    return made


def _current_group(
    head: Snapshot, changes: Mapping[StateKey, state.Entry | None], current: State, groups: list[GroupStep]
) -> Group:
    """The snapshot of a current state that was resolved from several tips."""
    if not changes:
        return head.group
    if None in changes.values():  # a chain of snapshots only adds
        return root(current, groups)
    group = head.group.successor()
    groups.append(GroupStep(group, head.group, {key: entry for key, entry in changes.items() if entry is not None}))
    return group


# to the other nodes -------------------------------------------------------------------------


def shipments(node: Node, head: Snapshot, step: Step, places: Mapping[str, effects.Place]) -> list[NewParcel]:
    """What a room's home node sends the other nodes of the deployment of an accepted event of another server.

    Who is at home on a node without members is told of an invitation and of its end only, and gets the room when they
    join.
    """
    parcels = []
    for name in sorted({*head.nodes, *step.after.nodes} - {node.name}):
        if name not in head.nodes:
            parcels.append(NewParcel(name, "room"))
        parcels.append(NewParcel(name, "event"))
    for member in step.members:
        home = places.get(member.user_id, effects.ELSEWHERE).home
        concerns = member.membership in OUTSIDE or head.membership(member.user_id) in OUTSIDE
        is_itself = member.entry is not None and member.entry.event_id == step.event.event_id
        if concerns and is_itself and home is not None and home not in (node.name, *head.nodes, *step.after.nodes):
            parcels.append(NewParcel(home, "member", body=member.stripped))
    return parcels
