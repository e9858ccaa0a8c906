"""What an application service is told next: what waits for it in the database, and what happens at the moment.

Each item is asked of the policy: it may leave the node for where the service runs, and, if it is an event of one of our
users, their own node too. What may not, does not go, and is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from config.residency import DataClass
from homeserver.application_services.sending import contents
from homeserver.application_services.sending.contents import Contents
from homeserver.e2ee import one_time_keys
from homeserver.e2ee.one_time_keys import Spent
from homeserver.protocol.event_view import MEMBER
from homeserver.residency import gate
from homeserver.rooms import application_services as interest
from homeserver.rooms import presence, state, ticks, typing_notices
from homeserver.rooms.presence import Presences
from homeserver.rooms.state import membership_in
from homeserver.storage import application_services as stored
from homeserver.storage import devices as stored_devices
from homeserver.storage import users as stored_users
from homeserver.storage.application_services import Item, Kind

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from config.application_services import ApplicationService
    from homeserver.context import Server
    from homeserver.runtime.telemetry import Counter
    from homeserver.storage.application_services import Letter, ToldEvent, ToldReceipt
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

LOOKED_AT: Final = 500
"""Rows that are looked at for one transaction."""

MOST_ITEMS: Final = 100
"""Items of the database in one transaction."""

MOST_BYTES: Final = 1024 * 1024
"""Bytes of events and messages after which no more is put into a transaction."""

MOST_EPHEMERAL: Final = 200
"""Typing notices and presences in one transaction."""


@dataclass(slots=True)
class Place:
    """How far a service has been told: ``pos`` in the node's stream, ``tick`` of what has no position."""

    pos: int
    tick: int


class Typists(dict[str, frozenset[str]]):
    """Who types, as a service has been told last, by room id; without the rooms in which nobody does."""


class Gathered(NamedTuple):
    """What a service is told next, and how far it has been told then. Nothing of it may have been left to tell."""

    contents: Contents
    place: Place


class _Found(NamedTuple):
    """What the database says of items."""

    events: dict[int, ToldEvent]
    receipts: list[ToldReceipt]
    letters: list[Letter]


def withheld(server: Server) -> Counter:
    """What was not sent, by class."""
    return server.telemetry.counter(
        "domicile_application_service_withheld",
        "What the residency policy let not out to an application service.",
        ["class"],
    )


async def lets_out(
    server: Server, node: Node, service: ApplicationService, data_class: DataClass, owner: str | None = None
) -> bool:
    """Whether the policy lets something go from a node to a service; and, of a user of ours, from their own node."""
    sources = {node.jurisdiction}
    home = None if owner is None else await server.nodes.of_user(owner)
    if home is not None:
        sources.add(home.jurisdiction)
    return all(gate.may_in_time(server, data_class, source, service.jurisdiction) for source in sources)


async def gather(
    server: Server, node: Node, service: ApplicationService, place: Place, typists: Typists | None = None
) -> Gathered:
    """What comes behind a place. ``typists`` is kept up to date. Raises NodeUnavailable."""
    upto, tick = node.position, ticks.now(node)
    items, reached = await node.read(stored.waiting, service.id, place.pos, upto, LOOKED_AT)
    if len(items) > MOST_ITEMS:
        items = items[:MOST_ITEMS]
        reached = items[-1].pos
    gathering = _Gathering(server, node, service)
    if items:
        reached = await gathering.take(items, reached)
    if service.wants_keys:
        await gathering.take_keys(place.pos, reached)
    if service.receive_ephemeral and reached == upto:
        await gathering.take_fleeting(place.tick, Typists() if typists is None else typists)
        return Gathered(gathering.contents, Place(reached, tick))
    return Gathered(gathering.contents, Place(reached, place.tick))


