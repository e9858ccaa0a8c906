"""Gaps in the timeline of a room that other servers hold: filled when somebody reads that far.

Several who read the same place share one walk. What cannot be had is not asked for again for a while, and whoever
reads gets what is here.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import structlog

from homeserver.protocol.errors import Refusal
from homeserver.rooms import backfilled, history, sight
from homeserver.rooms.history import Page
from homeserver.runtime.lru import Lru
from homeserver.storage import rooms, timeline_gaps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from homeserver.context import Past, Server
    from homeserver.rooms.sight import Sight
    from homeserver.rooms.state import Room, Timed
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.timeline_gaps import Gap

ROUNDS: Final = 3
"""Walks that one request waits for."""
PATIENCE: Final = 15.0
"""Seconds that a request waits for a walk, which goes on without it."""
AGAIN_AFTER: Final = 60.0
"""Seconds after which what could not be had is asked for again."""
AT_ONCE: Final = 50
"""Walks of one node at the same time."""

log = structlog.get_logger("rooms.gaps")

Key = tuple[str, frozenset[str]]


class Reach(Enum):
    """Whether a page has all that there is."""

    WHOLE = "whole"
    MORE = "more"
    """Other servers have more, which was not asked for yet."""
    OUT_OF_REACH = "out_of_reach"
    """They have more, which was not to be had now."""


class _Walks:
    """Walks that are under way on a node, and when those that failed may be made again (``node.memory(_Walks)``).

    ``storing``: how many are writing what they brought; ``stored``: how many have.
    """

    def __init__(self) -> None:
        self.storing = 0
        self.stored = 0
        self.under_way: dict[Key, asyncio.Task[bool]] = {}
        self.failed: Lru[Key, float] = Lru(10_000)


async def page(
    server: Server,
    node: Node,
    room: Room,
    seen: Sight,
    *,
    start: int,
    to: int | None,
    limit: int,
    wanted: Callable[[Timed], bool] | None = None,
) -> Page:
    """`history.page`, read backwards, with the gaps that it meets filled first as far as that is to be had."""
    found = Page([], start, start)
    for looked_at in (limit, history.SCANNED):
        reach = await fill(server, node, room, start, to, looked_at)
        found = await _page(node, room, seen, start=start, to=to, limit=limit, wanted=wanted)
        if found.end is not None or not room.now.servers:
            return found
        if reach is Reach.OUT_OF_REACH:
            break
    if reach is Reach.MORE or (reach is Reach.OUT_OF_REACH and found.events):
        return replace(found, end=found.events[-1].pos - 1 if found.events else start)
    return found


async def _page(
    node: Node,
    room: Room,
    seen: Sight,
    *,
    start: int,
    to: int | None,
    limit: int,
    wanted: Callable[[Timed], bool] | None,
) -> Page:
    """`history.page` with the visibility that the history had which is here by now: events come with what hid them."""
    walks = node.memory(_Walks)
    if not room.now.servers:
        return await history.page(node, room, seen, start=start, to=to, backwards=True, limit=limit, wanted=wanted)
    before = (walks.stored, walks.storing)
    if before != (0, 0):
        seen = await sight.renewed(node, room, seen)
    found = await history.page(node, room, seen, start=start, to=to, backwards=True, limit=limit, wanted=wanted)
    if walks.storing or before != (walks.stored, 0):  # something may have come between the two
        seen = await sight.renewed(node, room, seen)
        found = replace(found, events=[event for event in found.events if seen.sees(event)])
    return found


async def fill(server: Server, node: Node, room: Room, start: int, to: int | None, limit: int) -> Reach:
    """Fill the gaps that a page of ``limit`` events would meet, read backwards from ``start`` and not beyond ``to``.

    Raises NodeUnavailable.
    """
    if not room.now.servers or not server.settings.federation.enabled or limit == 0:
        return Reach.WHOLE
    for _ in range(ROUNDS):
        gap = await node.read(_find, room.nid, start, to, limit)
        if gap is None:
            return Reach.WHOLE
        if not await _filled(server, node, room, gap):
            return Reach.OUT_OF_REACH
    return Reach.MORE


async def _find(tx: Transaction, room_nid: int, start: int, to: int | None, limit: int) -> Gap | None:
    if (await rooms.by_nid(tx, room_nid)).history_before is not None:
        return None  # another node of ours has more: that comes first
    return await timeline_gaps.find(tx, room_nid, start, to, limit)


async def _filled(server: Server, node: Node, room: Room, gap: Gap) -> bool:
    """Walk, or wait for whoever does already; whether that brought anything."""
    walks = node.memory(_Walks)
    key = (room.room_id, gap.before)
    walk = walks.under_way.get(key)
    if walk is None:
        again = walks.failed.get(key)
        if len(walks.under_way) >= AT_ONCE or (again is not None and server.clock.monotonic() < again):
            return False
        walk = walks.under_way[key] = asyncio.get_running_loop().create_task(_walk(server, node, room, gap))
        walk.add_done_callback(lambda _: walks.under_way.pop(key))
    late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = server.clock.call_later(PATIENCE, late.cancel)
    waited_for: set[asyncio.Future[Any]] = {walk, late}
    try:
        await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
        late.cancel()
    return walk.done() and walk.result()


async def _walk(server: Server, node: Node, room: Room, gap: Gap) -> bool:
    found = await _fetch(server, node, room, gap)
    server.telemetry.counter(
        "domicile_federation_history_walks",
        "Walks into the history of rooms of other servers, by outcome.",
        ["outcome"],
    ).inc("found" if found else "nothing")
    return found


async def _fetch(server: Server, node: Node, room: Room, gap: Gap) -> bool:
    try:
        past = await server.remote.fetch_history(server, node, room.room_id, gap.before, gap.hashes)
        if past and await _store(server, node, room, past, gap):
            return True
    except Refusal as refusal:
        log.info("history could not be had", node=node.name, reason=refusal.message)
    except Exception:
        log.exception("fetching history failed", node=node.name)
    node.memory(_Walks).failed[room.room_id, gap.before] = server.clock.monotonic() + AGAIN_AFTER
    return False


async def _store(server: Server, node: Node, room: Room, past: Sequence[Past], gap: Gap) -> int:
    walks = node.memory(_Walks)
    walks.storing += 1
    try:
        return await backfilled.store(server, node, room, past, backfilled.Place(gap.above))
    finally:
        walks.storing -= 1
        walks.stored += 1
