"""The mailboxes of residents' devices: what is put into them, what waits there, and what a device has seen.

What a device has seen is deleted behind its back: deletions of many devices are committed together.

spec: client-server-api/#send-to-device-messaging
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from homeserver.accounts import recipients
from homeserver.e2ee import mailbox_bound
from homeserver.protocol.errors import NodeUnavailable
from homeserver.rooms import application_services
from homeserver.runtime.lru import Lru
from homeserver.storage import streams
from homeserver.storage import to_device as stored
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.to_device import Letter

log = structlog.get_logger("e2ee.mailboxes")

EVERY_DEVICE = "*"

Events = dict[str, dict[str, bytes]]
"""Encoded events by user id and device id (or ``*``)."""


async def put(tx: Transaction, server: Server, node: Node, events: Events) -> None:
    """Put events into the mailboxes of residents' devices. Only inside `Node.advance`. Raises Departed."""
    found, owners = await letters(tx, node, events)
    if found:
        deliver(tx, server, node, found, owners, await streams.allocate(tx, len(found)))


async def letters(tx: Transaction, node: Node, events: Events) -> tuple[list[Letter], dict[int, str]]:
    """What goes into which mailbox; and the owners' user ids by row id."""
    found: list[Letter] = []
    owners: dict[int, str] = {}
    for user_id, devices in (await recipients.of_users(tx, node, events)).items():
        wanted = events[user_id]
        everywhere = wanted.get(EVERY_DEVICE)
        if everywhere is not None:
            wanted = {**dict.fromkeys(devices, everywhere), **wanted}
        for device_id, event in wanted.items():
            recipient = devices.get(device_id)
            if recipient is not None:
                owners[recipient.user_nid] = user_id
                found.append((recipient.user_nid, recipient.device_nid, event))
    return found, owners


def deliver(
    tx: Transaction,
    server: Server,
    node: Node,
    letters: Sequence[Letter],
    owners: Mapping[int, str],
    first: int,
    more: int = 0,
) -> None:
    """Put letters into mailboxes at the positions from ``first`` on; ``more`` positions were taken besides."""
    stored.deliver(tx, first, letters)
    if server.services.on(node.name):
        addressed = [(owners[user_nid], device_nid) for user_nid, device_nid, _ in letters]
        application_services.mark_letters(tx, server, node, first, addressed)
    last = first + len(letters) + more - 1

    def announce() -> None:
        _expect(node, letters, first)
        node.announce(last, [(Stream.TO_DEVICE, [device_nid for _, device_nid, _ in letters])])
        server.wake_residents(node, {user_nid for user_nid, _, _ in letters})
        mailbox_bound.note(server, node, [device_nid for _, device_nid, _ in letters])

    tx.after_commit(announce)


def _expect(node: Node, letters: Sequence[Letter], first: int) -> None:
    """Mailboxes that are known to be empty are so up to what comes now."""
    empty_to = node.memory(Mailboxes).empty_to
    changed = node.changes.changed
    known = empty_to.find(device_nid for _, device_nid, _ in letters)
    for pos, (_, device_nid, _) in enumerate(letters, first):
        if device_nid in known and not changed(Stream.TO_DEVICE, device_nid, known[device_nid]):
            empty_to[device_nid] = pos - 1


# what waits ---------------------------------------------------------------------------------


class Mailboxes:
    """What is known about mailboxes without looking (``node.memory(Mailboxes)``).

    ``empty_to``: no message with a position up to this one waits for the device, or it is about to be deleted.
    ``seen``: what is about to be deleted: device and the position up to which.
    """

    def __init__(self) -> None:
        self.empty_to: Lru[int, int] = Lru(50_000)
        self.seen: dict[int, int] = {}
        self.task: asyncio.Task[None] | None = None


def note_empty(node: Node, device_nid: int, upto: int) -> None:
    """Somebody has seen that no message waits for the device with a position up to this one."""
    empty_to = node.memory(Mailboxes).empty_to
    empty_to[device_nid] = max(upto, empty_to.get(device_nid) or 0)


async def waiting(node: Node, device_nid: int, after: int, upto: int, limit: int) -> list[tuple[int, bytes]]:
    """The oldest messages for a device with ``after < pos <= upto``: (pos, JSON of the event).

    No trip when nothing can be there.
    """
    mailboxes = node.memory(Mailboxes)
    after = max(after, mailboxes.empty_to.get(device_nid) or 0)
    if after >= upto or not node.changes.changed(Stream.TO_DEVICE, device_nid, after):
        return []
    found = await node.read(stored.waiting, device_nid, after, upto, limit)
    if not found and after == (mailboxes.empty_to.get(device_nid) or 0):  # the whole mailbox was looked through
        mailboxes.empty_to[device_nid] = upto
    return found


async def acknowledge(node: Node, device_nid: int, upto: int) -> None:
    """The device has its messages up to a position: they are deleted soon. Waits for a look at most.

    spec: client-server-api/#extensions-to-sync
    """
    mailboxes = node.memory(Mailboxes)
    empty_to = mailboxes.empty_to.get(device_nid)
    if empty_to is None:
        oldest = await node.read(stored.oldest, device_nid)
        full = oldest is not None and oldest <= upto
    else:
        full = empty_to < upto and node.changes.changed(Stream.TO_DEVICE, device_nid, empty_to)
    if full:
        mailboxes.seen[device_nid] = upto
        if mailboxes.task is None:
            mailboxes.task = asyncio.get_running_loop().create_task(_forget_seen(node, mailboxes))
    note_empty(node, device_nid, upto)


async def _forget_seen(node: Node, mailboxes: Mailboxes) -> None:
    """Delete what devices have, together for all that said so while the deletion before was committed."""
    try:
        while mailboxes.seen:
            seen, mailboxes.seen = mailboxes.seen, {}
            try:
                await node.write(stored.forget, list(seen.items()))
            except NodeUnavailable:
                _remember_full(mailboxes, seen)
            except Exception:
                log.exception("deleting delivered messages failed", node=node.name)
                _remember_full(mailboxes, seen)
    finally:
        mailboxes.task = None


def _remember_full(mailboxes: Mailboxes, seen: Mapping[int, int]) -> None:
    """The messages are still there: to be looked for again."""
    for device_nid in seen:
        mailboxes.empty_to.pop(device_nid)
