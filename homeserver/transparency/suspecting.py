"""Finding out whether a log that is witnessed here has lied, when it has signed something of which that could not be
told: a proof of consistency that does not fit may be anybody's noise.

Nobody waits for it, and it is kept until it is found out: the log's own key accuses it, or it is explained. A log that
tells is asked at most once a minute, whatever anybody submits, and one that does not more and more seldom.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from homeserver.protocol import checkpoints, signed_notes
from homeserver.protocol.branching import Untold
from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.log_alarms import Side
from homeserver.protocol.signed_notes import NamedKey
from homeserver.runtime.lru import Lru
from homeserver.storage import refused_checkpoints, signed_checkpoints, witnessed_logs
from homeserver.storage.refused_checkpoints import Refused
from homeserver.transparency import alarms, heads, remote_logs
from homeserver.transparency.remote_logs import Lie, RemoteLog, Signed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from homeserver.context import Server
    from homeserver.protocol.checkpoints import Head
    from homeserver.protocol.signed_notes import Note
    from homeserver.storage.engine import Transaction
    from homeserver.storage.witnessed_logs import Witnessed

log = structlog.get_logger("transparency")

EVERY: Final = 60.0
"""Seconds between two looks at a log that tells, at the least."""
FIRST_RETRY: Final = 5.0
"""Seconds after which one is asked again that did not tell: it may be about to find out by itself."""
LAST_RETRY: Final = 1800.0
SECONDS: Final = 60.0
"""How long one look takes at the most."""
RETRY_AFTER: Final = 5.0
REMEMBERED: Final = 1000

_REFUSED: Final = "refused checkpoints"


class Suspicions:
    """``directory.memory(Suspicions)``. ``patience``: until when (by the monotonic clock) a log is not looked at again,
    and for how long the next time; ``explained``: what turned out to be no lie, for it may be submitted again."""

    def __init__(self) -> None:
        self.patience: dict[str, tuple[float, float]] = {}
        self.explained: Lru[tuple[str, Head], bool] = Lru(REMEMBERED)


async def keep(server: Server, held: Witnessed, note: Note) -> None:
    """Have a checkpoint looked into that the log has signed, and that was refused. Raises NodeUnavailable."""
    made = remote_logs.opened(note.write(), NamedKey.read(held.key))
    if not held.head.size or made.head == held.head:
        return  # nothing contradicts a log of which nothing was signed, or that
    engine = server.nodes.directory.engine
    if server.nodes.directory.memory(Suspicions).explained.get((held.origin, made.head)):
        return
    if await engine.read(refused_checkpoints.waits, held.origin, made.head):
        return
    refused = Refused(made.head, made.note.write())
    await engine.write(refused_checkpoints.keep, held.origin, refused, server.clock.now_ms())
    server.wakeups.wake(_REFUSED)


async def follow(server: Server) -> None:
    """Look into all that was refused; for ever."""
    while True:
        with server.wakeups.listen([_REFUSED]) as listener:
            pause: float | None = RETRY_AFTER
            try:
                pause = await look_into_all(server)
            except NodeUnavailable:
                pass
            except Exception:
                log.exception("what was refused to logs is not looked into")
            await listener.wait(pause)


async def look_into_all(server: Server) -> float | None:
    """Look at each log of which something was refused, unless it is left alone for now.

    Returns after how many seconds there is more to do; None, if nothing is left. Raises NodeUnavailable.
    """
    if all(node.jurisdiction in server.policy.isolated for node in server.nodes):
        return EVERY  # nobody beyond the borders is asked
    engine, patience = server.nodes.directory.engine, server.nodes.directory.memory(Suspicions).patience
    waiting = await engine.read(refused_checkpoints.waiting)
    now = server.clock.monotonic()
    due = [origin for origin in waiting if patience.get(origin, (0.0, 0.0))[0] <= now]
    looks = await asyncio.gather(
        *(_look_into(server, origin, waiting[origin]) for origin in due), return_exceptions=True
    )
    if failed := [each for each in looks if each is not None]:
        raise failed[0]
    left = await engine.read(refused_checkpoints.waiting) if due else waiting
    now = server.clock.monotonic()
    return min((max(1.0, patience[origin][0] - now) if origin in patience else 1.0 for origin in left), default=None)


class Found(NamedTuple):
    """What a look has found: lies, what is none, and why it could not be told of the rest."""

    lies: tuple[Lie, ...] = ()
    explained: tuple[Signed, ...] = ()
    untold: str | None = None


async def _look_into(server: Server, origin: str, refused: list[Refused]) -> None:
    """Raises NodeUnavailable."""
    memory, engine = server.nodes.directory.memory(Suspicions), server.nodes.directory.engine
    _, before = memory.patience.get(origin, (0.0, FIRST_RETRY / 2))
    pause = min(2 * before, LAST_RETRY)
    memory.patience[origin] = server.clock.monotonic() + pause, pause  # before it begins: it may fail in every way
    held = await engine.read(witnessed_logs.of, origin)
    if held is None or held.removed_ts is not None or held.note is None:
        return
    if await engine.read(alarms.about, origin, Side.WITNESS) is not None:
        await engine.write(refused_checkpoints.forget, origin)
        return
    found = await _look(server, held, refused)
    accused = await engine.write(_note, server, held, found)
    for each in found.explained:
        memory.explained[origin, each.head] = True
    if accused:
        heads.stir(server)
    if found.untold is None:
        memory.patience[origin] = server.clock.monotonic() + EVERY, FIRST_RETRY / 2


async def _note(tx: Transaction, server: Server, held: Witnessed, found: Found) -> bool:
    """Write down what was found; whether there is a new alarm, not one that was ended before."""
    now = server.clock.now_ms()
    for lie in found.lies:
        if await alarms.sound(tx, server, alarms.against(held.key, lie.held.note, lie.shown.note, lie.fork)):
            said = "The log has signed two checkpoints that cannot both be true"
            await witnessed_logs.note_refusal(tx, held.origin, now, said)
            await refused_checkpoints.forget(tx, held.origin)
            return True
    if found.untold is not None:
        said = f"The log has signed what may contradict what was signed here, and does not tell: {found.untold}"
        await witnessed_logs.note_refusal(tx, held.origin, now, said)
    heads_of = (*(lie.shown.head for lie in found.lies), *(each.head for each in found.explained))
    await refused_checkpoints.explained(tx, held.origin, heads_of)
    return False


# looking ------------------------------------------------------------------------------------


async def _look(server: Server, held: Witnessed, refused: Iterable[Refused]) -> Found:
    assert held.note is not None
    look = _Look(server, held, RemoteLog(server, NamedKey.read(held.key), held.url))
    suspects = [Signed(signed_notes.read(each.note), each.head) for each in refused]
    found = Found(untold="it takes too long to answer")
    try:
        async with asyncio.timeout(SECONDS):
            found = await look.compare(suspects)
            if found.untold is not None and (lie := await _confessed(look.remote)) is not None:
                found = found._replace(lies=(*found.lies, lie))
    except TimeoutError:
        pass  # what was found by then stays found
    return found


async def _confessed(remote: RemoteLog) -> Lie | None:
    try:
        return await remote.confession()
    except Untold:
        return None


class _Look:
    """One look at a log. What was signed here, and what goes on from it, is in ``bases``; the rest of them may be of
    another tree."""

    def __init__(self, server: Server, held: Witnessed, remote: RemoteLog) -> None:
        assert held.note is not None
        self.remote = remote
        self._server = server
        self._held = held
        self._mine = Signed(signed_notes.read(held.note), held.head)
        self._bases = [self._mine]

    async def compare(self, suspects: list[Signed]) -> Found:
        """Hold what the log shows to everybody, and what it has signed besides, against what was signed here."""
        untold = None
        try:
            shown = await self.remote.checkpoint()
            self._bases.append(shown)
            if (lie := await self._lie_at(self._mine, shown)) is not None:
                return Found((lie,), (), "it shows what contradicts what was signed here")
            self._bases = [max(self._bases, key=lambda each: each.head.size)]  # the one goes on from the other
        except Untold as fault:
            untold = str(fault)
        lies: list[Lie] = []
        explained: list[Signed] = []
        for suspect in suspects:
            await asyncio.sleep(0)  # it is some milliseconds of arithmetic each time
            try:
                lie = await self._lie(suspect)
            except Untold as fault:
                untold = str(fault)
            else:
                (explained.append(suspect) if lie is None else lies.append(lie))
        return Found(tuple(lies), tuple(explained), untold if len(lies) + len(explained) < len(suspects) else None)

    async def _lie(self, suspect: Signed) -> Lie | None:
        """What a checkpoint contradicts; None when it contradicts nothing that was signed here. Raises Untold."""
        told: list[Untold] = []
        for base in self._bases:
            try:
                lie = await self._lie_at(base, suspect)
            except Untold as fault:
                told.append(fault)
                continue
            if lie is not None or base is self._bases[0]:
                return lie
        raise told[0]

    async def _lie_at(self, base: Signed, suspect: Signed) -> Lie | None:
        """Whether both cannot be true, nor the second of them and what was signed here before. Raises Untold."""
        try:
            return await self._lie_between(base, suspect)
        except Untold:  # the tree of the larger may be gone, and that of the smaller be there
            before = await self._before(suspect) if suspect.head.size < base.head.size else None
            lie = None if before is None else await self._lie_between(before, suspect)
            if lie is None:
                raise
            return lie

    async def _lie_between(self, base: Signed, suspect: Signed) -> Lie | None:
        fork = await self.remote.fork(base.head, suspect.head)
        return None if fork is None else Lie(base, suspect, fork)

    async def _before(self, suspect: Signed) -> Signed | None:
        """What was signed here before there was more than that."""
        engine, size = self._server.nodes.directory.engine, suspect.head.size
        note = await engine.read(signed_checkpoints.up_to, self._held.origin, size)
        return None if note is None else Signed(read := signed_notes.read(note), checkpoints.read(read.text).head)
