"""Presence: who is online, as users who share a room may know. In memory; a status message outlives a restart.

Invariants: a client that goes on polling changes nothing and costs a dictionary look-up; only a change of what is
shown wakes anybody; a node's database is written at most once a minute for a user. What is shown on another node is a
copy in that node's memory, and only where the policy lets presence flow.

spec: client-server-api/#presence
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson
import structlog

from config.residency import DataClass
from homeserver.context import resident_key
from homeserver.protocol import canonical, identifiers
from homeserver.protocol.errors import Forbidden, InvalidParam, NodeUnavailable, NotFound
from homeserver.residency import gate
from homeserver.rooms import acquaintance, outgoing, ticks
from homeserver.rooms.outgoing import Fleeting, pass_on
from homeserver.rooms.state import Rooms
from homeserver.storage import peers, rooms
from homeserver.storage import presence as stored
from homeserver.storage.presence import StoredPresence

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.context import Caller, Server
    from homeserver.runtime.clock import Timer
    from homeserver.storage.nodes import Node
    from homeserver.storage.rooms import StoredMembership

log = structlog.get_logger("rooms.presence")

ONLINE: Final = "online"
UNAVAILABLE: Final = "unavailable"
OFFLINE: Final = "offline"
STATES: Final = (ONLINE, UNAVAILABLE, OFFLINE)

IDLE: Final = 5 * 60.0
"""Seconds without activity after which somebody online counts as unavailable."""

GONE: Final = 45.0
"""Seconds without a request, or one that waits, after which a device counts as gone."""

TOLD_AGAIN: Final = 25 * 60.0
"""Seconds after which other servers are told once more of who is not offline: they may believe it for half an hour."""

SAVED_EVERY: Final = 60.0
"""Seconds between two writes for a user."""

MAX_STATUS = 1000
"""Characters of a status message."""

REMEMBERED = 100_000
"""Users whose presence a node shows, and residents that it follows."""

FEW = 50
"""So many changed users are looked for in the rooms in memory; for more, the database is asked once."""


class Part(Protocol):
    """The part of a filter that is about presence."""

    def takes(self, kind: str, sender: str) -> bool:
        """Whether events of a type by a sender pass."""


@dataclass(eq=False, slots=True)
class Shown:
    """A user's presence as a node shows it. ``active_ms``: their last activity, in milliseconds since 1970;
    0 when it is not known. ``tick``: when this last changed.
    """

    user_id: str
    state: str = OFFLINE
    status: str | None = None
    active_ms: int = 0
    tick: int = 0

    def content(self, now_ms: int) -> dict[str, Any]:
        """The content of an m.presence event. spec: client-server-api/#mpresence"""
        content: dict[str, Any] = {"presence": self.state, "currently_active": self.state == ONLINE}
        if self.active_ms:
            content["last_active_ago"] = max(0, now_ms - self.active_ms)
        if self.status is not None:
            content["status_msg"] = self.status
        return content


@dataclass(eq=False, slots=True)
class Followed:
    """A resident who is not offline. ``devices``: the state that each device asked for and when it was last seen;
    ``active``: their last activity; ``told``: when other servers were told last, None while there are none (all in
    seconds of the monotonic clock). ``again``: these are to be told once more.
    """

    user_nid: int
    shown: Shown
    devices: dict[int, tuple[str, float]] = field(default_factory=dict)
    active: float = 0.0
    saved: float | None = None
    unsaved: bool = False
    loaded: bool = False
    changed: bool = False
    told: float | None = None
    again: bool = False
    timer: Timer | None = None
    task: asyncio.Task[None] | None = None


