"""The rows of a batch of steps. For `persist` only: the transaction is its."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.storage import client_transactions, events, peers, rooms, state, sticky_events, users
from homeserver.storage.events import NewEvent
from homeserver.storage.state import NewGroup

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from homeserver.rooms.steps import Step
    from homeserver.storage.engine import Transaction


def number(steps: Sequence[Step], first: int) -> int:
    """Give row ids and positions to events and snapshots; returns the next free position."""
    following = first
    for step in steps:
        step.pos = following if step.timeline else None
        step.nid = following if step.held_as is None else step.held_as
        following += 1
        if step.entry is not None:
            step.entry.nid = step.nid
        for new in step.groups:
            new.group.nid = following
            following += 1
    return following


def write_events(tx: Transaction, now_ms: int, steps: Sequence[Step]) -> list[int]:
    """Queue the events, and what else is said of each: who sent it under which transaction id, to what it relates.

    Returns the rooms (row ids) in which one of them is sticky.
    """
    users.intern(tx, {name for step in steps for name in _people(step)})
    made = [
        NewEvent(
            step.nid,
            step.event.event_id,
            step.room.nid,
            step.pos,
            step.event.depth,
            step.event.origin_server_ts,
            step.event.type,
            step.event.state_key,
            step.event.sender,
            step.group.nid,
            step.verdict,
            step.event.client,
            step.event.rest,
            step.unsigned,
            step.to_peers,
        )
        for step in steps
    ]
    events.insert(tx, made)
    sticky = sticky_events.keep(tx, now_ms, made)
    events.remember_transactions(
        tx,
        [(step.txn_key, step.event.sender, step.event.event_id, now_ms) for step in steps if step.txn_key is not None],
    )
    client_transactions.remember(
        tx,
        [(step.txn_key, step.echo, now_ms) for step in steps if step.txn_key is not None and step.echo is not None],
    )
    events.replace_bytes(
        tx,
        [
            (step.redacted.event.client, step.redacted.event.rest, step.redacted.unsigned, step.redacted.event.event_id)
            for step in steps
            if step.redacted is not None
        ],
    )
    events.await_targets(tx, [(step.awaits, step.nid) for step in steps if step.awaits is not None])
    return sticky


def _people(step: Step) -> Iterable[str]:
    """The users that an event names and who may be new to this node."""
    for member in step.members:
        yield member.user_id
    if ("m.room.member", step.event.sender) not in step.room.now.state:
        yield step.event.sender


def write_state(tx: Transaction, steps: Sequence[Step]) -> None:
    """Queue snapshots, current states, and the tips of the rooms."""
    state.insert_groups(
        tx,
        [
            NewGroup(
                step.room.nid,
                new.group,
                new.previous,
                [(*key, entry.nid or 0) for key, entry in new.changes.items()],
            )
            for step in steps
            for new in step.groups
        ],
    )
    state.change_current(
        tx,
        [
            (step.room.nid, step.pos or 0, *key, None if entry is None else entry.nid)
            for step in steps
            for key, entry in step.changes.items()
        ],
        {step.pos: step.after.group.nid for step in steps if step.changes and step.pos is not None},
    )
    for room, last in {step.room: step.after for step in steps}.items():
        rooms.advance(tx, room.nid, list(last.tips), last.group.nid)


def write_members(tx: Transaction, steps: Sequence[Step]) -> None:
    """Queue memberships, members per node, the other servers that take part, and what the invited may see."""
    rooms.set_membership(
        tx,
        [
            (
                member.user_id,
                step.room.nid,
                member.membership,
                step.nid if member.entry is None else member.entry.nid or 0,
                step.pos or 0,
            )
            for step in steps
            for member in step.members
        ],
    )
    rooms.set_nodes(tx, [(step.room.nid, node, count) for step in steps for node, count in step.nodes.items()])
    _write_peers(tx, steps)
    for step in steps:
        for member in step.members:
            if member.resident is not None and member.stripped is not None:
                rooms.invite(tx, member.user_id, step.room.nid, member.stripped)


def _write_peers(tx: Transaction, steps: Sequence[Step]) -> None:
    peers.enter(tx, [(server, step.room.nid, step.pos or 0) for step in steps for server in step.entered])
    peers.leave(tx, [(server, step.room.nid, step.pos or 0) for step in steps for server in step.left])
    peers.reach(tx, [(server, step.room.nid, step.pos or 0) for step in steps for server in step.reached])
