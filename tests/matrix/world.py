"""Where the rows of the residency matrix are tried: users on both sides of a border, and the policy between them.

All rows of a table are tried beside each other, column by column: everything is set up while everything flows, then the
policy changes, then each row does what it does, and then what left, what rests and what is shown is looked at byte by
byte. Where everything flows the same bytes must be found, which shows that they would have been.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson

from config.load import policy_from_text
from config.residency import FLOWING
from tests.deployment import Answer, User
from tests.matrix.asked import Spy
from tests.matrix.never import Planted, plant
from tests.matrix.rows import HERE, IN, OUT, THERE, Column, Flow, Mark, Row, outcome
from tests.network import Network
from tests.rooms.play import Play

REOPENED = 12.0
"""Seconds after which those who wait look whether the border is open."""


@dataclass(frozen=True)
class Phase:
    """A column, and of what flows there the part that is left out for now. None: nothing flows."""

    column: Column
    lacking: Flow | None = None

    @property
    def denies(self) -> bool:
        """Whether something is not to go."""
        return not self.column.allows

    def tries(self, row: Row) -> bool:
        """Whether a row is about this."""
        return self.column in row.columns and (self.lacking is None or self.lacking in row.needs)


@dataclass
class World(ABC):
    """Alice is at home here, and Bob there; they are in a room of hers.

    ``node`` is another node of ours. ``tries`` counts, so that each uses a word of its own. ``answers``: what was
    answered since the policy changed, by side. ``crossed``: what had left before. ``failures``: the cells that are not
    as they are said.
    """

    network: Network
    spy: Spy
    here: Play
    there: Play
    alice: User
    bob: User
    room_id: str
    tries: int = 0
    answers: dict[str, list[bytes]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    node: str = "paris"
    crossed: list[bytes] = field(default_factory=list)
    running: list[asyncio.Task[None]] = field(default_factory=list)

    @abstractmethod
    async def turn_to(self, column: Column) -> None:
        """Be where the other side stands so to ours, and everything flows that can."""

    @abstractmethod
    def policy(self, phase: Phase) -> str:
        """The text of our policy."""

    @abstractmethod
    def left(self, side: str) -> bytes:
        """What has left a side since the policy changed."""

    @abstractmethod
    async def held(self, side: str) -> bytes:
        """What a side has in its files, and what it shows its user."""

    async def arrived(self) -> None:
        """Wait until what has waited is on the other side."""
        await self.network.settle()

    async def held_elsewhere(self) -> bytes:
        """What rests, and is shown, where alice is not at home."""
        return await self.held(THERE)

    def routes(self) -> set[str]:
        """By which requests, and in which EDUs, something has crossed the border since the policy changed."""
        return {self.spy.route(each) for each in self.network.exchanges}

    def change(self, phase: Phase) -> None:
        """Put the policy of a phase in force."""
        self.here.server.policy.isolated = {"IR"} if phase.column is Column.ISOLATED else ()
        self.here.server.policy.now = policy_from_text(self.policy(phase), "residency.toml", HERE)

    def run(self, *coroutines: Coroutine[Any, Any, None]) -> None:
        """Let something run beside the rows, once, until `end`."""
        if self.running:
            for each in coroutines:
                each.close()
        else:
            self.running = [asyncio.create_task(each) for each in coroutines]

    async def end(self) -> None:
        """Stop what runs beside the rows."""
        while pending := [task for task in self.running if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=1)

    def begin(self) -> None:
        """Look at what happens from now on."""
        self.crossed.append(self.left(HERE))
        self.network.exchanges.clear()
        self.answers.clear()
        self.spy.begin()

    async def told(self, user: User, method: str, path: str, body: object = None, **query: str) -> str:
        """Have a user ask, and keep what they are answered."""
        answer = await user.asks(method, path, body, **query)
        self.answers.setdefault(self.side(user), []).append(orjson.dumps(answer.json))
        return await outcome(_already(answer))

    def side(self, user: User) -> str:
        """Where a user is at home."""
        return HERE if user.deployment is self.here.deployment else THERE

    def fails(self, row: Row, phase: Phase, what: str) -> None:
        """Note that a cell is not as it is said."""
        lacking = f" without {' '.join(phase.lacking)}" if phase.lacking else ""
        self.failures.append(f"{row.hook} ({phase.column.value}{lacking}): {what}")


async def _already(answer: Answer) -> Answer:
    return answer


def phases(rows: Sequence[Row]) -> Iterator[Phase]:
    """All columns of a table; where a flow is denied, each flow that some row needs is left out once."""
    for column in Column:
        if not any(column in row.columns for row in rows):
            continue
        if column is Column.DENIED:
            yield from (Phase(column, flow) for flow in dict.fromkeys(flow for row in rows for flow in row.needs))
        else:
            yield Phase(column)


async def hold(world: World, rows: Sequence[Row]) -> None:
    """Try all rows in all columns. Raises AssertionError, which names each cell that is not as the matrix says."""
    planted = await plant(world.alice)
    try:
        for phase in phases(rows):
            await world.turn_to(phase.column)
            await _cells(world, [row for row in rows if phase.tries(row)], phase)
    finally:
        await world.end()
    await _look_for_what_never_leaves(world, planted)
    unasked = {site for row in rows for site in row.asks} - world.spy.denials
    assert not world.failures, "\n".join(world.failures)
    assert not unasked, f"the policy is not asked, or denies nothing, in {sorted(unasked)}"


async def _look_for_what_never_leaves(world: World, planted: Sequence[Planted]) -> None:
    """Look for what was planted, where it may be and everywhere else."""
    world.begin()
    crossed, home, elsewhere = b"\n".join(world.crossed), await world.held(HERE), await world.held_elsewhere()
    for each in planted:
        if each.rests and each.value not in home:
            world.failures.append(f"{each.what}: {each.value!r} is not at home")
        if each.value in crossed or each.value in elsewhere:
            world.failures.append(f"{each.what}, of the class {each.data_class}, has left: {each.value!r}")


async def _cells(world: World, rows: Sequence[Row], phase: Phase) -> None:
    """Try rows in one column."""
    everything = Phase(phase.column if phase.column.allows else _open(phase.column))
    world.change(everything)
    await world.network.clock.advance(1)  # so that no transaction is the same as an earlier one
    trials = []
    for row in rows:
        world.tries += 1
        trials.append((row, row.attempt(world, f"{'kestrel' if phase.denies else 'heron'}{world.tries:03}")))
    marks: list[Mark] = []
    for _, attempt in trials:
        marks.append(_marked(await anext(attempt)))
    await world.network.settle()
    world.change(phase)
    world.begin()
    for row, attempt in trials:
        before = len(world.network.exchanges)
        async with aclosing(attempt):
            answer = await anext(attempt)
        expected = row.answer(phase.column)
        if answer != expected:
            world.fails(row, phase, f"{answer!r} instead of {expected!r}")
        if phase.denies and row.source == THERE:
            asked = {world.spy.route(each) for each in world.network.exchanges[before:] if each.source == HERE}
            if asked & set(row.routes):
                world.fails(row, phase, "what may not come in is not asked for")
    await world.network.settle()
    tried = [row for row, _ in trials]
    await _look(world, tried, marks, phase)
    waiting = [(row, mark) for row, mark in zip(tried, marks, strict=True) if row.waits(phase.column)]
    if waiting and phase.denies:
        await _open_again(world, waiting)


async def _open_again(world: World, waiting: Sequence[tuple[Row, Mark]]) -> None:
    """Let everything flow: what waits goes."""
    world.change(Phase(Column.ALLOWED))
    await world.network.clock.advance(REOPENED)
    await world.arrived()
    await _look(world, [row for row, _ in waiting], [mark for _, mark in waiting], Phase(Column.ALLOWED))


def _marked(mark: bytes | Mark | str) -> Mark:
    assert not isinstance(mark, str)
    return Mark(mark, mark) if isinstance(mark, bytes) else mark


def _open(column: Column) -> Column:
    """The column in which everything flows to where the other side is in another one."""
    return Column.UNKNOWN_ALLOWED if column is Column.UNKNOWN_DENIED else Column.ALLOWED


async def _look(world: World, rows: Sequence[Row], marks: Sequence[Mark], phase: Phase) -> None:
    """Look for what may have crossed."""
    left = {side: world.left(side) for side in (HERE, THERE)}
    held = {side: await world.held(side) for side in (HERE, THERE) if any(row.target == side for row in rows)}
    routes = world.routes()
    for row, mark in zip(rows, marks, strict=True):
        crosses = row.crosses(phase.column)
        if row.source is not None and mark.is_carried(left[row.source]) != crosses:
            world.fails(row, phase, f"{mark.wire!r} {'has not left' if crosses else 'has left'}")
        if row.target is not None and mark.rests(held[row.target]) != crosses:
            world.fails(row, phase, f"{mark.rest!r} {'is not there' if crosses else 'rests there'}")
        if crosses and not set(row.routes) <= routes:
            world.fails(row, phase, f"{sorted(set(row.routes) - routes)} was not asked")


def flows(source: str, target: str, *lacking: str) -> str:
    """That everything flows from one place to another, but for some classes."""
    classes = orjson.dumps([name for name in FLOWING if name not in lacking]).decode()
    return f'[[flows]]\nfrom = "{source}"\nto = ["{target}"]\nclasses = {classes}\nconsent = false\n'


def both_ways(here: str, there: str, lacking: Flow | None = None) -> str:
    """That everything flows between two places, but for what is lacking; *out* leads from the first to the second."""
    way, name = lacking or ("", "")
    return flows(here, there, *[name] * (way == OUT)) + flows(there, here, *[name] * (way == IN))


def files(play: Play, network: Network, *names: str) -> bytes:
    """All bytes of the files of a server, or of some of its databases."""
    top = network.databases_of(play.server.name).directory
    places: list[Any] = [top / name for name in names] or [top]
    return b"\n".join(each.read_bytes() for place in places for each in sorted(place.rglob("*")) if each.is_file())
