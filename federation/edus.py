"""EDUs of other servers: each is checked, and handed to the service that it is about.

A server speaks for its own users only, and for those of them who are in a room only there. What is malformed, or may
not flow, is dropped and counted; nobody is answered.

spec: server-server-api/#edus
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from config.residency import DataClass
from homeserver.e2ee import remote_lists, to_device
from homeserver.e2ee.remote_lists import Update
from homeserver.protocol import identifiers
from homeserver.protocol.errors import NodeUnavailable, Refusal
from homeserver.residency import gate, traffic
from homeserver.rooms import acl, from_servers, presence, state
from homeserver.rooms.presence import Shown
from homeserver.storage.receipts import Receipt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.rooms.state import Room
    from homeserver.storage.nodes import Node

MOST_USERS: Final = 500
"""Users that one EDU is about."""
MOST_ROOMS: Final = 100
"""Rooms that one EDU is about."""
MOST_RECIPIENTS: Final = 1_000
"""Devices that one EDU is for."""
LATEST_TS: Final = 2**53
READ: Final = "m.read"

log = structlog.get_logger("federation.edus")


class _Malformed(Exception):
    """An EDU that is none; the reason is for the counter."""

    def __init__(self, reason: str = "malformed") -> None:
        super().__init__(reason)
        self.reason = reason


async def take(server: Server, origin: str, edus: Sequence[Any]) -> None:
    """Take in the EDUs of a transaction, in their order. Raises NodeUnavailable when what must not be lost could not be
    stored: then they are to come again."""
    unavailable: NodeUnavailable | None = None
    for edu in edus:
        kind = edu.get("edu_type") if isinstance(edu, dict) else None
        content = edu.get("content") if isinstance(edu, dict) else None
        reader = READERS.get(kind) if isinstance(kind, str) else None
        if reader is None or not isinstance(content, dict):
            _drop(server, kind, "unknown" if reader is None else "malformed")
            continue
        try:
            await reader(server, origin, content)
        except _Malformed as fault:
            _drop(server, kind, fault.reason)
        except NodeUnavailable as fault:
            if kind in _LASTING:
                unavailable = fault
            else:
                _drop(server, kind, "unavailable")
        except Refusal:
            _drop(server, kind, "malformed")
        except Exception:
            log.exception("an EDU could not be taken in", server=origin, kind=kind)
            _drop(server, kind, "fault")
    if unavailable is not None:
        raise unavailable


def _drop(server: Server, kind: object, reason: str, by: int = 1) -> None:
    """Count what is dropped. The kind is one of ours, so that nobody invents labels."""
    server.telemetry.counter(
        "domicile_federation_edus_dropped",
        "EDUs of other servers, or parts of them, that were dropped.",
        ["kind", "reason"],
    ).inc(kind if isinstance(kind, str) and kind in READERS else "unknown", reason, by=by)


def _withhold(server: Server, kind: str, nodes: int) -> None:
    """Count what the residency policy lets not in to so many nodes, or users."""
    if nodes:
        _drop(server, kind, "policy", nodes)


def _own_user(origin: str, user_id: object) -> str:
    """A user of the server that speaks. Raises _Malformed."""
    if not isinstance(user_id, str) or not identifiers.is_user_id(user_id):
        raise _Malformed
    if identifiers.domain_of(user_id) != origin:
        raise _Malformed("not_theirs")
    return user_id


async def _room(server: Server, origin: str, room_id: object) -> Room:
    """A room that we and the server are in, on its home node. Raises _Malformed, NodeUnavailable."""
    if not isinstance(room_id, str) or not identifiers.is_room_id(room_id):
        raise _Malformed
    home = await server.nodes.of_room(room_id)
    room = None if home is None else await state.find(home, room_id)
    if home is None or room is None or not room.head.nodes or origin not in room.head.servers:
        raise _Malformed("not_in_room")
    traffic.concerns(home)
    if not await acl.lets_in(home, room, origin):
        raise _Malformed("acl")
    return room


# in rooms -----------------------------------------------------------------------------------------


async def _typing(server: Server, origin: str, content: Mapping[str, Any]) -> None:
    """spec: server-server-api/#typing-notifications"""
    user_id, typing = _own_user(origin, content.get("user_id")), content.get("typing")
    if not isinstance(typing, bool):
        raise _Malformed
    room = await _room(server, origin, content.get("room_id"))
    if room.head.membership(user_id) != "join":
        raise _Malformed("not_in_room")
    _withhold(server, "m.typing", from_servers.take_typing(server, room, origin, user_id, typing))


async def _receipts(server: Server, origin: str, content: Mapping[str, Any]) -> None:
    """spec: server-server-api/#receipts"""
    left = MOST_USERS
    for number, (room_id, kinds) in enumerate(content.items()):
        if number >= MOST_ROOMS:
            raise _Malformed("too_many")
        read = kinds.get(READ) if isinstance(kinds, dict) else None
        if not isinstance(read, dict):
            _drop(server, "m.receipt", "malformed")
            continue
        left -= len(read)
        if left < 0:
            raise _Malformed("too_many")
        try:
            room = await _room(server, origin, room_id)
        except _Malformed as fault:
            _drop(server, "m.receipt", fault.reason)
            continue
        found = [receipt for user_id, said in read.items() for receipt in _read_by(server, origin, room, user_id, said)]
        if found:
            _withhold(server, "m.receipt", await from_servers.take_receipts(server, room, origin, found))


def _read_by(server: Server, origin: str, room: Room, user_id: str, said: Any) -> Iterator[Receipt]:
    """The receipt of one user in a room, if it is one."""
    try:
        _own_user(origin, user_id)
        if room.head.membership(user_id) != "join":
            raise _Malformed("not_in_room")
        yield _receipt(user_id, said)
    except _Malformed as fault:
        _drop(server, "m.receipt", fault.reason)