class Presences:
    """What a node shows and whom it follows (``node.memory(Presences)``). ``shown`` is in the order of the ticks."""

    def __init__(self) -> None:
        self.shown: OrderedDict[str, Shown] = OrderedDict()
        self.followed: OrderedDict[int, Followed] = OrderedDict()
        self.last_tick = 0

    def show(self, node: Node, shown: Shown) -> None:
        """From now on this is what others see."""
        shown.tick = self.last_tick = ticks.tick(node)
        self.shown[shown.user_id] = shown
        self.shown.move_to_end(shown.user_id)
        if len(self.shown) > REMEMBERED:
            self.shown.popitem(last=False)

    def since(self, seen: int) -> list[Shown]:
        """What changed after a tick, the newest first."""
        found = []
        for shown in reversed(self.shown.values()):
            if shown.tick <= seen:
                break
            found.append(shown)
        return found

    def lose(self, user_nid: int, user_id: str) -> None:
        """A resident is one no more: nothing about them is shown, or written."""
        self.shown.pop(user_id, None)
        followed = self.followed.pop(user_nid, None)
        if followed is not None:
            followed.unsaved = followed.changed = followed.again = False
            followed.devices.clear()
            if followed.timer is not None:
                followed.timer.cancel()
            if followed.task is not None:
                followed.task.cancel()

    def follow(self, caller: Caller) -> Followed:
        """The caller, who may have been offline until now."""
        followed = self.followed.get(caller.user_nid)
        if followed is None:
            shown = self.shown.get(caller.user_id) or Shown(caller.user_id)
            followed = self.followed[caller.user_nid] = Followed(caller.user_nid, shown)
            if len(self.followed) > REMEMBERED:
                _, oldest = self.followed.popitem(last=False)
                if oldest.timer is not None:
                    oldest.timer.cancel()
        return followed


def tracked(server: Server) -> bool:
    """Whether this deployment has presence at all."""
    return server.settings.users.presence


# what users do ------------------------------------------------------------------------------


async def seen(server: Server, caller: Caller, state: str) -> None:
    """A device polls, and says as what it wants to be seen; ``offline``: it does not want to be seen doing so.

    spec: client-server-api/#get_matrixclientv3sync
    """
    if state == OFFLINE or not tracked(server):
        return
    followed = caller.node.memory(Presences).follow(caller)
    now = server.clock.monotonic()
    before = followed.devices.get(caller.device_nid)
    followed.devices[caller.device_nid] = (state, now)
    if before is not None and before[0] == state:
        return
    if state == ONLINE:
        _be_active(server, followed)
    _settle(server, caller.node, followed)


def active(server: Server, caller: Caller) -> None:
    """The caller has done something of their own accord, such as sending a message: who was idle is online again.

    Who wants to be seen as offline stays so.
    """
    followed = caller.node.memory(Presences).followed.get(caller.user_nid)
    if followed is None or followed.shown.state == OFFLINE:
        return
    followed.devices[caller.device_nid] = (ONLINE, server.clock.monotonic())
    _be_active(server, followed)
    if followed.shown.state != ONLINE:
        _settle(server, caller.node, followed)


def _be_active(server: Server, followed: Followed) -> None:
    followed.active = server.clock.monotonic()
    followed.shown.active_ms = server.clock.now_ms()


async def set_status(server: Server, caller: Caller, state: str, status: str | None) -> None:
    """Set the caller's presence and status message. Raises InvalidParam.

    spec: client-server-api/#put_matrixclientv3presenceuseridstatus
    """
    if state not in STATES:
        raise InvalidParam(f"'presence' must be one of: {', '.join(STATES)}")
    if status is not None and len(status) > MAX_STATUS:
        raise InvalidParam(f"A status message has at most {MAX_STATUS} characters")
    if not tracked(server):
        return
    followed = caller.node.memory(Presences).follow(caller)
    if state == OFFLINE:
        followed.devices.clear()
    else:
        followed.devices[caller.device_nid] = (state, server.clock.monotonic())
    _be_active(server, followed)
    followed.loaded = True  # what was kept is replaced
    if followed.shown.status != status:
        followed.shown.status = status
        followed.changed = followed.unsaved = True
    _settle(server, caller.node, followed)


async def status(server: Server, caller: Caller, user_id: str) -> dict[str, Any]:
    """The presence of a user whom the caller may see. Raises NotFound, Forbidden, FlowDenied, NodeUnavailable.

    spec: client-server-api/#get_matrixclientv3presenceuseridstatus
    """
    identifiers.parse_user_id(user_id)
    node = await server.nodes.of_user(user_id)
    if node is None and server.nodes.is_local(user_id):
        raise NotFound("There is no such user")
    if user_id != caller.user_id:
        if user_id not in await caller.node.read(rooms.companions, caller.user_nid):
            raise Forbidden("You are not allowed to see their presence")
        if node is not None:
            gate.check(server, DataClass.PRESENCE, node.jurisdiction, caller.node.jurisdiction)
    if not tracked(server):
        return Shown(user_id).content(0)
    # What another server tells is shown on the nodes to which it may flow, and kept nowhere.
    shown = (caller.node if node is None else node).memory(Presences).shown.get(user_id)
    if node is None:
        shown = shown or Shown(user_id)
    elif shown is None:
        kept = await node.read(stored.of_user, user_id)
        shown = Shown(user_id) if kept is None else Shown(user_id, OFFLINE, kept.status_msg, kept.last_active_ts)
    return shown.content(server.clock.now_ms())