class _Gathering:
    """Gathers for one transaction."""

    def __init__(self, server: Server, node: Node, service: ApplicationService) -> None:
        self.server = server
        self.node = node
        self.service = service
        self.contents = Contents()
        self.moved: dict[str, bool] = {}
        """Users who have come to share a room with the service, or may share none any more."""
        self.touched: set[str] = set()
        """The service's users whose devices had messages."""

    async def may(self, data_class: DataClass, owner: str | None = None) -> bool:
        """Whether the policy lets something go to the service; and, of a user of ours, from their own node."""
        if await lets_out(self.server, self.node, self.service, data_class, owner):
            return True
        withheld(self.server).inc(data_class.value)
        return False

    # from the database

    async def take(self, items: Sequence[Item], reached: int) -> int:
        """Take what waits at the positions of items, as much as fits; returns how far that goes."""
        found = await self.node.read(_find, items)
        receipts = {receipt.pos: receipt for receipt in found.receipts}
        letters = {letter.pos: letter for letter in found.letters}
        chosen: list[ToldReceipt] = []
        size, now = 0, self.server.clock.now_ms()
        for index, item in enumerate(items):
            if item.kind is Kind.EVENT:
                size += await self.take_event(found.events.get(item.ref_nid), now)
            elif item.kind is Kind.TO_DEVICE:
                size += await self.take_letter(letters.get(item.pos))
            elif (receipt := receipts.get(item.pos)) is not None and await self.may(
                DataClass.RECEIPTS, receipt.user_id
            ):
                chosen.append(receipt)
            if size > MOST_BYTES and index + 1 < len(items):
                reached = item.pos
                break
        self.contents.ephemeral += contents.receipts(chosen)
        return reached

    async def take_event(self, told: ToldEvent | None, now_ms: int) -> int:
        if told is None or not await self.may(DataClass.EVENTS, told.event.sender):
            return 0
        shown = contents.event(told, now_ms)
        self.contents.events.append(shown)
        if self.service.wants_keys and told.event.type == MEMBER and told.event.state_key is not None:
            self.moved[told.event.state_key] = membership_in(told.event.client) == "join"
        return len(shown)

    async def take_letter(self, letter: Letter | None) -> int:
        if letter is None or not await self.may(DataClass.MAILBOX):
            return 0
        shown = contents.letter(letter)
        self.contents.to_device.append(shown)
        self.touched.add(letter.user_id)
        return len(shown)

    # keys

    async def take_keys(self, after: int, reached: int) -> None:
        """Take whose keys changed between two positions, and what devices have left."""
        names: set[str] = set()
        while after < reached:
            changed, after = await self.node.read(stored.changed_keys, after, reached, LOOKED_AT)
            names.update(user_id for _, user_id in changed)
        if names | self.moved.keys() and await self.may(DataClass.KEYS):
            sharing = await self.sharing(names | self.moved.keys())
            came = (names | {u for u, joined in self.moved.items() if joined}) & sharing
            self.contents.changed = [each for each in sorted(came) if await self.may(DataClass.KEYS, each)]
            self.contents.left = sorted({u for u, joined in self.moved.items() if not joined} - sharing)
        spent = self.node.memory(Spent).take(self.service.has_user)
        for user_id in sorted(self.touched | spent):
            await self.count(user_id)

    async def sharing(self, user_ids: Collection[str]) -> set[str]:
        """Those of the users who are the service's or share a room with it."""
        found = {user_id for user_id in user_ids if self.service.has_user(user_id)}
        rooms = await self.node.read(stored.rooms_of, sorted(set(user_ids) - found))
        known: dict[str, bool] = {}
        for user_id, room_ids in rooms.items():
            for room_id in room_ids:
                if room_id not in known:
                    known[room_id] = await self.is_in(room_id)
                if known[room_id]:
                    found.add(user_id)
                    break
        return found

    async def is_in(self, room_id: str) -> bool:
        """Whether the service is told of what happens in a room."""
        room = await state.find(self.node, room_id)
        return room is not None and self.service in interest.interested(self.server, self.node, room)

    async def count(self, user_id: str) -> None:
        """Say what the devices of one of the service's users have left."""
        user_nid, devices = await self.node.read(_devices, user_id)
        for device in devices:
            left = await one_time_keys.counts(self.node, user_nid, device.device_nid)
            self.contents.counts.setdefault(user_id, {})[device.device_id] = left

    # what has no position

    async def take_fleeting(self, seen: int, typists: Typists) -> None:
        """Take who types, and who is there, as far as that changed after a tick."""
        told = self.contents.ephemeral
        for room_id, user_ids in typing_notices.since(self.node, seen)[:MOST_EPHEMERAL]:
            if await self.is_in(room_id) and await self.may(DataClass.RECEIPTS):
                shown = frozenset([each for each in user_ids if await self.may(DataClass.RECEIPTS, each)])
                if shown == typists.get(room_id, frozenset()):
                    continue  # who came or went is somebody of whom the service may not know
                typists.pop(room_id, None)
                if shown:
                    typists[room_id] = shown
                told.append(contents.typing(room_id, shown))
        if not presence.tracked(self.server):
            return
        presences = self.node.memory(Presences)
        if presences.last_tick <= seen:
            return
        there = {each.user_id: each for each in presences.since(seen)[:MOST_EPHEMERAL]}
        visible = await self.sharing(there.keys())
        now = self.server.clock.now_ms()
        for user_id in there.keys() & visible:
            if await self.may(DataClass.PRESENCE, user_id):
                told.append(contents.presence(user_id, there[user_id].content(now)))


async def _find(tx: Transaction, items: Sequence[Item]) -> _Found:
    nids = [item.ref_nid for item in items if item.kind is Kind.EVENT]
    marks = [item for item in items if item.kind in (Kind.RECEIPT, Kind.PRIVATE_RECEIPT)]
    places = [item.pos for item in items if item.kind is Kind.TO_DEVICE]
    return _Found(
        await stored.events(tx, nids) if nids else {},
        await stored.receipts(tx, marks) if marks else [],
        await stored.letters(tx, places) if places else [],
    )


async def _devices(tx: Transaction, user_id: str) -> tuple[int, Sequence[Any]]:
    user_nid = await stored_users.resident(tx, user_id)
    if user_nid is None or not await stored.has_made(tx, user_nid):
        return 0, ()
    return user_nid, await stored_devices.of_user(tx, user_nid)
