"""Following a room to the one that replaced it: a user's settings of the old room hold in the new one too.

Only where the rooms agree: the old one's tombstone names the new one, whose m.room.create names the old one.

spec: client-server-api/#room-upgrades
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from homeserver.accounts import account_data, push_rules
from homeserver.protocol.errors import Refusal
from homeserver.protocol.event_view import CREATE
from homeserver.rooms import state
from homeserver.storage import account_data as stored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Caller, Server
    from homeserver.protocol.event_view import StateKey
    from homeserver.protocol.push_rules import Condition, Rule, Ruleset
    from homeserver.rooms.state import Room
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("rooms.following")

TOMBSTONE: Final[StateKey] = ("m.room.tombstone", "")
DIRECT: Final = "m.direct"


async def predecessor_of(node: Node, room: Room) -> str | None:
    """The id of the room that a room says it replaces."""
    await state.require(node, room, [CREATE])
    create = room.head.event(CREATE)
    predecessor = None if create is None else create.content.get("predecessor")
    room_id = predecessor.get("room_id") if isinstance(predecessor, dict) else None
    return room_id if isinstance(room_id, str) else None


async def follow(server: Server, caller: Caller, room_id: str) -> None:
    """Let the caller's tags, push rules and direct chat of the room that this one replaced hold for it too, if it has
    none. Never refuses: who joins is in the room all the same."""
    try:
        await carry_over(server, caller, room_id)
    except Refusal as refusal:
        log.info("settings did not follow to a new room", node=caller.node.name, reason=refusal.message)


async def carry_over(server: Server, caller: Caller, room_id: str) -> None:
    """`follow`. Raises NodeUnavailable, and TooLarge for push rules that there is no space for."""
    old_id = await _replaced_by(caller.node, room_id)
    if old_id is not None:
        await caller.node.advance(_carry_over, server, caller, old_id, room_id)
        await push_rules.change(server, caller, lambda rules: with_room(rules, old_id, room_id))


async def _replaced_by(node: Node, room_id: str) -> str | None:
    """The room that this one replaced, as both say."""
    room = await state.find(node, room_id)
    old_id = None if room is None else await predecessor_of(node, room)
    old = None if old_id is None else await state.find(node, old_id)
    if old is None:
        return None
    await state.require(node, old, [TOMBSTONE])
    tombstone = old.head.event(TOMBSTONE)
    return old_id if tombstone is not None and tombstone.content.get("replacement_room") == room_id else None


async def _carry_over(tx: Transaction, server: Server, caller: Caller, old_id: str, room_id: str) -> None:
    node, user_nid = caller.node, caller.user_nid
    old_nid, room_nid = await stored.room_of(tx, user_nid, old_id), await stored.room_of(tx, user_nid, room_id)
    if old_nid is None or room_nid is None:
        return
    tags = await stored.find(tx, user_nid, old_nid, account_data.TAG)
    if tags is not None and await stored.find(tx, user_nid, room_nid, account_data.TAG) is None:
        await account_data.write(tx, server, node, user_nid, room_nid, account_data.TAG, tags)
    direct = await stored.find(tx, user_nid, stored.GLOBAL, DIRECT)
    changed = None if direct is None else _with_direct(orjson.loads(direct), old_id, room_id)
    if changed is not None:
        await account_data.write(tx, server, node, user_nid, stored.GLOBAL, DIRECT, orjson.dumps(changed))


def _with_direct(direct: dict[str, Any], old_id: str, room_id: str) -> dict[str, Any] | None:
    """Direct chats with the new room beside the old one; None when nothing changes. A client may have set anything."""
    changed = {
        user_id: [*room_ids, room_id]
        for user_id, room_ids in direct.items()
        if isinstance(room_ids, list) and old_id in room_ids and room_id not in room_ids
    }
    return {**direct, **changed} if changed else None


def with_room(ruleset: Ruleset, old_id: str, room_id: str) -> Ruleset:
    """Push rules in which what was set for a room holds for another one too: rules of that room, and override rules
    that have its id as theirs. Nothing that is there for the other one is replaced. Raises TooLarge."""
    for kind in ("override", "room"):
        rules: Sequence[Rule] = ruleset.of_kind(kind)
        ids = {rule.rule_id for rule in rules}
        found = next((rule for rule in rules if rule.rule_id == old_id), None)
        if found is not None and room_id not in ids:
            conditions = found.conditions and tuple(
                {**each, "pattern": room_id} if _names(each, old_id) else each for each in found.conditions
            )
            copied = replace(found, rule_id=room_id, conditions=conditions)
            ruleset = ruleset.with_rule(kind, copied)
    return ruleset


def _names(condition: Condition, room_id: str) -> bool:
    return (condition.get("key"), condition.get("pattern")) == ("room_id", room_id)
