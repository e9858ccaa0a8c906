"""Reading what the log of another operator shows to everybody: its checkpoint, hashes of its tree, and alarms about it.

Bounded in requests, bytes and time for each look. Nothing that is read is believed but what the log's key has signed.
"""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from homeserver.protocol import branching, canonical, checkpoints, log_alarms, signed_notes, tiles
from homeserver.protocol.branching import Fork, Untold
from homeserver.protocol.errors import BadJson
from homeserver.protocol.log_alarms import Kind, NoAlarm
from homeserver.protocol.merkle import HASH_BYTES
from homeserver.protocol.signed_notes import InvalidNote, Note
from homeserver.protocol.tiles import Tile
from homeserver.runtime.exchange import Unreachable
from homeserver.runtime.outbound import own_place, place_of

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.protocol.checkpoints import Head
    from homeserver.protocol.merkle import Subtree
    from homeserver.protocol.signed_notes import NamedKey

LARGEST: Final = 64 * 1024
"""Bytes of a checkpoint, and of an alarm."""
LARGEST_OVERVIEW: Final = 2**20
"""Bytes of what a deployment says of all its logs."""
SECONDS: Final = 10.0
"""How long each answer is waited for."""
ALARMS: Final = 100
"""Of so many alarms, the newest, it is checked whether they are true."""
REQUESTS: Final = 64
"""How often a log is asked in one look: two heads of the largest trees need a third of that."""


class Signed(NamedTuple):
    """A checkpoint, under the signature of its log at least."""

    note: Note
    head: Head


class Lie(NamedTuple):
    """Two checkpoints of a log that cannot both be true. ``held``: the one that goes on from what was signed here, as
    far as is known."""

    held: Signed
    shown: Signed
    fork: Fork


class RemoteLog:
    """A log, for one look. ``url``: where the operator says that it is; None, where it is called like its address."""

    def __init__(self, server: Server, key: NamedKey, url: str | None) -> None:
        self._server = server
        self._key = key
        self._named = url is not None
        self._url = (url or f"https://{key.name}").rstrip("/")
        self._left = REQUESTS
        self._tiles: dict[tuple[int, int], bytes] = {}

    async def checkpoint(self) -> Signed:
        """The newest that it shows. Raises Untold."""
        raw = await self._get(f"{self._url}/checkpoint", LARGEST)
        if raw is None:
            raise Untold("the log shows no checkpoint")
        try:
            return opened(raw, self._key)
        except InvalidNote as fault:
            raise Untold(f"the log shows a checkpoint that is none: {fault}") from None

    async def fork(self, one: Head, two: Head) -> Fork | None:
        """Why two heads of the log cannot both be true, or None when one goes on from the other. Raises Untold."""
        _, larger = branching.in_order(one, two)
        return branching.compare(
            one, two, {part: await self._root(part, larger.size) for part in branching.parts(one, two)}
        )

    async def _root(self, part: Subtree, size: int) -> bytes:
        """The root of a subtree of the tree of ``size`` leaves, as the log tells it."""
        at = tiles.holding(part)
        hashes = self._tiles.get((at.level, at.place), b"")
        if len(hashes) < (at.offset + at.length) * HASH_BYTES:
            hashes = self._tiles[at.level, at.place] = await self._tile(at.level, at.place, size)
        return tiles.root_within(hashes, at)

    async def _tile(self, level: int, place: int, size: int) -> bytes:
        """A tile as wide as it is in a tree of ``size`` leaves; or the whole one, where only that is there any more."""
        width = min(tiles.WIDTH, (size >> tiles.HEIGHT * level) - place * tiles.WIDTH)
        for each in dict.fromkeys((width, tiles.WIDTH)):
            raw = await self._get(f"{self._url}/{tiles.path(Tile(level, place, each))}", tiles.WIDTH * HASH_BYTES)
            if raw is not None:
                if len(raw) != each * HASH_BYTES:
                    raise Untold("the log shows a tile of another width than was asked for")
                return raw
        raise Untold(f"the log does not show the tiles of {size} leaves")

    async def confession(self) -> Lie | None:
        """A proof that it has signed two histories, which the log has itself among its alarms. Raises Untold."""
        raw = await self._get(self._url.rpartition("/")[0], LARGEST_OVERVIEW)
        try:
            said = orjson.loads(raw or b"{}")
        except orjson.JSONDecodeError:
            return None
        found = said.get("alarms") if isinstance(said, dict) else None
        proofs = (self._proof(each) for each in found[-ALARMS:]) if isinstance(found, list) else ()
        return next((each for each in proofs if each is not None), None)

    def _proof(self, said: Any) -> Lie | None:
        try:
            raw = canonical.encode({name: said[name] for name in said if name not in ("sha256", "ended")})
            link = log_alarms.read(raw)
            if link.kind is not Kind.TWO_HISTORIES or link.key != self._key.write() or len(raw) > LARGEST:
                return None
            log_alarms.check(link)
            held, shown = (opened(each.encode(), self._key) for each in (link.held, link.shown))
        except (NoAlarm, BadJson, TypeError, ValueError):
            return None
        return Lie(held, shown, Fork(b64decode(link.other), tuple(b64decode(each) for each in link.proof)))

    async def _get(self, url: str, most: int) -> bytes | None:
        """What is there; None, if nothing is. Raises Untold."""
        if not self._left:
            raise Untold("the log would have to be asked too often")
        self._left -= 1
        try:
            place, target = own_place(url) if self._named else place_of(url)
            answer = await self._server.outbound.request("GET", place, target, most=most, seconds=SECONDS)
        except Unreachable as fault:
            raise Untold(f"the log cannot be reached: {fault}") from None
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise Untold(f"the log answers with status {answer.status}")
        return answer.body


def opened(raw: bytes, key: NamedKey) -> Signed:
    """A checkpoint that a log has signed, under its own signature alone. Raises InvalidNote."""
    note = signed_notes.read(raw)
    made = checkpoints.opened(note, key)
    ((_, signature),) = signed_notes.believed(note, [key])
    return Signed(Note(note.text, (signature,)), made.head)