# the state machine --------------------------------------------------------------------------


def _state(followed: Followed, now: float) -> str:
    wanted = {state for state, _ in followed.devices.values()}
    if ONLINE in wanted:
        return ONLINE if now - followed.active < IDLE else UNAVAILABLE
    return UNAVAILABLE if wanted else OFFLINE


def _settle(server: Server, node: Node, followed: Followed) -> None:
    """Show what has come of it, and look again when time alone may change it."""
    now = server.clock.monotonic()
    state = _state(followed, now)
    if state != followed.shown.state:
        followed.shown.state = state
        followed.changed = True
        followed.unsaved = followed.unsaved or state == OFFLINE
    if followed.task is None and (followed.changed or followed.again or _must_save(followed, now)):
        followed.task = asyncio.get_running_loop().create_task(_tell(server, node, followed))
    if followed.timer is None and (due := _due(followed, state, now)) is not None:
        followed.timer = server.clock.call_later(max(due - now, 0.1), _look_again, server, node, followed)
    if followed.timer is None and followed.task is None:
        node.memory(Presences).followed.pop(followed.user_nid, None)


def _due(followed: Followed, state: str, now: float) -> float | None:
    """When to look again; None when there is nothing to come."""
    dues = [seen_at + GONE for _, seen_at in followed.devices.values()]
    if state == ONLINE:
        dues.append(followed.active + IDLE)
    if state != OFFLINE and followed.told is not None:
        dues.append(followed.told + TOLD_AGAIN)
    if followed.unsaved and followed.task is None:
        dues.append(now if followed.saved is None else followed.saved + SAVED_EVERY)
    return min(dues, default=None)


def _must_save(followed: Followed, now: float) -> bool:
    return followed.unsaved and (followed.saved is None or now - followed.saved >= SAVED_EVERY)


def _look_again(server: Server, node: Node, followed: Followed) -> None:
    followed.timer = None
    now = server.clock.monotonic()
    # Requests that wait now belong to the devices that were seen last.
    waiting = len(server.wakeups.listeners.get(resident_key(node, followed.user_nid), ()))
    newest_first = sorted(followed.devices.items(), key=lambda item: -item[1][1])
    for place, (device_nid, (state, seen_at)) in enumerate(newest_first):
        if place < waiting:
            followed.devices[device_nid] = (state, now)
        elif seen_at + GONE <= now:
            del followed.devices[device_nid]
    is_shown = followed.shown.state != OFFLINE
    followed.again = is_shown and followed.told is not None and followed.told + TOLD_AGAIN <= now
    _settle(server, node, followed)


# telling ------------------------------------------------------------------------------------


async def _tell(server: Server, node: Node, followed: Followed) -> None:
    """Tell those who share a room, here and elsewhere; keep what is to be kept."""
    try:
        while followed.changed or followed.again or _must_save(followed, server.clock.monotonic()):
            if not followed.loaded:
                await _load(node, followed)
            if followed.changed:
                followed.changed = followed.again = False
                await _spread(server, node, followed)
            if followed.again:
                followed.again = False
                await _tell_servers(server, node, followed)
            if _must_save(followed, server.clock.monotonic()):
                await _save(server, node, followed)
    except NodeUnavailable:
        _put_off(server, followed)  # nobody can look at it either
    except Exception:
        _put_off(server, followed)
        log.exception("presence was not told", node=node.name)
    finally:
        followed.task = None
        _settle(server, node, followed)


def _put_off(server: Server, followed: Followed) -> None:
    """What could not be told is not; what is to be kept is tried again later."""
    followed.changed = followed.again = False
    followed.told = None
    followed.saved = server.clock.monotonic()


