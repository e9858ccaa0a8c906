"""Events that are sent later, unless their sender, or whom they told of it, cancels them or puts them off (MSC4140).

Each is sent once: whoever takes it from the database sends it under a transaction id of its own, so that a server that
was killed in between finds the event that it made; and who moves its sender to another node waits until it is sent, or
it is sent from there. What is allowed is asked twice, before it is stored and when it is sent; nothing that could be
read is ever stored.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from homeserver.context import Caller
from homeserver.protocol import identifiers, stickiness
from homeserver.protocol.errors import (
    DelayedEventOver,
    Forbidden,
    LimitExceeded,
    NodeUnavailable,
    NotFound,
    Refusal,
    ServerUnreachable,
    UserSuspended,
)
from homeserver.rooms import say
from homeserver.rooms.transactions import DELAYED, key_of
from homeserver.runtime.doors import Doors
from homeserver.storage import accounts
from homeserver.storage import delayed_events as stored
from homeserver.storage.delayed_events import NewDelayed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.storage.delayed_events import Delayed
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("rooms.delayed")

AT_ONCE: Final = 100
"""Events that are read together."""

RETRY: Final = 5.0
"""Seconds until what could not be sent is tried again."""

LONGEST_SLEEP: Final = 60.0
"""Seconds; the clock that says when an event is due may jump."""

ACTIONS: Final = ("send", "cancel", "restart")

PASSING = (NodeUnavailable, LimitExceeded, ServerUnreachable)
"""Why an event was not sent that may be sent soon."""


def is_on(server: Server) -> bool:
    """Whether events can be sent later at all."""
    return server.settings.delayed_events.per_user > 0


# asking for it ------------------------------------------------------------------------------


async def schedule(
    server: Server,
    caller: Caller,
    room_id: str,
    kind: str,
    content: dict[str, Any],
    delay_ms: int,
    *,
    state_key: str | None = None,
    txn_id: str | None = None,
    sticky_ms: int | None = None,
) -> str:
    """Have an event sent in ``delay_ms``, a message or (with ``state_key``) state; returns the delay id.

    ``sticky_ms``: for how long it will be sticky from then on. ``delay_ms`` is no longer than the settings allow.
    Raises Forbidden for what the caller may not send now, or never later, PlaintextRefused and what else `send.place`
    raises; LimitExceeded when too many of theirs wait.
    """
    if not is_on(server):
        raise Forbidden("This server sends no events later")
    key = None if txn_id is None else key_of(server, caller, room_id, f"delay {kind}", txn_id)
    if key is not None and (earlier := await caller.node.read(stored.of_transaction, key)) is not None:
        return earlier
    await say.check(server, caller, room_id, kind, state_key, content)
    new = NewDelayed(
        secrets.token_urlsafe(24),
        caller.user_nid,
        caller.device_nid,
        key,
        room_id,
        kind,
        state_key,
        orjson.dumps(content),
        delay_ms,
        sticky_ms,
    )
    return await caller.node.write(_schedule, server, caller.node, new)


async def _schedule(tx: Transaction, server: Server, node: Node, new: NewDelayed) -> str:
    if new.txn_key is not None and (earlier := await stored.of_transaction(tx, new.txn_key)) is not None:
        return earlier
    now = server.clock.now_ms()
    waiting = await stored.due_times(tx, new.user_nid)
    if len(waiting) >= server.settings.delayed_events.per_user:
        raise LimitExceeded(max(1, waiting[0] - now))
    await stored.add(tx, new, now)
    tx.after_commit(lambda: server.wakeups.wake(key(node)))
    return new.delay_id


async def waiting(caller: Caller) -> list[dict[str, Any]]:
    """The caller's events that wait, as they are shown to them, the first to be sent first."""
    return [_shown(each) for each in await caller.node.read(stored.scheduled, caller.user_nid)]


def _shown(each: Delayed) -> dict[str, Any]:
    """Both names of either time: those of the proposal, and what clients know."""
    state_key = {} if each.state_key is None else {"state_key": each.state_key}
    sticky = {} if each.sticky_ms is None else {stickiness.FIELD: {stickiness.DURATION: each.sticky_ms}}
    return {
        "delay_id": each.delay_id,
        "room_id": each.room_id,
        "type": each.type,
        **state_key,
        **sticky,
        "delay_ms": each.delay_ms,
        "scheduled_at": each.running_since,
        "delay": each.delay_ms,
        "running_since": each.running_since,
        "content": orjson.loads(each.content or b"{}"),
    }


# sending, cancelling and putting off --------------------------------------------------------


async def act(server: Server, delay_id: str, action: str) -> None:
    """Do one of `ACTIONS` to a delayed event; who knows its id may. To do again what was done is no error.

    Raises NotFound, DelayedEventOver when the opposite has been done, and for ``send`` what sending raises.
    """
    doors = server.nodes.directory.memory(Doors)
    while True:
        closings = doors.closings
        node, user_id = await _place_of(server, delay_id)
        if not doors.is_closed(user_id) and closings == doors.closings:
            break
        await doors.opened(user_id)  # they may have been moved, or are being moved
    with doors.inside(user_id):
        await _act(server, node, user_id, delay_id, action)


async def _act(server: Server, node: Node, user_id: str, delay_id: str, action: str) -> None:
    if action == "send":
        try:
            await _deliver(server, node, user_id, delay_id, server.clock.now_ms(), early=True)
        except PASSING:
            server.wakeups.wake(key(node))  # it will be tried again
            raise
        done = False
    else:
        change = stored.cancel if action == "cancel" else stored.restart
        done = await node.write(change, delay_id, server.clock.now_ms())
    if done:
        server.wakeups.wake(key(node))
        return
    found = await node.read(stored.find, delay_id)
    if found is None:
        raise NotFound("There is no such delayed event")
    if found.action != action:
        raise DelayedEventOver("It was sent already" if found.action == "send" else "It was cancelled already")


