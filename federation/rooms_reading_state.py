"""The state of a room before an event, and the authority of events, for servers that ask.

Whole states are named by ids first; the events themselves are read and sent piece by piece, so that the memory that an
answer takes does not grow with the room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from federation.rooms_reading import known_event
from homeserver.protocol.errors import Forbidden, LimitExceeded, NotFound
from homeserver.runtime.parts import in_parts
from homeserver.storage import auth_links, events, state
from homeserver.storage.events import Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType

    from federation.rooms_reading import Reading
    from homeserver.storage.engine import Transaction
    from homeserver.storage.events import StoredEvent

PIECE: Final = 500
"""Events that are in memory at a time while an answer is sent."""
AT_ONCE: Final = 4
"""Answers about whole states that one server is given at the same time."""
RETRY_MS: Final = 1000


class StateIds:
    """The ids of a state's events, and of the events in their auth chains."""

    __slots__ = ("auth_chain", "state")

    def __init__(self, state_ids: Sequence[str], auth_chain: Sequence[str]) -> None:
        self.state = state_ids
        self.auth_chain = auth_chain


class Turn:
    """A turn of a server at what is expensive. Raises LimitExceeded for one that has enough under way."""

    def __init__(self, reading: Reading) -> None:
        self._held = reading.node.memory(_Turns).held
        self._origin = reading.origin

    def __enter__(self) -> None:
        count = self._held.get(self._origin, 0)
        if count >= AT_ONCE:
            raise LimitExceeded(RETRY_MS)
        self._held[self._origin] = count + 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held[self._origin] -= 1
        if not self._held[self._origin]:
            del self._held[self._origin]


class _Turns:
    """How many turns each server has (``node.memory(_Turns)``)."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}


async def state_ids(reading: Reading, event_id: str) -> StateIds:
    """The state before an event. Raises NotFound when it is not known here, Forbidden, LimitExceeded.

    spec: server-server-api/#get_matrixfederationv1state_idsroomid
    """
    row = await known_event(reading, event_id)
    if not reading.in_room and not reading.sees(row):
        raise Forbidden("Your server may not see the state at that event")
    with Turn(reading):
        return await reading.node.read(_state_ids, reading.room.nid, row)


async def _state_ids(tx: Transaction, room_nid: int, row: StoredEvent) -> StateIds:
    nids = await _before(tx, room_nid, row)
    ids = await events.ids(tx, nids.values())
    chain = await auth_links.chain_of_state(tx, ids)
    return StateIds(sorted(ids), sorted(chain))


async def _before(tx: Transaction, room_nid: int, row: StoredEvent) -> dict[tuple[str, str], int]:
    """The state before a stored event: key to row id. Raises NotFound."""
    unknown = NotFound("The state at that event is not known here")
    if row.state_group is None:
        raise unknown
    after = await state.load_group(tx, row.state_group)
    entries = await state.group_state(tx, after)
    if row.state_key is None or entries.get((row.type, row.state_key)) != row.event_nid:
        return entries
    if after.depth == 0:
        raise unknown
    if after.parent is not None and after.parent.depth == after.depth - 1:
        return await state.group_state(tx, after.parent)
    # A snapshot of even depth is stored against an older one. What it was made from is that of the event before it:
    # had there been several branches, it would have been made from a new root.
    for previous in await events.of_room(tx, room_nid, events.followed(row.rest)):
        if previous.state_group is not None:
            group = await state.load_group(tx, previous.state_group)
            if group.depth == after.depth - 1:
                return await state.group_state(tx, group)
    raise unknown


async def auth_chain(reading: Reading, event_id: str) -> list[str]:
    """The ids of the events in an event's auth chain. Raises NotFound, LimitExceeded.

    spec: server-server-api/#get_matrixfederationv1event_authroomideventid
    """
    row = await known_event(reading, event_id)
    with Turn(reading):
        cited = events.cited(row.rest)
        return sorted({*cited, *await reading.node.read(auth_links.chain, cited)})


async def pdus(reading: Reading, event_ids: Sequence[str]) -> AsyncIterator[bytes]:
    """A JSON array of events in federation format, whole: state and authority are for whoever is in the room.

    In pieces.
    """
    yield b"["
    comma = b""
    for part in in_parts(event_ids, PIECE):
        rows = await reading.node.read(events.of_room, reading.room.nid, part)
        encoded = [reading.whole(row) for row in rows if row.verdict != Verdict.REJECTED]
        if encoded:
            yield comma + b",".join(encoded)
            comma = b","
    yield b"]"