async def _load(node: Node, followed: Followed) -> None:
    kept = await node.read(stored.find, followed.user_nid)
    if not followed.loaded:
        followed.loaded = True
        if kept is not None:
            followed.shown.status = kept.status_msg
            followed.shown.active_ms = followed.shown.active_ms or kept.last_active_ts


async def _save(server: Server, node: Node, followed: Followed) -> None:
    shown = followed.shown
    followed.unsaved, followed.saved = False, server.clock.monotonic()
    kept = StoredPresence(shown.state, shown.status, shown.active_ms)
    await node.write(stored.put, followed.user_nid, kept)


async def _spread(server: Server, node: Node, followed: Followed) -> None:
    node.memory(Presences).show(node, followed.shown)
    server.wake_residents(node, [followed.user_nid, *await node.read(rooms.sharing, followed.user_nid)])
    await _tell_servers(server, node, followed)
    for name in await node.read(rooms.nodes_sharing, followed.user_nid):
        other = server.nodes[name]
        if other is node or not gate.may(server, DataClass.PRESENCE, node.jurisdiction, other.jurisdiction):
            continue
        other.memory(Presences).show(other, replace(followed.shown))
        try:
            server.wake_residents(other, await other.read(rooms.sharing_with, followed.shown.user_id))
        except NodeUnavailable:
            continue  # nobody there can look at it either


async def _tell_servers(server: Server, node: Node, followed: Followed) -> None:
    """Tell the other servers in a resident's rooms, if they can be reached now; again and again while not offline.

    spec: server-server-api/#presence
    """
    if not server.settings.federation.enabled:
        return
    shown = followed.shown
    servers = await node.read(peers.sharing, shown.user_id, outgoing.MOST_TOLD)
    followed.told = server.clock.monotonic() if servers else None
    if servers:
        told = {"user_id": shown.user_id, "last_active_ago": 0, **shown.content(server.clock.now_ms())}
        edu = Fleeting(DataClass.PRESENCE, "m.presence", canonical.encode({"push": [told]}))
        pass_on(node, servers, f"presence {shown.user_id}", edu)


# what a user is told ------------------------------------------------------------------------


async def events(
    server: Server,
    caller: Caller,
    part: Part,
    mine: Sequence[StoredMembership],
    seen_ephemeral: int,
    initial: bool,
    since: int | None = None,
) -> list[bytes]:
    """The encoded m.presence events of those who share a room with the caller, and of the caller: what changed after
    the tick ``seen_ephemeral``; at first, of everybody who is not offline; and of those who came to share a room
    behind the position ``since``. Usually no trip.
    """
    if not tracked(server):
        return []
    presences = caller.node.memory(Presences)
    met = set() if since is None else await acquaintance.since(caller, mine, since)
    if not (initial or met or presences.last_tick > seen_ephemeral):
        return []
    known = await acquaintance.shown(server, caller.node, met, Presences) if met else []
    changed = [
        shown
        for shown in presences.since(0 if initial else seen_ephemeral)
        if not (initial and shown.state == OFFLINE) and part.takes("m.presence", shown.user_id)
    ]
    told = {shown.user_id for shown in changed}
    changed += [
        shown
        for shown in known
        if shown.state != OFFLINE and shown.user_id not in told and part.takes("m.presence", shown.user_id)
    ]
    if not changed:
        return []
    visible = await _visible(caller, mine, {shown.user_id for shown in changed})
    now = server.clock.now_ms()
    return [
        orjson.dumps({"type": "m.presence", "sender": shown.user_id, "content": shown.content(now)})
        for shown in changed
        if shown.user_id in visible
    ]


async def _visible(caller: Caller, mine: Sequence[StoredMembership], user_ids: Collection[str]) -> set[str]:
    """Those of some users with whom the caller shares a room, and themselves."""
    found = {caller.user_id}
    wanted = set(user_ids) - found
    memory = caller.node.memory(Rooms)
    joined = [room for room in mine if room.membership == "join"]
    held = [memory.get(room.room_id) for room in joined] if len(wanted) <= FEW else [None]
    for room in held:
        if room is not None:
            found |= {user_id for user_id in wanted - found if room.now.membership(user_id) == "join"}
    if wanted <= found or None not in held:
        return found
    return found | await caller.node.read(rooms.companions, caller.user_nid)