async def _place_of(server: Server, delay_id: str) -> tuple[Node, str]:
    """The node on which a delayed event rests, and whose it is."""
    down: NodeUnavailable | None = None
    for node in server.nodes:
        try:
            if (found := await node.read(stored.find, delay_id)) is not None:
                return node, found.user_id
        except NodeUnavailable as error:
            down = error
    raise down or NotFound("There is no such delayed event")


class _UnderWay:
    """Events of one node that are being sent, by delay id."""

    def __init__(self) -> None:
        self.deliveries: dict[str, asyncio.Future[None]] = {}


async def _deliver(
    server: Server, node: Node, user_id: str, delay_id: str, now_ms: int, *, early: bool = False
) -> None:
    """Send one if its moment has come by ``now_ms``, or ``early``; nothing is done to one that is over. Its sender's
    door is open, and stays so until it has been sent, whoever waits for that.

    Raises what sending raises; unless that passes, it is over then.
    """
    under_way = node.memory(_UnderWay).deliveries
    while (earlier := under_way.get(delay_id)) is not None:
        await asyncio.wait([earlier])
    inside = ExitStack()
    inside.enter_context(server.nodes.directory.memory(Doors).inside(user_id))
    inside.callback(under_way.pop, delay_id)
    mine = under_way[delay_id] = asyncio.ensure_future(_take_and_send(server, node, delay_id, now_ms, early))
    mine.add_done_callback(lambda _: inside.close())
    await asyncio.shield(mine)


async def _take_and_send(server: Server, node: Node, delay_id: str, now_ms: int, early: bool) -> None:
    taken = await node.write(stored.take, delay_id, now_ms, early=early)
    if taken is None:
        return
    try:
        await _send(server, node, taken)
    except PASSING:
        raise
    except Exception:
        await node.write(stored.end, delay_id, server.clock.now_ms())
        raise
    await node.write(stored.end, delay_id, server.clock.now_ms())


async def _send(server: Server, node: Node, taken: Delayed) -> None:
    account = await node.read(accounts.find, taken.user_id)
    if account is None or account.deactivated_ts is not None or account.locked:
        raise Forbidden("They may not send anything by now")
    if account.suspended:
        raise UserSuspended("They may not send anything while their account is suspended")
    # Of no device, so that the transaction ids of devices are others; but it is shown as the device's own.
    owner = Caller(taken.user_id, identifiers.localpart_of(taken.user_id), node, taken.user_nid, "", taken.device_nid)
    content = orjson.loads(taken.content or b"{}")
    txn_id = DELAYED + taken.delay_id
    if taken.state_key is None:
        await say.send(server, owner, taken.room_id, taken.type, txn_id, content, sticky_ms=taken.sticky_ms)
    else:
        where = (taken.room_id, taken.type, taken.state_key)
        await say.set_state(server, owner, *where, content, txn_id=txn_id, sticky_ms=taken.sticky_ms)


# when the moment comes ----------------------------------------------------------------------


def key(node: Node) -> tuple[str, str]:
    """What `follow` waits for in ``server.wakeups``."""
    return ("delayed events", node.name)


async def follow(server: Server, node: Node) -> None:
    """Send the delayed events of a node's residents when they are due, and at once those that fell due while the server
    was down; for ever."""
    with server.wakeups.listen([key(node)]) as listener:
        while not server.wakeups.stopping:
            try:
                seconds = await send_due(server, node)
            except NodeUnavailable:
                seconds = RETRY
            except Exception:
                log.exception("delayed events were not looked at", node=node.name)
                seconds = RETRY
            await listener.wait(seconds)


async def send_due(server: Server, node: Node) -> float | None:
    """Send what is due on a node, in its order within each room; returns in how many seconds to come back, None: when
    there is something new. Raises NodeUnavailable."""
    now = server.clock.now_ms()
    after, passing = (0, 0), False
    while page := await node.read(stored.due, now, after, AT_ONCE):
        assert page[-1].due_ts is not None
        after = (page[-1].due_ts, page[-1].delayed_nid)
        rooms: dict[str, list[Delayed]] = {}
        for each in page:
            rooms.setdefault(each.room_id, []).append(each)
        left = await asyncio.gather(*(_send_in_turn(server, node, due, now) for due in rooms.values()))
        passing = passing or any(left)
    following = await node.read(stored.next_due, now)
    waits = [] if following is None else [min(LONGEST_SLEEP, max(0, following - server.clock.now_ms()) / 1000)]
    return min([*waits, RETRY] if passing else waits, default=None)


async def _send_in_turn(server: Server, node: Node, due: Sequence[Delayed], now_ms: int) -> bool:
    """Send events of one room; True when one, and what comes after it, has to be tried again."""
    doors = server.nodes.directory.memory(Doors)
    for each in due:
        if doors.is_closed(each.user_id):
            return True  # they are being moved
        try:
            with doors.inside(each.user_id):
                await _deliver(server, node, each.user_id, each.delay_id, now_ms)
        except PASSING as error:
            log.info("a delayed event waits", node=node.name, reason=error.message)
            return True
        except Refusal as refusal:
            log.info("a delayed event was refused", node=node.name, reason=refusal.message)
        except Exception:
            log.exception("a delayed event failed", node=node.name)
    return False
