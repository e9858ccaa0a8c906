"""Messages to devices: each is delivered once, however often a request is repeated and whoever is killed.

All messages of a request to devices of one node are one transaction there. Those for another node go straight into
its mailboxes, so that they rest nowhere else; only while it is down, or an isolation lies between, do they wait in the
outbox.

spec: client-server-api/#send-to-device-messaging
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from config.residency import DataClass
from homeserver.accounts import recipients
from homeserver.e2ee import held_messages, mailboxes, to_servers
from homeserver.e2ee.mailboxes import Events
from homeserver.e2ee.publication import KEYS
from homeserver.e2ee.to_servers import MAX_MESSAGE
from homeserver.protocol.encryption_rules import ENCRYPTED
from homeserver.protocol.errors import InvalidParam, NodeUnavailable, TooLarge
from homeserver.residency import gate, traffic
from homeserver.rooms.replicas import caught_up
from homeserver.storage import client_transactions, outbox, received, streams
from homeserver.storage import to_device as stored
from homeserver.storage.client_transactions import Echo
from homeserver.storage.engine import UniqueViolation
from homeserver.storage.outbox import NewParcel

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from homeserver.context import Caller, Server
    from homeserver.e2ee.to_servers import Contents
    from homeserver.rooms.seeding import Mark
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.outbox import Parcel
    from homeserver.storage.peers import NewEdu

TO_DEVICE = "to_device"
"""The kind of parcel that holds messages to devices."""

KEYS_FIRST = 2.0
"""Seconds that messages to another node wait for public keys that are under way there."""

MAX_TYPE = 255
"""Characters of an event type."""

Messages = dict[str, dict[str, Any]]
"""Contents by user id and device id (or ``*``)."""


# sending ------------------------------------------------------------------------------------


async def send(server: Server, caller: Caller, event_type: str, txn_id: str, messages: Messages) -> None:
    """Put messages into the mailboxes of devices; a repeated request does nothing.

    Messages to unknown users and devices are dropped, and so are those that the residency policy lets not out while
    others in the request may go. Raises FlowDenied when none of them may, TooLarge, InvalidParam, NodeUnavailable.

    spec: client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid
    """
    if not event_type or len(event_type) > MAX_TYPE:
        raise InvalidParam(f"An event type has at most {MAX_TYPE} characters")
    events = _events(caller.user_id, event_type, messages)
    if event_type == ENCRYPTED and caller.user_id in events:
        await held_messages.set_apart(server, caller, txn_id, events[caller.user_id])
    moved: set[str] = set()
    while True:
        try:
            await _send_once(server, caller, event_type, txn_id, messages, events, moved)
            return
        except recipients.Departed as departed:
            moved |= departed.user_ids


async def _send_once(
    server: Server,
    caller: Caller,
    event_type: str,
    txn_id: str,
    messages: Messages,
    events: Events,
    moved: Collection[str],
) -> None:
    """`send`, unless somebody moves to another node meanwhile: raises Departed, and what was delivered is not again.

    ``moved``: who did so before; where they are, others may have been sent their part already.
    """
    own = caller.node
    here = recipients.remembered(own, events)
    elsewhere = [user_id for user_id in events if user_id not in here]
    by_node = await _by_node(server, {user_id: events[user_id] for user_id in elsewhere})
    here.update(by_node.pop(own.name, {}))
    abroad: dict[str, Contents] = {}
    if server.settings.federation.enabled:
        abroad = to_servers.by_server(server, {user_id: messages[user_id] for user_id in elsewhere})
    _refuse_border(server, own, by_node, abroad, bool(here))
    key = server.identity.tag("to_device", caller.user_id, caller.device_id, event_type, txn_id)
    parcels = []
    if by_node and not await own.read(client_transactions.known, key):
        for name, whole in by_node.items():
            for part_key, part in _apart(server, key, whole, moved):
                if not await _hand_over(server, own, name, part_key, part):
                    parcels.append(NewParcel(name, TO_DEVICE, body=_body(part, part_key)))
    echo = Echo(caller.user_nid, caller.device_nid, txn_id)
    edus = to_servers.direct_to_device(caller.user_id, event_type, key, abroad)
    try:
        await own.advance_together(_send, server, own, key, echo, here, parcels, edus)
    except UniqueViolation:
        if not await own.read(client_transactions.known, key):
            raise


def _apart(server: Server, key: bytes, events: Events, moved: Collection[str]) -> list[tuple[bytes, Events]]:
    """What is for a node under one key; and under another what is for those who have moved there meanwhile."""
    late = {user_id: each for user_id, each in events.items() if user_id in moved}
    if not late:
        return [(key, events)]
    rest = {user_id: each for user_id, each in events.items() if user_id not in moved}
    parts = [(key, rest), (server.identity.tag("to_device moved", key.hex()), late)]
    return [(part_key, part) for part_key, part in parts if part]


async def _by_node(server: Server, events: Events) -> dict[str, Events]:
    """The events by the node where their users reside."""
    found: dict[str, Events] = {}
    for user_id, home in (await server.nodes.of_users(events)).items():
        found.setdefault(home, {})[user_id] = events[user_id]
    return found


def _refuse_border(
    server: Server, own: Node, by_node: dict[str, Events], abroad: dict[str, Contents], others: bool
) -> None:
    """Take out the nodes and servers to which nothing may flow. Raises FlowDenied when that leaves nobody."""
    refusals = []
    for name in list(abroad):
        target = server.policy.now.jurisdiction_of_server(name)
        verdict = server.policy.now.may(DataClass.MAILBOX, own.jurisdiction, target)
        if not verdict and not verdict.held:
            refusals.append(verdict)
            del abroad[name]
    for name in list(by_node):
        verdict = server.policy.now.may(DataClass.MAILBOX, own.jurisdiction, server.nodes[name].jurisdiction)
        if not verdict and not verdict.held:
            refusals.append(verdict)
            del by_node[name]
    if refusals and not by_node and not abroad and not others:
        raise gate.denied(refusals[0])


async def _hand_over(server: Server, own: Node, name: str, key: bytes, events: Events) -> bool:
    """Deliver on another node; False when it is down, an isolation lies between, or earlier messages still wait to be
    shipped there. Public keys that are under way arrive first: clients drop what a device asks of them that they do not
    know yet, such as to be verified."""
    node = server.nodes[name]
    if server.policy.now.holds(own.jurisdiction, node.jurisdiction) or not node.engine.health().up:
        return False
    messages_wait, keys_wait = await own.read(outbox.waiting_of_kinds, name, TO_DEVICE, KEYS)
    if messages_wait:
        return False
    if keys_wait:
        await caught_up(server, own, node, KEYS_FIRST)
    try:
        await node.advance_together(_receive, server, node, key, events)
    except NodeUnavailable:
        return False
    return True


async def _receive(tx: Transaction, server: Server, node: Node, key: bytes, events: Events) -> bool:
    """Deliver, unless that has been done. Raises Departed."""
    if not await stored.receive_once(tx, key, server.clock.now_ms()):
        return False
    await mailboxes.put(tx, server, node, events)
    return True


async def deliver_within(
    tx: Transaction, server: Server, node: Node, user_id: str, event_type: str, contents: Mapping[str, Any]
) -> None:
    """Put messages of the server's own into the mailboxes of a resident's devices: content by device id, as if the user
    had sent them. Only inside `Node.advance`."""
    await mailboxes.put(tx, server, node, _events(user_id, event_type, {user_id: dict(contents)}))


def _events(sender: str, event_type: str, messages: Messages) -> Events:
    """The events as devices are given them. Raises TooLarge."""
    start = orjson.dumps({"sender": sender, "type": event_type})[:-1] + b',"content":'
    found: Events = {}
    for user_id, devices in messages.items():
        mine = found[user_id] = {}
        for device_id, content in devices.items():
            encoded = orjson.dumps(content)
            if len(encoded) > MAX_MESSAGE:
                raise TooLarge(f"A message to a device has at most {MAX_MESSAGE} bytes")
            mine[device_id] = start + encoded + b"}"
    return found


def _body(events: Events, key: bytes) -> bytes:
    whole = {
        user_id: {device_id: orjson.Fragment(event) for device_id, event in devices.items()}
        for user_id, devices in events.items()
    }
    return orjson.dumps({"events": whole, "key": key.hex()})


async def _send(
    tx: Transaction,
    server: Server,
    node: Node,
    key: bytes,
    echo: Echo,
    events: Events,
    parcels: Sequence[NewParcel],
    edus: Sequence[NewEdu],
) -> None:
    letters, owners = await mailboxes.letters(tx, node, events)
    client_transactions.claim(tx, key, echo, server.clock.now_ms())
    if not letters and not parcels and not edus:
        return
    first = streams.take(tx, node.position, len(letters) + len(parcels) + len(edus))
    mailboxes.deliver(tx, server, node, letters, owners, first, len(parcels) + len(edus))
    to_servers.write(tx, node, first + len(letters) + len(parcels), edus)
    if parcels:
        outbox.put(tx, first + len(letters), parcels)
        tx.after_commit(lambda: server.wake_outbox(node))


async def apply_messages(server: Server, _: Node, destination: Node, parcel: Parcel, mark: Mark) -> None:
    """Deliver what a user of another node sent."""
    assert parcel.body is not None
    body = orjson.loads(parcel.body)
    events = {
        user_id: {device_id: orjson.dumps(event) for device_id, event in devices.items()}
        for user_id, devices in body["events"].items()
    }
    key = bytes.fromhex(body["key"])
    moved: set[str] = set()
    while True:
        onward = await _by_node(server, {user_id: events[user_id] for user_id in moved})
        onward.pop(destination.name, None)
        gone = {user_id for part in onward.values() for user_id in part}
        parcels = [
            NewParcel(name, TO_DEVICE, body=_body(part, part_key))
            for name, whole in onward.items()
            for part_key, part in _apart(server, key, whole, gone)
        ]
        here = {user_id: each for user_id, each in events.items() if user_id not in gone}
        try:
            await destination.advance(_apply, server, destination, key, here, parcels, mark)
            return
        except recipients.Departed as departed:
            moved |= departed.user_ids


async def _apply(
    tx: Transaction,
    server: Server,
    node: Node,
    key: bytes,
    events: Events,
    parcels: Sequence[NewParcel],
    mark: Mark,
) -> None:
    """Deliver, and send on what is for those who are not here any more, unless that has been done."""
    mark(tx)
    if await _receive(tx, server, node, key, events) and parcels:
        first = await streams.allocate(tx, len(parcels))
        outbox.put(tx, first, parcels)
        last = first + len(parcels) - 1

        def announce() -> None:
            node.announce(last, [])
            server.wake_outbox(node)

        tx.after_commit(announce)


async def take_from_server(
    server: Server, origin: str, message_id: str, sender: str, event_type: str, messages: Messages
) -> int:
    """Deliver what a user of another server sent, once for each ``message_id`` of that server.

    Returns for how many of our users the residency policy let it not in. Messages to unknown users and devices are
    dropped. Raises TooLarge, NodeUnavailable: what was delivered already is not delivered again.

    spec: server-server-api/#send-to-device-messaging
    """
    events = _events(sender, event_type, messages)
    moved: set[str] = set()
    while True:
        try:
            return await _take_once(server, origin, message_id, events, moved)
        except recipients.Departed as departed:
            moved |= departed.user_ids


async def _take_once(server: Server, origin: str, message_id: str, all_events: Events, moved: Collection[str]) -> int:
    """`take_from_server`, unless somebody moves to another node meanwhile; ``moved``: who did so before."""
    by_node = await _by_node(server, all_events)
    there = server.policy.now.jurisdiction_of_server(origin)
    denied = 0
    for name, events in by_node.items():
        node = server.nodes[name]
        if gate.may_in_time(server, DataClass.MAILBOX, there, node.jurisdiction):
            traffic.concerns(node)
            late = {user_id: each for user_id, each in events.items() if user_id in moved}
            rest = {user_id: each for user_id, each in events.items() if user_id not in moved}
            for name_of, part in ((message_id, rest), (f"{message_id} (moved)", late)):
                if part:
                    await node.advance_together(_receive_from_server, server, node, (origin, name_of), part)
        else:
            denied += len(events)
    return denied


async def _receive_from_server(
    tx: Transaction, server: Server, node: Node, key: tuple[str, str], events: Events
) -> None:
    if await received.take_message(tx, *key, server.clock.now_ms()):
        await mailboxes.put(tx, server, node, events)
