"""Tokens of users who have moved: what a position of the node where they were means on the one where they are.

The places that the newest events of their rooms had there are kept, for all who moved the same way. With them a token
of an earlier epoch is answered exactly: nothing that was told is told again in a timeline, and nothing is left out.
What is older than that is answered with a gap. Whatever may be told twice without harm is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from homeserver.rooms import tokens
from homeserver.storage import moves as stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from homeserver.context import Caller
    from homeserver.rooms.tokens import Token
    from homeserver.storage.moves import EarlierHome

BEGINNING: Final = -(2**62)


@dataclass(frozen=True, slots=True)
class Since:
    """What a client has been told of a room's timeline: all up to ``position``, and what stands at ``given``."""

    position: int
    given: frozenset[int]


@dataclass(frozen=True, slots=True)
class Past:
    """A token of an earlier epoch, by rooms: those that are missing here have a gap. ``letters``: the position up to
    which the device has its messages."""

    rooms: Mapping[int, Since]
    letters: int


def is_past(caller: Caller, token: Token) -> bool:
    """Whether a token was given to the caller on another node than the one where they are."""
    if token.epoch is not None:
        return token.epoch != caller.epoch
    return token.position < caller.came_pos


async def _home(caller: Caller, token: Token) -> EarlierHome | None:
    """Where the caller was when they were given the token; None: here as well, but before something else."""
    home = await _earlier(caller, token)
    return None if home is None or home.node == caller.node.name else home


async def _earlier(caller: Caller, token: Token) -> EarlierHome | None:
    """Where the caller was, which may be here: before another home, or before the node came back from a backup."""
    homes = await caller.node.read(stored.homes_of, caller.user_nid)
    for home in homes:
        if home.epoch == token.epoch or (token.epoch is None and token.position < home.came_pos):
            return home
    return None


async def past(caller: Caller, token: Token, room_nids: Iterable[int]) -> Past:
    """What a token of `/sync` of an earlier epoch stands for now."""
    home = await _home(caller, token)
    if home is None:
        return Past({}, await letters(caller, token))
    by_room: dict[int, list[tuple[int, int]]] = {}
    for room_nid, there, here in await caller.node.read(stored.places_on, home.node, list(room_nids)):
        by_room.setdefault(room_nid, []).append((there, here))
    rooms = {
        room_nid: since for room_nid, found in by_room.items() if (since := _since(found, token.position)) is not None
    }
    return Past(rooms, await letters(caller, token, home))


def _since(places: Iterable[tuple[int, int]], position: int) -> Since | None:
    """What has been told of a room; None when that is longer ago than its places are known."""
    told = {here for there, here in places if there <= position}
    untold = {here for there, here in places if there > position}
    if not told:
        return None
    first = min(untold, default=max(told) + 1)
    upto = max((here for here in told if here < first), default=first - 1)
    return Since(upto, frozenset(here for here in told if here > upto))


async def letters(caller: Caller, token: Token, home: EarlierHome | None = None) -> int:
    """The position up to which a device that has the token has its messages."""
    home = home or await _earlier(caller, token)
    if home is None or home.epoch != caller.epoch - 1:
        return caller.came_pos
    last = await caller.node.read(stored.last_letter, caller.device_nid, home.epoch, token.position)
    return caller.came_pos if last is None else last


async def place(caller: Caller, room_nid: int, text: str, *, backwards: bool = True) -> int:
    """The position in a room's timeline that a token stands for. Of what is older than is known, a place from which
    nothing is left out in that direction. Raises InvalidParam."""
    token = tokens.parse(text)
    if not is_past(caller, token):
        return token.position
    home = await _home(caller, token)
    found = [] if home is None else await caller.node.read(stored.places_on, home.node, [room_nid])
    told = [here for _, there, here in found if there <= token.position]
    if told:
        return max(told)
    if backwards:
        return min((here for _, _, here in found), default=caller.node.position)
    return BEGINNING
