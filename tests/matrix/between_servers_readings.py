"""Rows: what one server asks another about the events of a room that both are in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from federation import asking_rooms, port
from tests.federation.guests import asks
from tests.matrix.rows import DENIED, HERE, IN, OUT, THERE, Attempt, Row, Try, outcome, quoted
from tests.matrix.world import World


@dataclass(frozen=True)
class Reading:
    """One question about the graph of a room: how they ask it, how we do, and what of the answer is looked for.

    Both ask about the event that sets the topic to a word, and about one that follows it.
    """

    hook: str
    theirs: Callable[[World, str, str], Awaitable[object]]
    ours: Callable[[World, str, str], Awaitable[object]]
    mark: Callable[[str, str], bytes]
    refused: str = DENIED
    found_none: str = DENIED

    def rows(self) -> list[Row]:
        """What they ask and what we ask."""
        return [
            Row(
                f"their {self.hook}",
                self.asked(self.theirs),
                ((OUT, "events"),),
                self.refused,
                HERE,
                says=self.refused[:3],
                routes=(self.hook,),
                asks=("federation.rooms_reading._check_places",),
            ),
            Row(
                f"our {self.hook}",
                self.asked(self.ours),
                ((IN, "events"),),
                self.found_none,
                THERE,
                says="not asked",
                routes=(self.hook,),
                asks=("federation.remote.check_flow",),
            ),
        ]

    def asked(self, ask: Callable[[World, str, str], Awaitable[object]]) -> Try:
        """How that is tried."""

        async def attempt(world: World, word: str) -> Attempt:
            path = f"/rooms{quoted(world.room_id)}/state/m.room.topic"
            event_id = str((await world.here.ask(world.alice, "PUT", path, {"topic": word}))["event_id"])
            later = await world.here.send(world.alice, world.room_id, "later")
            await world.network.settle()
            yield self.mark(word, event_id)
            yield await outcome(ask(world, event_id, later))

        return attempt


def theirs(verb: str, path: str, **query: Any) -> Callable[[World, str, str], Awaitable[object]]:
    """A question of theirs: ``{room}``, ``{event}`` and ``{later}`` are filled in."""

    def ask(world: World, event_id: str, later: str) -> Awaitable[object]:
        ids = {"room": world.room_id, "event": event_id, "later": later}
        where = path.format(**{name: quote(each, safe="") for name, each in ids.items()})
        filled = {name: value.format(**ids) if isinstance(value, str) else value for name, value in query.items()}
        content = None if verb == "GET" else {"earliest_events": [], "latest_events": [later], "limit": 1}
        return asks(world.there, HERE, verb, where, content, **filled)

    return ask


def ours(
    ask: Callable[..., Awaitable[object]], *what: str, **more: Any
) -> Callable[[World, str, str], Awaitable[object]]:
    """A question of ours; ``what`` and the values of ``more`` are filled in, where they are names of ids."""

    def asked(world: World, event_id: str, later: str) -> Awaitable[object]:
        ids = {"room": world.room_id, "event": event_id, "[event]": [event_id], "[later]": [later], "later": later}
        named = {name: ids[value] if isinstance(value, str) else value for name, value in more.items()}
        return ask(world.here.server, world.here.node("tehran"), THERE, *(ids[each] for each in what), **named)

    return asked


async def taken(pdus: list[Any]) -> None:
    assert pdus


async def nearest(server: Any, node: Any, destination: str, room_id: str) -> object:
    return await port.fetch_nearest(server, node, room_id, 0, None, backwards=False)


def the_word(word: str, event_id: str) -> bytes:
    return word.encode()


def the_id(word: str, event_id: str) -> bytes:
    return event_id.encode()


READINGS = [
    Reading(
        "backfill",
        theirs("GET", "/backfill/{room}", v="{event}", limit=1),
        ours(asking_rooms.backfill, "room", before="[event]", limit=1),
        the_word,
    ),
    Reading(
        "state",
        theirs("GET", "/state/{room}", event_id="{later}"),
        ours(asking_rooms.whole_state, "room", "later", take=taken),
        the_word,
    ),
    Reading(
        "state_ids",
        theirs("GET", "/state_ids/{room}", event_id="{later}"),
        ours(asking_rooms.state_ids, "room", "later"),
        the_id,
    ),
    Reading(
        "event",
        theirs("GET", "/event/{event}"),
        ours(asking_rooms.event, "event"),
        the_word,
        "404 M_NOT_FOUND",
    ),
    Reading(
        "event_auth",
        theirs("GET", "/event_auth/{room}/{event}"),
        ours(asking_rooms.event_auth, "room", "event", take=taken),
        lambda word, event_id: b'"auth_chain"',
    ),
    Reading(
        "get_missing_events",
        theirs("POST", "/get_missing_events/{room}"),
        ours(asking_rooms.missing_events, "room", latest="[later]", earliest=[], limit=1),
        the_word,
    ),
    Reading(
        "timestamp_to_event",
        theirs("GET", "/timestamp_to_event/{room}", ts=0, dir="f"),
        ours(nearest, "room"),
        lambda word, event_id: b'"event_id"',
        found_none="200",
    ),
]
