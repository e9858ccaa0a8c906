"""Looking at what other servers' key logs say, beside everything else: nobody's keys wait for it.

The key that a log was signed with first is the key of that log; and of each log the largest head is remembered. Two
notes that cannot both be true are kept for ever, for they prove to everybody that the log was shown in two ways.
Whether one head grew out of another can be told by who reads the whole log: witnesses and monitors do. It is an alarm
only when the log is one that is witnessed here: of others anybody can make up as many as they like.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog

from homeserver.protocol import key_proofs, signed_notes
from homeserver.protocol.branching import Fork
from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.key_proofs import NotProved
from homeserver.runtime.lru import Lru
from homeserver.storage import peer_logs, witnessed_logs
from homeserver.storage.peer_logs import Contradiction, PeerLog
from homeserver.transparency import alarms, heads, witnessing
from homeserver.transparency.agreement import manifest_of

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.protocol.key_proofs import Told
    from homeserver.storage.device_keys import UserKeys

log = structlog.get_logger("transparency")

MOST: Final = 1000
"""What waits to be looked at; what comes while there is more is not."""
REMEMBERED: Final = 10_000
RETRY_AFTER: Final = 5.0

_HEARD: Final = "peer key logs"
ANOTHER_KEY: Final = "another key"
TWO_HISTORIES: Final = "two histories"


class Heard(NamedTuple):
    """What a server has told of a user's keys, and the keys that it has told."""

    server: str
    user_id: str
    keys: UserKeys
    told: Told


class Peers:
    """What other servers have told (``directory.memory(Peers)``). ``queue``: what was not looked at yet; ``known``:
    logs by origin; ``servers``: those that have any, None before that was looked up; ``contradictions``: how many each
    server has shown."""

    def __init__(self) -> None:
        self.queue: deque[Heard] = deque(maxlen=MOST)
        self.known: Lru[str, PeerLog] = Lru(REMEMBERED)
        self.servers: set[str] | None = None
        self.contradictions: dict[tuple[str, ...], float] = {}


def hear(server: Server, heard: Heard) -> None:
    """Have what a server has told looked at, when there is time."""
    peers = server.nodes.directory.memory(Peers)
    if len(peers.queue) < MOST:
        peers.queue.append(heard)
        server.wakeups.wake(_HEARD)


def has_log(server: Server, server_name: str) -> bool:
    """Whether a server has told anything out of a key log."""
    return server_name in (server.nodes.directory.memory(Peers).servers or ())


async def follow(server: Server) -> None:
    """Look at what was told; for ever."""
    while True:
        with server.wakeups.listen([_HEARD]) as listener:
            try:
                await look_at_all(server)
            except NodeUnavailable:
                await server.clock.sleep(RETRY_AFTER)
                continue
            except Exception:
                log.exception("what another server's key log says was not looked at")
            await listener.wait()


async def look_at_all(server: Server) -> None:
    """Look at all that was told. Raises NodeUnavailable when the directory is down."""
    peers = server.nodes.directory.memory(Peers)
    if peers.servers is None:
        routes = server.nodes.directory.engine
        for each in await routes.read(peer_logs.contradictions):
            _count(peers, each)
        peers.servers = await routes.read(peer_logs.servers)
    while peers.queue:
        await look(server, peers.queue.popleft())
        await asyncio.sleep(0)  # it is half a millisecond of arithmetic each time


async def look(server: Server, heard: Heard) -> None:
    """Remember how far a log was shown, or that it was shown in two ways; and say whether what it says holds."""
    try:
        key_proofs.signed(heard.told)
        await _compare(server, heard)
        key_proofs.check(heard.told, heard.user_id, manifest_of(heard.keys))
    except NotProved as fault:
        server.telemetry.counter(
            "domicile_peer_key_log_faults", "Answers of other servers with keys that their key logs do not prove."
        ).inc()
        log.warning("another server's key log does not prove its keys", server=heard.server, fault=str(fault))


async def _compare(server: Server, heard: Heard) -> None:
    """Raises NotProved."""
    routes, peers, origin = server.nodes.directory.engine, server.nodes.directory.memory(Peers), heard.told.origin
    key, checkpoint = key_proofs.signed(heard.told)
    made = PeerLog(heard.server, key.write(), checkpoint.head, heard.told.said["checkpoint"].encode())
    known = peers.known.get(origin) or await routes.read(peer_logs.of, origin)
    if known is None or (known.key == made.key and known.head.size < made.head.size):
        await routes.write(peer_logs.note, origin, made)
        known = made
    peers.known[origin] = known
    peers.servers = {*(peers.servers or ()), heard.server}
    await _accuse(server, origin, known, made)
    what = ANOTHER_KEY if known.key != made.key else TWO_HISTORIES
    if what == TWO_HISTORIES and not _contradict(known, made):
        return
    found = Contradiction(origin, what, _evidence(known), _evidence(made), server.clock.now_ms())
    if await routes.write(peer_logs.contradict, found):
        _count(peers, found)
        log.error("another server's key log contradicts itself", server=heard.server, origin=origin, what=what)


async def _accuse(server: Server, origin: str, known: PeerLog, made: PeerLog) -> None:
    """Raise an alarm when a log that is witnessed here is shown in two ways: to its witness, or to those who ask for
    keys, and to us now."""
    routes = server.nodes.directory.engine
    witnessed = await routes.read(witnessed_logs.of, origin)
    if witnessed is None or witnessed.removed_ts is not None or witnessed.key != made.key:
        return
    signed = None if witnessed.note is None else PeerLog(known.server, witnessed.key, witnessed.head, witnessed.note)
    for each in (signed, known):
        if each is not None and each.key == made.key and _contradict(each, made):
            fork = Fork(made.head.root, ())
            held, shown = (signed_notes.read(checkpoint) for checkpoint in (each.checkpoint, made.checkpoint))
            alarm = alarms.against(made.key, held, shown, fork)
            if await routes.write(alarms.sound, server, alarm):
                heads.stir(server)
            return
    if signed is not None and made.head.size < signed.head.size:
        # Many that are told are of sizes that no witness has seen: ask only where it is known that somebody answers.
        known_place = witnessed.url is not None
        await witnessing.look_back(server, witnessed, signed_notes.read(made.checkpoint), ask=known_place)


def _contradict(one: PeerLog, other: PeerLog) -> bool:
    return one.head.size == other.head.size and one.head.root != other.head.root


def _evidence(shown: PeerLog) -> bytes:
    return shown.key.encode() + b"\n" + shown.checkpoint


def _count(peers: Peers, found: Contradiction) -> None:
    name = (found.origin.partition("/")[0],)
    peers.contradictions[name] = peers.contradictions.get(name, 0) + 1


async def told(server: Server) -> list[dict[str, Any]]:
    """All contradictions, for operators, and for whoever they show them to."""
    return [
        {
            "origin": each.origin,
            "what": each.what,
            "seen_ts": each.seen_ts,
            "one": each.one.decode(),
            "other": each.other.decode(),
        }
        for each in await server.nodes.directory.engine.read(peer_logs.contradictions)
    ]


def show(server: Server) -> None:
    """Have `/metrics` show which servers' logs contradict themselves."""
    peers = server.nodes.directory.memory(Peers)
    words = "Contradictions in what another server has shown of its key logs; `domicile log status` has them."
    server.telemetry.gauge("domicile_peer_key_log_contradictions", words, lambda: peers.contradictions, ["server"])
