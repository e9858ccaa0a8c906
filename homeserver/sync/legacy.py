"""The event stream and the snapshots that clients used before there was `/sync`, made of the same parts.

Nothing here is fast: a snapshot is the answer of `/sync`, taken apart and put together again.

spec: client-server-api/#get_matrixclientv3events, client-server-api/#get_matrixclientv3initialsync
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from homeserver.accounts import callers
from homeserver.context import resident_key
from homeserver.protocol.errors import Forbidden, NotFound
from homeserver.rooms import epochs, history, public, readable, showing, state, tokens
from homeserver.rooms.tokens import Token
from homeserver.storage import events as stored_events
from homeserver.storage.streams import Stream
from homeserver.sync import classic, memberships
from homeserver.sync.filters import EventFilter, SyncFilter

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence, Set

    from homeserver.context import Caller, Server
    from homeserver.rooms.sight import Sight
    from homeserver.rooms.state import Room, Timed
    from homeserver.storage.rooms import StoredMembership

AT_ONCE: Final = 100
"""Events of one answer of the stream."""

USUAL: Final = 10
"""Messages of each room when the client does not say."""

IN: Final = frozenset(("join", "invite"))


class Stretch(NamedTuple):
    """A piece of the stream: encoded events, and the tokens before and behind them."""

    start: str
    events: Sequence[bytes]
    end: str


# the event stream ---------------------------------------------------------------------------


async def stream(server: Server, caller: Caller, since: str | None, timeout_ms: int, room_id: str | None) -> Stretch:
    """Events behind a token, of the caller's rooms, or of one room that they may read; waits for some to come.

    Raises InvalidParam for the token, Forbidden for the room.

    spec: client-server-api/#get_matrixclientv3events
    """
    node = caller.node
    await node.start()
    token = None if since is None else tokens.parse(since)
    start = node.position if token is None else min(token.position, node.position)
    if token is not None and epochs.is_past(caller, token):  # this stream says nothing of what it leaves out
        start = caller.came_pos
    keys: list[tuple[Any, ...]] = [resident_key(node, caller.user_nid)]
    if room_id is not None:
        room, _ = await readable.reader(server, caller, room_id)
        keys = [state.arrivals(node, room)]
    deadline = server.clock.monotonic() + min(timeout_ms / 1000, server.settings.limits.sync_timeout.seconds)
    woken: Set[Hashable] = frozenset()
    with callers.listen(server, caller, keys) as listener:
        while True:
            found, end = await _behind(server, caller, start, room_id)
            await callers.stay(server, caller, listener, woken)
            left = deadline - server.clock.monotonic()
            if found or left <= 0 or server.wakeups.stopping or server.wants_alone(caller.user_id):
                return Stretch(since or str(Token(start)), found, str(Token(end)))
            woken = await listener.wait(left)


async def _behind(server: Server, caller: Caller, start: int, room_id: str | None) -> tuple[list[bytes], int]:
    """The first events behind a position, and the position up to which they are all."""
    node, upto = caller.node, caller.node.position
    found: list[tuple[int, Room, Sight, Timed]] = []
    for room, seen in await _readable(server, caller, start, room_id):
        page = await history.page(node, room, seen, start=start, to=upto, backwards=False, limit=AT_ONCE)
        if page.end is not None:  # there is more in this room: what others have behind it comes with the next answer
            upto = min(upto, page.end)
        found += [(event.pos, room, seen, event) for event in page.events]
    found = sorted((entry for entry in found if entry[0] <= upto), key=lambda entry: entry[0])
    if len(found) > AT_ONCE:
        found = found[:AT_ONCE]
        upto = found[-1][0]
    return [(await showing.show_all(server, caller, room, seen, [event]))[0] for _, room, seen, event in found], upto


async def _readable(server: Server, caller: Caller, start: int, room_id: str | None) -> list[tuple[Room, Sight]]:
    """The rooms that the caller may read, as far as they may have anything behind a position."""
    if room_id is not None:
        return [await readable.reader(server, caller, room_id)]
    mine = await memberships.of_user(caller.node, caller.user_nid)
    found = []
    for each in mine:
        happened = caller.node.changes.changed(Stream.TIMELINE, each.room_nid, start)
        if happened and (each.membership == "join" or each.pos > start):
            try:
                found.append(await readable.reader(server, caller, each.room_id))
            except Forbidden:  # they were invited, and no more
                continue
    return found


async def event(server: Server, caller: Caller, event_id: str) -> bytes:
    """An event of any room that the caller may read. Raises NotFound, which also stands for what is not theirs.

    spec: client-server-api/#get_matrixclientv3eventseventid
    """
    room_id = await caller.node.read(stored_events.room_of, event_id)
    if room_id is not None:
        try:
            room, seen = await readable.reader(server, caller, room_id)
            found = await history.find(caller.node, room, seen, event_id)
            return (await showing.show_all(server, caller, room, seen, [found]))[0]
        except Forbidden:
            pass
    raise NotFound("There is no such event, or you may not see it")


# snapshots ----------------------------------------------------------------------------------


async def snapshot(server: Server, caller: Caller, limit: int | None, archived: bool) -> dict[str, Any]:
    """All rooms of the caller with their newest messages, and the caller's own data.

    spec: client-server-api/#get_matrixclientv3initialsync
    """
    answer = await _look(server, caller, SyncFilter(include_leave=archived), limit)
    mine = await memberships.of_user(caller.node, caller.user_nid)
    wanted = [each for each in mine if archived or each.membership in IN]
    return {
        "end": answer["next_batch"],
        "presence": answer.get("presence", {}).get("events", []),
        "account_data": answer.get("account_data", {}).get("events", []),
        "rooms": [room for each in wanted if (room := await _room(server, caller, each, answer)) is not None],
    }


async def snapshot_of_room(server: Server, caller: Caller, room_id: str, limit: int | None) -> dict[str, Any]:
    """One room with its newest messages. Raises Forbidden for who is not in it and never was.

    spec: client-server-api/#get_matrixclientv3roomsroomidinitialsync
    """
    mine = {each.room_id: each for each in await memberships.of_user(caller.node, caller.user_nid)}
    if room_id in mine:
        answer = await _look(server, caller, SyncFilter(rooms=frozenset([room_id]), include_leave=True), limit)
        found = await _room(server, caller, mine[room_id], answer)
        if found is not None and "messages" in found:
            return found
    raise Forbidden("You are not in that room, and never were")


async def _look(server: Server, caller: Caller, chosen: SyncFilter, limit: int | None) -> dict[str, Any]:
    chosen = replace(chosen, timeline=EventFilter(limit=USUAL if limit is None else limit))
    parts = await classic.sync(server, caller, classic.Wish(None, chosen, state_after="state_after"))
    answer: dict[str, Any] = orjson.loads(b"".join(parts))
    return answer


async def _room(
    server: Server, caller: Caller, held: StoredMembership, answer: dict[str, Any]
) -> dict[str, Any] | None:
    """A room as snapshots have it; None for one of which the caller is not to know."""
    rooms = answer.get("rooms", {})
    found: dict[str, Any] = {"room_id": held.room_id, "membership": held.membership}
    if held.membership == "invite" and held.room_id in rooms.get("invite", {}):
        (row,) = await caller.node.read(stored_events.by_nids, [held.event_nid])
        shown = showing.show_stored(row, server.clock.now_ms(), room_id=orjson.dumps(held.room_id))
        return {**found, "invite": orjson.loads(shown)}
    section = rooms.get("join", {}).get(held.room_id) or rooms.get("leave", {}).get(held.room_id)
    if section is None:
        return None
    timeline = section.get("timeline", {})
    messages = {"chunk": _with_room(timeline.get("events", []), held.room_id), "end": answer["next_batch"]}
    if timeline.get("prev_batch") is not None:
        messages["start"] = timeline["prev_batch"]
    published = await _is_published(server, held.room_id)
    return {
        **found,
        "messages": messages,
        "state": _with_room(section.get("state_after", {}).get("events", []), held.room_id),
        "account_data": section.get("account_data", {}).get("events", []),
        "visibility": "public" if published else "private",
    }


def _with_room(events: Sequence[dict[str, Any]], room_id: str) -> list[dict[str, Any]]:
    return [{**event, "room_id": room_id} for event in events]


async def _is_published(server: Server, room_id: str) -> bool:
    try:
        return await public.is_public(server, room_id)
    except NotFound:  # its home is another server
        return False
