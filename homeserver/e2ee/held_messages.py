"""What somebody's devices encrypt for one of theirs that is hidden from others: it waits until the device is signed.

The owner has to be shown such a device, to sign it or to remove it, and their clients may encrypt for it what they
send. If it was put there by somebody who runs the server, that must neither reach it nor rest in the database, where
they look: it waits in memory, for a short time, and is delivered once the owner's signature is there. What clients say
to verify each other is not encrypted in this way, and is not held up.

spec: client-server-api/#cross-signing
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from homeserver.accounts import recipients
from homeserver.context import resident_key
from homeserver.e2ee import mailboxes, shown_keys
from homeserver.e2ee.mailboxes import EVERY_DEVICE
from homeserver.e2ee.shown_keys import NO_READER
from homeserver.protocol.errors import NodeUnavailable
from homeserver.runtime.lru import Lru

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.e2ee.shown_keys import Shown
    from homeserver.storage.nodes import Node

log = structlog.get_logger("e2ee.held_messages")

SECONDS: Final = 600.0
"""How long a message waits: as long as people take who compare what two devices show."""
MOST: Final = 100
"""Messages that wait for the devices of one user; the oldest go."""
_BYTES: Final = 8 * 2**20
_OVERHEAD: Final = 300


class Message(NamedTuple):
    """An event that waits for a device. ``sent_by``: device and transaction of the request; ``until``: monotonic."""

    device_id: str
    sent_by: tuple[int, str]
    until: float
    event: bytes


class Held:
    """What waits on a node (``node.memory(Held)``), by user id. ``watching``: who waits for a user's signatures."""

    def __init__(self) -> None:
        self.messages: Lru[str, tuple[Message, ...]] = Lru(_BYTES, _weight)
        self.watching: dict[str, asyncio.Task[None]] = {}


def _weight(messages: tuple[Message, ...]) -> int:
    return sum(_OVERHEAD + len(message.event) for message in messages)


async def set_apart(server: Server, caller: Caller, txn_id: str, mine: dict[str, bytes]) -> None:
    """Take out of ``mine``, the encrypted events of a request for devices of the caller's, by device id, what is for
    devices that others are not shown. Usually no trip.

    Raises NodeUnavailable.
    """
    node, user_id = caller.node, caller.user_id
    shown = await _shown(server, node, user_id)
    if shown is None or shown.own is None:
        return
    if EVERY_DEVICE in mine:
        everywhere = mine.pop(EVERY_DEVICE)
        mine.update({device_id: everywhere for device_id in shown.own[0] if device_id not in mine})
    until, sent_by = server.clock.monotonic() + SECONDS, (caller.device_nid, txn_id)
    added = [
        Message(device_id, sent_by, until, mine.pop(device_id)) for device_id in list(mine) if shown.hides(device_id)
    ]
    if not added:
        return
    held = node.memory(Held)
    before = held.messages.get(user_id) or ()
    known = {(message.device_id, message.sent_by) for message in before}
    new = [message for message in added if (message.device_id, message.sent_by) not in known]
    held.messages[user_id] = (*before, *new)[-MOST:]
    if user_id not in held.watching:
        watch = _watch(server, node, user_id, caller.user_nid)
        held.watching[user_id] = asyncio.get_running_loop().create_task(watch, context=Context())


async def _shown(server: Server, node: Node, user_id: str) -> Shown | None:
    found, _ = await shown_keys.of_users(server, node, [user_id], NO_READER)
    return found.get(user_id)


async def _watch(server: Server, node: Node, user_id: str, user_nid: int) -> None:
    """Deliver what waits for a user's devices once they are signed, and forget what has waited for too long."""
    held = node.memory(Held)
    try:
        with server.wakeups.listen([resident_key(node, user_nid)]) as listener:
            while not server.wakeups.stopping and (left := await _look(server, node, user_id)):
                await listener.wait(left)
    except NodeUnavailable:
        log.warning("messages for unsigned devices are lost with the node's database", node=node.name)
    except recipients.Departed:
        pass  # the user is at home elsewhere, and the devices are asked for keys again
    finally:
        held.messages.pop(user_id)
        del held.watching[user_id]


async def _look(server: Server, node: Node, user_id: str) -> float:
    """Deliver what is for devices that are hidden no more; returns for how many seconds something waits after that."""
    shown = await _shown(server, node, user_id)
    held, now = node.memory(Held), server.clock.monotonic()
    waiting = [message for message in held.messages.get(user_id) or () if message.until > now]
    hidden = [message for message in waiting if shown is not None and shown.hides(message.device_id)]
    held.messages[user_id] = tuple(hidden)
    for message in waiting:
        if message not in hidden:
            await node.advance(mailboxes.put, server, node, {user_id: {message.device_id: message.event}})
    return max((message.until - now for message in held.messages.get(user_id) or ()), default=0.0)
