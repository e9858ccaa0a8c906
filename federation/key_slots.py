"""Who is being asked for keys at this moment: so many servers of each standing, and whoever takes long makes room.

A name costs nothing: anybody can name any number of servers that take long to answer, or have none. So those that
nobody knows only ever wait for one another, and not for long.

spec: server-server-api/#retrieving-server-keys
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from homeserver.context import Server


class Standing(StrEnum):
    """What another server is to us."""

    MEMBER = "member"
    """It has users in rooms of ours."""
    KNOWN = "known"
    """A key of it has been heard."""
    STRANGER = "stranger"
    FOR_OTHERS = "for_others"
    """It is somebody else who wants to know its keys from us, as a notary."""


MOST: Final = {Standing.MEMBER: 64, Standing.KNOWN: 32, Standing.STRANGER: 48, Standing.FOR_OTHERS: 16}
"""Servers of each standing that are asked at the same time. None of them takes a place of another standing."""
MOST_OF_ONE: Final = 8
"""Strangers that are asked at the same time because one and the same address names them."""
ENOUGH: Final = 3.0
"""Seconds in which a server that is well answers. Whoever has taken longer loses its place when others need one."""
LONGEST: Final = 60.0
"""Seconds for which a server and the notaries are asked about its keys, all in all."""


@dataclass(eq=False, slots=True)
class Place:
    """One server that is being asked. ``asker``: the address that named it; ``since`` in seconds of the monotonic
    clock; ``heard`` is whether a key was."""

    standing: Standing
    asker: str
    since: float
    heard: asyncio.Task[bool]
    done: asyncio.Task[None] | None = None

    @property
    def lost(self) -> bool:
        """Whether it is not waited for any more."""
        return self.heard.done() or self.heard.cancelling() > 0

    def give_up(self) -> None:
        """Wait for it no more."""
        self.heard.cancel()


class Slots:
    """All places, by the name of the server that is asked."""

    def __init__(self) -> None:
        self.held: dict[str, Place] = {}

    def take(
        self, server: Server, name: str, standing: Standing, asker: str, work: Coroutine[Any, Any, bool]
    ) -> Place | None:
        """Begin to ask a server, if there is a place; None, and ``work`` is not begun, if there is none."""
        now = server.clock.monotonic()
        if not self._has_room(server, standing, asker, now):
            work.close()
            server.telemetry.counter(
                "domicile_federation_key_requests_refused",
                "Servers that were not asked for their keys because too many are being asked, by standing.",
                ["standing"],
            ).inc(standing)
            return None
        place = self.held[name] = Place(standing, asker, now, asyncio.ensure_future(work))
        timer = server.clock.call_later(LONGEST, place.give_up)
        place.heard.add_done_callback(lambda _: timer.cancel())
        return place

    def _has_room(self, server: Server, standing: Standing, asker: str, now: float) -> bool:
        mine = [place for place in self.held.values() if place.standing is standing and not place.lost]
        if standing is Standing.STRANGER and asker:
            of_one = [place for place in mine if place.asker == asker]
            if len(of_one) >= MOST_OF_ONE:
                return _relieve(server, of_one, now)
        return len(mine) < MOST[standing] or _relieve(server, mine, now)


def _relieve(server: Server, places: list[Place], now: float) -> bool:
    """Take the place away from who has had it longest, if that was long enough."""
    slowest = min(places, key=lambda place: place.since)
    if now - slowest.since < ENOUGH:
        return False
    slowest.give_up()
    server.telemetry.counter(
        "domicile_federation_key_requests_cut_short",
        "Servers that took long to tell their keys and made room for others, by standing.",
        ["standing"],
    ).inc(slowest.standing)
    return True
