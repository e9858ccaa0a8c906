"""The key ring: which keys of another server were good when, asked of itself or of a notary, kept for ever.

A key is good at a moment up to the end of its period: ``valid_until_ts`` for a key in use (at most seven days from
when it was heard), ``expired_ts`` for an old one. So a request needs a key that is good now, an event one that was
good then. How often a server is asked is bounded, whoever wants to know, and how many are at once (`key_slots`).

spec: server-server-api/#retrieving-server-keys
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from federation import key_documents, remote
from federation.key_slots import Slots, Standing
from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.signing import VerifyKey, sign_json, signing_key_ids
from homeserver.runtime import pauses
from homeserver.runtime.exchange import Unreachable
from homeserver.runtime.lru import Lru
from homeserver.storage import peers, servers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from federation.key_slots import Place
    from homeserver.context import Server

MOST_BYTES: Final = 32 * 1024
"""The largest answer of a server about its keys."""
MOST_NOTARY_BYTES: Final = 256 * 1024
MOST_NAMED: Final = 50
"""Keys in one answer, and signatures of a notary, that are looked at."""
SHORTEST_REST: Final = 60.0
"""Seconds after an answer in which a server is not asked again, whatever key is missing."""
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Seconds after a failure; doubled at each that follows. Short, since a server that is back must be believed soon."""
REMEMBERED: Final = 20_000
FOREVER: Final = 2**63
"""A moment (ms) after all that an event can name."""

log = structlog.get_logger("keys")


@dataclass(frozen=True, slots=True)
class Ring:
    """The known keys of one server by id, each with the last moment (ms) at which it may have signed."""

    keys: Mapping[str, tuple[VerifyKey, int]]

    def good(self, key_ids: Collection[str], at_ms: int) -> dict[str, VerifyKey]:
        """Those of the keys that were good at a moment."""
        named = {key_id: self.keys[key_id] for key_id in key_ids if key_id in self.keys}
        return {key_id: key for key_id, (key, until) in named.items() if at_ms <= until}


@dataclass(frozen=True, slots=True)
class Pause:
    """Until when (seconds of the monotonic clock) a server is not asked again, and how often in a row it failed."""

    until: float
    failures: int


class Known:
    """What is remembered of other servers' keys."""

    def __init__(self) -> None:
        self.rings: Lru[str, Ring] = Lru(REMEMBERED, lambda ring: 1 + len(ring.keys))
        self.pauses: Lru[str, Pause] = Lru(REMEMBERED)
        self.slots = Slots()


# what others may ask ---------------------------------------------------------------------------


def own_document(server: Server) -> dict[str, Any]:
    """Our answer about our keys, signed by each of them. spec: server-server-api/#publishing-keys"""
    federation = server.settings.federation
    document: dict[str, Any] = {
        "server_name": server.name,
        "verify_keys": {key.key_id: {"key": key.verify_key.base64} for key in server.identity.keys},
        "old_verify_keys": {old.id: {"key": old.key, "expired_ts": old.expired_ts} for old in federation.old_keys},
        "valid_until_ts": server.clock.now_ms() + federation.key_validity.ms,
    }
    for key in server.identity.keys:
        document = sign_json(document, server.name, key)
    return document


async def vouch(server: Server, wanted: Mapping[str, int | None]) -> list[dict[str, Any]]:
    """As a notary: what these servers say about their keys, with our signature.

    ``wanted`` names the moment (ms) up to which the answer should hold; None: now. A server that does not answer is
    vouched for by what it said last, and left out if it never said anything.

    spec: server-server-api/#querying-keys-through-another-server
    """
    others = [name for name in wanted if name != server.name]
    engine, now = server.nodes.directory.engine, server.clock.now_ms()
    found = await engine.read(servers.documents, others) if others else {}
    stale = [name for name in others if name not in found or _is_stale(found[name], wanted[name], now)]
    if stale:
        await asyncio.gather(*(_refresh(server, name, Standing.FOR_OTHERS) for name in stale))
        found |= await engine.read(servers.documents, stale)
    answers = [sign_json(orjson.loads(answer.document), server.name, server.identity.key) for answer in found.values()]
    return [*answers, own_document(server)] if server.name in wanted else answers


def _is_stale(answer: servers.Document, wanted: int | None, now: int) -> bool:
    """Whether an answer is not good enough, or has lived half of its life."""
    until = min(answer.valid_until_ts, answer.fetched_ts + key_documents.LONGEST_VALIDITY)
    return now > (answer.fetched_ts + until) // 2 or (wanted is not None and until < wanted)


# what we need ----------------------------------------------------------------------------------


async def verify_keys(
    server: Server, server_name: str, key_ids: Collection[str], at_ms: int, asker: str = ""
) -> dict[str, VerifyKey]:
    """Those of a server's keys that were good at a moment (ms since 1970), by id; the server is asked when one is
    missing. ``asker``: the address of who says that it is the server, and may be anybody. Raises NodeUnavailable."""
    held = await _ring(server, server_name)
    good = held.good(key_ids, at_ms)
    if len(good) < len(set(key_ids)):
        await _refresh(server, server_name, Standing.KNOWN if held.keys else Standing.STRANGER, asker)
        good = (await _ring(server, server_name)).good(key_ids, at_ms)
    return good


