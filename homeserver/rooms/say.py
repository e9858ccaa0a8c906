"""What a member sends to a room: messages, state, redactions, each once under its transaction id."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from homeserver.protocol.errors import BadJson, Forbidden, InvalidParam, MissingParam
from homeserver.protocol.event_view import MEMBER
from homeserver.rooms import aliases, blocking, doors, following, joining, membership, nearby
from homeserver.rooms.ordering import in_order
from homeserver.rooms.replicas import caught_up
from homeserver.rooms.send import Draft, try_out
from homeserver.rooms.transactions import key_of
from homeserver.storage.client_transactions import Echo

if TYPE_CHECKING:
    from homeserver.context import Caller, Server

REDACTION = "m.room.redaction"


async def send(
    server: Server,
    caller: Caller,
    room_id: str,
    kind: str,
    txn_id: str,
    content: dict[str, Any],
    ts: int | None = None,
    sticky_ms: int | None = None,
) -> str:
    """Send a message event; returns its id. Raises what `send.place` raises."""
    draft = replace(_draft(caller, kind, content, _target(kind, content), ts), sticky_ms=sticky_ms)
    return await _once(server, caller, room_id, f"send {kind}", txn_id, draft)


def _target(kind: str, content: dict[str, Any]) -> str | None:
    """The event that is redacted by what is sent as an ordinary event."""
    if kind != REDACTION:
        return None
    redacts = content.get("redacts")
    if not isinstance(redacts, str):
        raise MissingParam("A redaction needs 'redacts' in its content")
    return redacts


async def redact(server: Server, caller: Caller, room_id: str, event_id: str, txn_id: str, reason: str | None) -> str:
    """Redact an event; returns the redaction's id. Raises Forbidden, NotFound."""
    content = {} if reason is None else {"reason": reason}
    return await _once(
        server, caller, room_id, f"redact {event_id}", txn_id, _draft(caller, REDACTION, content, event_id)
    )


def _draft(
    caller: Caller, kind: str, content: dict[str, Any], redacts: str | None = None, ts: int | None = None
) -> Draft:
    return Draft(kind, caller.user_id, content, redacts=redacts, origin_server_ts=ts)


async def _once(server: Server, caller: Caller, room_id: str, what: str, txn_id: str, draft: Draft) -> str:
    if "\0" in txn_id:
        raise InvalidParam("A transaction ID must not contain U+0000")
    key = key_of(server, caller, room_id, what, txn_id)
    draft = replace(draft, txn_key=key, echo=Echo(caller.user_nid, caller.device_nid, txn_id))
    _, event_id = await in_order(server, caller.node, room_id, draft)
    return event_id


async def set_state(
    server: Server,
    caller: Caller,
    room_id: str,
    kind: str,
    state_key: str,
    content: dict[str, Any],
    ts: int | None = None,
    txn_id: str | None = None,
    sticky_ms: int | None = None,
) -> str:
    """Set an entry of a room's state; returns the event id. Asks the border where it brings somebody in. With a
    transaction id, which is for what brings nobody in, it is set once.

    Raises Forbidden, FlowDenied, InviteBlocked, PlaintextRefused, BadAlias, NotFound.
    """
    _refuse_creation(kind)
    enters = False
    if kind == MEMBER:
        await _check_member(server, caller, room_id, state_key, content)
        if (content["membership"], state_key) == ("join", caller.user_id):
            _, room = await nearby.nearest(server, caller.node, room_id)
            enters = room.head.membership(caller.user_id) != "join"
            content = await joining.vouched_for(server, caller, room_id, content)
        if content["membership"] == "invite" and not server.nodes.is_local(state_key):
            return await membership.invite_elsewhere(server, caller, room_id, state_key, content)
    else:
        await _check_alias(server, caller, room_id, kind, content)
    draft = Draft(kind, caller.user_id, content, state_key, origin_server_ts=ts, sticky_ms=sticky_ms)
    if txn_id is not None:
        key = key_of(server, caller, room_id, f"state {kind} {state_key}", txn_id)
        draft = replace(draft, txn_key=key, echo=Echo(caller.user_nid, caller.device_nid, txn_id))
    ordered, event_id = await in_order(server, caller.node, room_id, draft)
    await caught_up(server, ordered, caller.node)
    if enters:
        await following.follow(server, caller, room_id)
    return event_id


async def check(
    server: Server, caller: Caller, room_id: str, kind: str, state_key: str | None, content: dict[str, Any]
) -> None:
    """Refuse what could not be sent now, or may not be sent later: who comes into a room does so at once.

    Raises what `send` and `set_state` raise. Nothing is kept of it.
    """
    if state_key is None:
        draft = _draft(caller, kind, content, _target(kind, content))
    else:
        _refuse_creation(kind)
        if kind == MEMBER and content.get("membership") not in ("leave", "ban"):
            raise Forbidden("Nobody is brought into a room later")
        await _check_alias(server, caller, room_id, kind, content)
        draft = Draft(kind, caller.user_id, content, state_key)
    node, _ = await nearby.nearest(server, caller.node, room_id)
    await try_out(server, node, room_id, draft)


def _refuse_creation(kind: str) -> None:
    if kind == "m.room.create":
        raise InvalidParam("A room has its m.room.create event already")


async def _check_alias(server: Server, caller: Caller, room_id: str, kind: str, content: dict[str, Any]) -> None:
    if kind == "m.room.canonical_alias":
        node, room = await nearby.nearest(server, caller.node, room_id)
        await aliases.check_canonical(server, node, room, content)


async def _check_member(server: Server, caller: Caller, room_id: str, user_id: str, content: dict[str, Any]) -> None:
    became = content.get("membership")
    if not isinstance(became, str):
        raise BadJson("'membership' must be a string")
    if became in ("join", "invite", "knock"):
        await doors.check_entry(server, caller, room_id, user_id)
    if became == "invite":
        await blocking.check(server, user_id, caller.user_id)
