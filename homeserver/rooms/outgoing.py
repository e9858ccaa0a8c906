"""What waits for other servers, in memory: one `Line` for each server that something waits for, none for the others.

A line's queue is a copy of the end of what the database has for the server (storage/peers.py), so that nothing is read
while a server keeps up. When it does not, the queue is dropped and the database read. federation/sender.py empties the
lines; whatever makes something for other servers, fills them after its commit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from config.residency import DataClass
from homeserver.protocol.identifiers import domain_of
from homeserver.storage.nodes import Mirror
from homeserver.storage.peers import OutgoingEdu, OutgoingReceipt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from homeserver.protocol.events import Event
    from homeserver.runtime.clock import Timer
    from homeserver.storage.nodes import Node
    from homeserver.storage.peers import NewEdu, PeerRow, Waiting

MOST_WAITING = 200
"""What a queue holds before it is left to the database."""

MOST_FLEETING = 200

MOST_TOLD = 300
"""Servers that are told that somebody types, or is there: in larger rooms those with the most members, or rooms in
common. It is of the moment and costs a transaction each, while nobody misses an event by it."""


class OutgoingPdu:
    """An event on its way out; its bytes are made once for all servers."""

    __slots__ = ("_bytes", "_event", "event_id", "pos", "sender")

    def __init__(self, pos: int, event_id: str, sender: str, event: Event | None, encoded: bytes = b"") -> None:
        self.pos = pos
        self.event_id = event_id
        self.sender = sender
        self._event = event
        self._bytes = encoded

    def encoded(self) -> bytes:
        """The federation format as canonical JSON."""
        if self._event is not None:
            self._bytes, self._event = self._event.pdu_bytes(), None
        return self._bytes


Item = OutgoingPdu | OutgoingEdu | OutgoingReceipt


class Fleeting(NamedTuple):
    """An EDU that is lost when the server is: ``content`` is canonical JSON."""

    data_class: DataClass
    kind: str
    content: bytes


@dataclass(eq=False, slots=True)
class Line:
    """What waits for one server on one node.

    Up to ``cursor`` everything has been sent, or is not for it; None: the database knows. ``queue`` has all that is for
    it with a position above ``floor``. ``ahead``: what of the database has been found to be for it and is not sent.
    ``failures``: attempts in a row that failed, the last at ``tried`` (monotonic); the attempt was to send what goes up
    to ``bound``, and said that it was made at ``since`` (milliseconds since 1970). ``most``: what is sent at once.
    ``due``: its task is about to be started. ``gone``: see `peers.PeerRow.gone_upto`.
    """

    server: str
    cursor: int | None
    floor: int
    queue: deque[Item] = field(default_factory=deque)
    ahead: deque[Waiting] = field(default_factory=deque)
    fleeting: dict[str, Fleeting] = field(default_factory=dict)
    failures: int = 0
    tried: float = 0.0
    bound: int | None = None
    since: int = 0
    most: int | None = None
    due: bool = False
    gone: int = 0
    task: asyncio.Task[None] | None = None
    timer: Timer | None = None

    def add(self, item: Item) -> None:
        """Something more, at a higher position than anything before. A server that is away gets it later."""
        if self.failures or len(self.queue) >= MOST_WAITING:
            self.rely_on_database(item.pos)
        else:
            self.queue.append(item)

    def rely_on_database(self, floor: int) -> None:
        """Drop what is in memory: up to ``floor`` the database is read."""
        self.queue.clear()
        self.ahead.clear()
        self.floor = max(self.floor, floor)

    def doubt(self) -> None:
        """The database may say something else than when it was asked."""
        self.cursor = None
        self.rely_on_database(0)


class Lines(Mirror):
    """The lines of one node (``node.memory(Lines)``).

    ``scanned``: a server without a line has nothing waiting. ``doubted`` is set when that is to be found out.
    ``owed``: those that are to be told, when they are back, whose keys have changed (`peers.owed`); None: to be asked.
    ``written``: how far servers are, where the database is not told yet. ``start`` is called for a line that has
    something to do; None while nobody sends.
    """

    def __init__(self) -> None:
        self.held: dict[str, Line] = {}
        self.scanned = False
        self.doubted = asyncio.Event()
        self.owed: set[str] | None = None
        self.written: dict[str, PeerRow] = {}
        self.start: Callable[[Line], None] | None = None

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.scanned, self.owed = False, None
        for line in self.held.values():
            line.doubt()
        self.doubted.set()

    def of(self, server: str, upto: int) -> Line:
        """The line of a server; a new one has nothing with a position up to ``upto``."""
        line = self.held.get(server)
        if line is None:
            line = self.held[server] = Line(server, upto if self.scanned else None, upto)
        return line


def feed(node: Node, items: Iterable[tuple[Item, Iterable[str]]]) -> None:
    """After a commit: what it has for which servers, by ascending position."""
    lines = node.memory(Lines)
    if lines.start is None:
        return
    for item, servers in items:
        for server in servers:
            line = lines.of(server, item.pos - 1)
            line.add(item)
            lines.start(line)


def feed_event(node: Node, pos: int, event: Event, servers: Iterable[str]) -> None:
    """`feed` with an event, but for the server of its sender."""
    origin = domain_of(event.sender)
    item = OutgoingPdu(pos, event.event_id, event.sender, event)
    feed(node, [(item, [server for server in servers if server != origin])])


def feed_edus(node: Node, first: int, edus: Sequence[NewEdu]) -> None:
    """`feed` with what `peers.put_edus` has written from position ``first`` on."""
    feed(
        node,
        [
            (OutgoingEdu(pos, edu.data_class, edu.kind, edu.content), [edu.server])
            for pos, edu in enumerate(edus, first)
        ],
    )


def point_to(node: Node, owed: Mapping[str, tuple[int, int]]) -> None:
    """After a commit: to which servers it has something that is to be read from the database, between which positions,
    both included."""
    lines = node.memory(Lines)
    if lines.start is None:
        return
    for server, (first, last) in owed.items():
        line = lines.of(server, first - 1)
        line.rely_on_database(last)
        lines.start(line)


def pass_on(node: Node, servers: Iterable[str], key: str, edu: Fleeting) -> None:
    """Send servers what need not be kept, if they can be reached now; one that waits with the same key is replaced."""
    lines = node.memory(Lines)
    if lines.start is None:
        return
    for server in servers:
        line = lines.of(server, node.position)
        if not line.failures and (key in line.fleeting or len(line.fleeting) < MOST_FLEETING):
            line.fleeting.pop(key, None)
            line.fleeting[key] = edu
            lines.start(line)