def _receipt(user_id: str, said: Any) -> Receipt:
    event_ids = said.get("event_ids") if isinstance(said, dict) else None
    data = said.get("data") if isinstance(said, dict) else None
    if not isinstance(event_ids, list) or not event_ids or not isinstance(data, dict):
        raise _Malformed
    event_id, ts, thread = event_ids[-1], data.get("ts", 0), data.get("thread_id", "")
    if not identifiers.is_event_id(event_id) or not _is_natural(ts):
        raise _Malformed
    if not isinstance(thread, str) or not identifiers.fits(thread) or "\0" in thread + event_id:
        raise _Malformed
    return Receipt(user_id, thread, event_id, 0, ts)


def _is_natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LATEST_TS


# of users -----------------------------------------------------------------------------------------


async def _presence(server: Server, origin: str, content: Mapping[str, Any]) -> None:
    """spec: server-server-api/#presence"""
    pushed = content.get("push")
    if not isinstance(pushed, list):
        raise _Malformed
    if len(pushed) > MOST_USERS:
        raise _Malformed("too_many")
    for each in pushed:
        try:
            shown = _shown(server, origin, each)
        except _Malformed as fault:
            _drop(server, "m.presence", fault.reason)
        else:
            _withhold(server, "m.presence", await from_servers.take_presence(server, origin, shown))


def _shown(server: Server, origin: str, said: Any) -> Shown:
    if not isinstance(said, dict):
        raise _Malformed
    user_id, kind, status = _own_user(origin, said.get("user_id")), said.get("presence"), said.get("status_msg")
    ago = said.get("last_active_ago")
    if kind not in presence.STATES or not (status is None or isinstance(status, str)):
        raise _Malformed
    now = server.clock.now_ms()
    active = max(now - ago, 0) if isinstance(ago, int) and _is_natural(ago) else 0
    return Shown(user_id, kind, None if status is None else status[: presence.MAX_STATUS], active)


# to devices, and of them --------------------------------------------------------------------------


async def _to_device(server: Server, origin: str, content: Mapping[str, Any]) -> None:
    """spec: server-server-api/#send-to-device-messaging"""
    sender, event_type = _own_user(origin, content.get("sender")), content.get("type")
    message_id, messages = content.get("message_id"), content.get("messages")
    if not isinstance(event_type, str) or not event_type or not identifiers.fits(event_type):
        raise _Malformed
    if not isinstance(message_id, str) or not identifiers.fits(message_id) or "\0" in message_id:
        raise _Malformed
    wanted = dict(_messages(messages))
    if sum(map(len, wanted.values())) > MOST_RECIPIENTS:
        raise _Malformed("too_many")
    _withhold(server, DIRECT, await to_device.take_from_server(server, origin, message_id, sender, event_type, wanted))


def _messages(messages: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(messages, dict):
        raise _Malformed
    for user_id, devices in messages.items():
        if not isinstance(devices, dict) or not all(isinstance(each, dict) for each in devices.values()):
            raise _Malformed
        try:
            orjson.dumps(devices)
        except orjson.JSONEncodeError:  # an integer of more than 64 bits
            raise _Malformed from None
        yield user_id, devices


async def _device_list(server: Server, origin: str, content: Mapping[str, Any]) -> None:
    """spec: server-server-api/#device-management"""
    user_id = _own_user(origin, content.get("user_id"))
    update: Update = remote_lists.read_update(content, strict=not server.settings.conformance_mode)
    await _on_nodes(
        server, user_id, "m.device_list_update", lambda node: remote_lists.apply_update(server, node, update)
    )


async def _signing_keys(server: Server, origin: str, content: Mapping[str, Any]) -> None:
    """spec: server-server-api/#definition-msigning_key_update"""
    user_id = _own_user(origin, content.get("user_id"))
    master, self_signing = content.get("master_key"), content.get("self_signing_key")
    await _on_nodes(
        server,
        user_id,
        "m.signing_key_update",
        lambda node: remote_lists.apply_signing_keys(server, node, user_id, master, self_signing),
    )


async def _on_nodes(server: Server, user_id: str, kind: str, apply: Callable[[Node], Awaitable[None]]) -> None:
    """Do something about a user's keys on each node to which they may flow. That a node is down is noted for it.

    Elsewhere the copy that there may be is not what it was any more: it is shown to nobody, rather than encrypted for.
    Raises NodeUnavailable, once all nodes had their turn, when what one missed could not be noted.
    """
    there = server.policy.now.jurisdiction_of_server(identifiers.domain_of(user_id))
    unavailable: NodeUnavailable | None = None
    for node in server.nodes:
        try:
            if gate.may_in_time(server, DataClass.KEYS, there, node.jurisdiction):
                traffic.concerns(node)
                await apply(node)
            else:
                _withhold(server, kind, 1)
                await remote_lists.mark_stale(server, node, user_id)
        except NodeUnavailable as fault:
            unavailable = fault
    if unavailable is not None:
        raise unavailable


DIRECT: Final = "m.direct_to_device"
_LASTING: Final = frozenset((DIRECT, "m.device_list_update", "m.signing_key_update"))
"""What comes again when it could be neither taken nor noted."""
READERS: Final[Mapping[str, Callable[[Server, str, Mapping[str, Any]], Awaitable[None]]]] = {
    "m.typing": _typing,
    "m.receipt": _receipts,
    "m.presence": _presence,
    DIRECT: _to_device,
    "m.device_list_update": _device_list,
    "m.signing_key_update": _signing_keys,
}