async def ring(server: Server, server_name: str, wanted: Mapping[str, int]) -> Ring:
    """All known keys of a server, ours too; it is asked first when one of ``wanted`` is not known to have been good at
    the moment (ms since 1970) that is named with it. Raises NodeUnavailable."""
    if server_name == server.name:
        return _own_ring(server)
    held = await _ring(server, server_name)
    if not all(held.good((key_id,), at_ms) for key_id, at_ms in wanted.items()):
        await _refresh(server, server_name, Standing.KNOWN if held.keys else Standing.STRANGER)
        held = await _ring(server, server_name)
    return held


def _own_ring(server: Server) -> Ring:
    old = {
        key.id: (VerifyKey.from_base64(key.id, key.key), key.expired_ts) for key in server.settings.federation.old_keys
    }
    return Ring(old | {key.key_id: (key.verify_key, FOREVER) for key in server.identity.keys})


async def _ring(server: Server, server_name: str) -> Ring:
    directory = server.nodes.directory
    known = directory.memory(Known)
    held = known.rings.get(server_name)
    if held is None:
        rows = await directory.engine.read(servers.keys, server_name)
        held = Ring({key_id: (VerifyKey(key_id, raw), until) for key_id, raw, until in rows})
        if rows:
            known.rings[server_name] = held
    return held


async def _refresh(server: Server, server_name: str, standing: Standing, asker: str = "") -> None:
    """Ask a server for its keys, unless that was done, or failed, a short while ago, or there is no place for one more
    of its ``standing``. Once for all who wait."""
    known = server.nodes.directory.memory(Known)
    if server_name not in known.slots.held:
        if _pauses(server, server_name):
            return
        if standing is not Standing.FOR_OTHERS and await _is_member(server, server_name):
            standing = Standing.MEMBER
    place = known.slots.held.get(server_name)
    if place is None:
        if _pauses(server, server_name):
            return
        place = known.slots.take(server, server_name, standing, asker, _ask(server, server_name))
        if place is None:
            return
        place.done = asyncio.ensure_future(_asked(server, server_name, place))
        place.done.add_done_callback(_seen)
    assert place.done is not None
    await asyncio.shield(place.done)


def _pauses(server: Server, server_name: str) -> bool:
    """Whether a server was asked a short while ago."""
    pause = server.nodes.directory.memory(Known).pauses.get(server_name)
    return pause is not None and server.clock.monotonic() < pause.until


async def _is_member(server: Server, server_name: str) -> bool:
    """Whether a server has users in a room of ours, as far as the nodes can be asked."""
    for node in server.nodes:
        try:
            if await node.read(peers.takes_part, server_name):
                return True
        except NodeUnavailable:
            continue
    return False


async def _asked(server: Server, server_name: str, place: Place) -> None:
    """Wait for the answer of a server, and note when it may be asked again."""
    known = server.nodes.directory.memory(Known)
    try:
        heard = await place.heard
    except asyncio.CancelledError:
        heard = False  # it took too long
    finally:
        del known.slots.held[server_name]
    before = known.pauses.get(server_name)
    failures = 0 if heard else 1 + (before.failures if before else 0)
    seconds = SHORTEST_REST if heard else pauses.after(failures, FIRST_PAUSE, LONGEST_PAUSE)
    known.pauses[server_name] = Pause(server.clock.monotonic() + seconds, failures)


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # whoever still waits is told; nobody need be


async def _ask(server: Server, server_name: str) -> bool:
    """Whether a server, or a notary, told its keys."""
    return await _ask_itself(server, server_name) or await _ask_notaries(server, server_name)


async def _ask_itself(server: Server, server_name: str) -> bool:
    try:
        document = await remote.ask(server, server_name, "GET", "/_matrix/key/v2/server", most=MOST_BYTES)
        await _learn(server, server_name, document, first_hand=True)
    except (Unreachable, remote.RemoteRefusal, key_documents.BadDocument) as fault:
        log.info("no keys from a server itself", server=server_name, reason=str(fault))
        return False
    return True


async def _ask_notaries(server: Server, server_name: str) -> bool:
    """Ask the notaries in turn, until one has an answer. Nobody is asked about a notary: it vouches for itself."""
    notaries = server.settings.federation.notaries
    for notary in () if server_name in notaries else notaries:
        try:
            if await _ask_notary(server, server_name, notary):
                return True
        except (Unreachable, remote.RemoteRefusal, key_documents.BadDocument) as fault:
            log.info("no keys from a notary", server=server_name, notary=notary, reason=str(fault))
    return False


async def _ask_notary(server: Server, server_name: str, notary: str) -> bool:
    question: dict[str, Any] = {"server_keys": {server_name: {}}}
    answer = await remote.ask(server, notary, "POST", "/_matrix/key/v2/query", question, most=MOST_NOTARY_BYTES)
    documents = answer.get("server_keys")
    if not isinstance(documents, list) or not all(isinstance(document, dict) for document in documents):
        raise key_documents.BadDocument("the notary's answer is none")
    for document in documents:
        key_ids = signing_key_ids(document, notary)[:MOST_NAMED]
        keys = await verify_keys(server, notary, key_ids, server.clock.now_ms())
        key_documents.check_notary(document, notary, keys)
        await _learn(server, server_name, document, first_hand=False)
    return bool(documents)


async def _learn(server: Server, server_name: str, document: Mapping[str, Any], *, first_hand: bool) -> None:
    """Keep what a server says about its keys. Raises BadDocument, NodeUnavailable."""
    answer, keys = key_documents.check(document, server_name, server.clock.now_ms())
    directory = server.nodes.directory
    await directory.engine.write(servers.learn, server_name, answer, keys, first_hand=first_hand)
    directory.memory(Known).rings.pop(server_name)
