"""Servers that were cut off, or reached in bad weather, agree when it is over: on a room's state and on its events.

Hypothesis writes the plays: people on several servers write, change the state, come, go and are thrown out, while links
break and requests get lost, are late and overtake one another.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeserver.protocol.errors import NotFound
from homeserver.protocol.versions import VERSIONS
from homeserver.residency.proofs import auditing
from homeserver.residency.proofs.audit import Finding
from homeserver.rooms import state
from homeserver.storage import events as stored
from homeserver.storage.events import Verdict
from homeserver.storage.nodes import Node
from tests.deployment import User
from tests.network import Network, Weather
from tests.rooms.play import CLIENT, Play, ciphertext
from tests.support import Databases, finish, waits

EXAMPLES = max(1, round(float(os.environ.get("DOMICILE_TEST_AGREEMENT", "2"))))
"""Plays per room version; more for a long hunt."""
TURN = 0.25
"""Seconds of the fake clock that pass between two looks."""
PATIENCE = 4000
"""Looks until servers that do not agree never will."""
POWERS = ("topic", "name", "kick", "ban", "unban", "invite", "levels", "join_rules")
VERBS = (*["send"] * 6, *POWERS, "leave", "join", "join", "redact")


@dataclass(frozen=True)
class Act:
    """Somebody does something, to somebody where it takes one; then so many seconds pass."""

    who: int
    verb: str
    whom: int
    pause: float


@dataclass(frozen=True)
class Script:
    """What happens. ``cuts`` are pairs of servers that are cut from one act to another. ``in_turn``: what can arrive
    has arrived before the next act; else it may be overtaken, and what is slow on a slow machine is."""

    seed: int
    weather: tuple[float, float, float]
    acts: list[Act]
    cuts: list[tuple[int, int, int, int]]
    in_turn: bool = False


PEOPLE = 4


def scripts() -> st.SearchStrategy[Script]:
    person = st.integers(0, PEOPLE - 1)
    act = st.builds(Act, person, st.sampled_from(VERBS), person, st.sampled_from([0.0, 0.3, 2.0]))
    chance = st.sampled_from([0.0, 0.1, 0.4])
    cut = st.tuples(person, person, st.integers(0, 10), st.integers(1, 12))
    return st.builds(
        Script,
        st.integers(0, 2**16),
        st.tuples(chance, chance, st.sampled_from([0.0, 1.0, 8.0])),
        st.lists(act, min_size=5, max_size=16),
        st.lists(cut, max_size=3),
    )


@dataclass(frozen=True)
class View:
    """What a node with members says of a room: its state, and what it thinks of each event that it knows."""

    server: str
    where: str
    state: dict[tuple[str, str], str]
    verdicts: dict[str, Verdict]
    shaken: bool


class Company:
    """People on three servers, one of which has two of them on two nodes, in one room."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.servers: list[str] = []
        self.people: list[tuple[Play, User]] = []
        self.room_id = ""
        self.events: list[str] = []
        self.shaken: set[str] = set()
        """Servers that may have been out of the room for a while, and so need not know what was said meanwhile."""
        self._count = 0

    async def gather(self, version: str) -> None:
        """Found the servers, and bring everybody into a room of this version."""
        for name in ("a.test", "b.test", "c.test"):
            self.servers.append(name)
            play = await self.network.found(name)
            self.people.append((play, await play.user("one")))
        play = self.people[0][0]
        self.people.append((play, await play.user("two", "paris")))
        host, creator = self.people[0]
        self.room_id = await host.create(creator, room_version=version, preset="public_chat")
        for play, user in self.people[1:]:
            await play.ask(user, "POST", f"/join/{quote(self.room_id)}", {}, via="a.test")
        await self.settle()

    async def act(self, act: Act) -> None:
        """Do it; that it is not allowed, or that nobody can be reached, is part of the play."""
        _, user = self.people[act.who]
        whom = self.people[act.whom][1].user_id
        room = f"{CLIENT}/rooms/{quote(self.room_id)}"
        self._count += 1
        number = str(self._count)
        match act.verb:
            case "send":
                answer = await user.asks("PUT", f"{room}/send/m.room.encrypted/{number}", ciphertext(number))
                if answer.status == 200:
                    self.events.append(str(answer.json["event_id"]))
            case "topic":
                await user.asks("PUT", f"{room}/state/m.room.topic/", {"topic": number})
            case "name":
                await user.asks("PUT", f"{room}/state/m.room.name/", {"name": number})
            case "join_rules":
                rule = "public" if self._count % 2 else "invite"
                await user.asks("PUT", f"{room}/state/m.room.join_rules/", {"join_rule": rule})
            case "levels":
                levels = await user.asks("GET", f"{room}/state/m.room.power_levels/")
                if levels.status == 200:
                    users = {**levels.json.get("users", {}), whom: 50 if self._count % 2 else 0}
                    await user.asks("PUT", f"{room}/state/m.room.power_levels/", {**levels.json, "users": users})
            case "kick" | "ban" | "unban" | "invite":
                self.shaken.add(self.home(act.whom))
                await user.asks("POST", f"{room}/{act.verb}", {"user_id": whom})
            case "join":
                await user.asks("POST", f"{CLIENT}/join/{quote(self.room_id)}", {}, via="a.test")
            case "leave":
                self.shaken.add(self.home(act.who))
                await user.asks("POST", f"{room}/leave", {})
            case "redact" if self.events:
                await user.asks("PUT", f"{room}/redact/{quote(self.events[-1])}/{number}", {})

    async def perform(self, script: Script) -> None:
        """Give the play. Afterwards the weather is fair and no link is cut."""
        self.network.weather = Weather(Random(script.seed), *script.weather)
        ticking = None if script.in_turn else asyncio.create_task(self._tick())
        try:
            for number, act in enumerate(script.acts):
                self._cut(script, number)
                await self.act(act)
                if script.in_turn:
                    await self.network.settle()
                for _ in range(round(act.pause / TURN)):
                    await self.network.clock.advance(TURN)
        finally:
            self.network.weather = None
            self._cut(script, 10**6)
            if ticking is not None:
                ticking.cancel()
                with suppress(asyncio.CancelledError):
                    await ticking

    async def _tick(self) -> None:
        """Let time pass while somebody waits for an answer."""
        while True:
            await self.network.clock.advance(TURN)
            await asyncio.sleep(0.001)

    def _cut(self, script: Script, number: int) -> None:
        """Cut the links that are cut at an act, and mend the others."""
        pairs = {
            frozenset((self.home(one), self.home(other)))
            for one, other, first, acts in script.cuts
            if first <= number < first + acts and self.home(one) != self.home(other)
        }
        for index, one in enumerate(self.servers):
            for other in self.servers[index + 1 :]:
                (self.network.cut if frozenset((one, other)) in pairs else self.network.mend)(one, other)

    def home(self, person: int) -> str:
        """The server of somebody."""
        return self.people[person][0].server.name

    # ----------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Wait until all servers with members agree. Raises AssertionError when they never do."""
        for _ in range(PATIENCE):
            await self.network.clock.advance(TURN)
            await asyncio.sleep(0.001)  # databases work in threads of their own, which no fake clock moves
            if not (differences := await self.differences()):
                return
        raise AssertionError("\n".join(differences))

    def plays(self) -> list[Play]:
        """Each server once."""
        return list(self.network.plays.values())

    async def differences(self) -> list[str]:
        """What the nodes with members of their own disagree on, and what those that never left do not know."""
        found = []
        views = await self.views()
        for one, other in pairwise(views):
            keys = {key for key in {*one.state, *other.state} if one.state.get(key) != other.state.get(key)}
            found += [f"{one.where}, {other.where}: {key} {one.state.get(key)} {other.state.get(key)}" for key in keys]
            for event_id in one.verdicts.keys() & other.verdicts.keys():
                if (one.verdicts[event_id] is Verdict.REJECTED) != (other.verdicts[event_id] is Verdict.REJECTED):
                    found.append(f"{one.where}, {other.where}: one of them rejects {event_id}")
        for view in views:
            if not view.shaken:
                missing = [event_id for event_id in self.events if self._lacks(view, views, event_id)]
                found += [f"{view.where} lacks {event_id}" for event_id in missing]
        return found

    @staticmethod
    def _lacks(view: View, views: Sequence[View], event_id: str) -> bool:
        """Whether a node should have an event and has not. What came to its server after its sender had been put out is
        soft-failed where it came, and not passed on to the server's other nodes: nobody there is to be shown it."""
        at_home = [each.verdicts.get(event_id) for each in views if each.server == view.server]
        return event_id not in view.verdicts and Verdict.SOFT_FAILED not in at_home

    async def misplaced(self) -> list[Finding]:
        """What an audit finds on the nodes of all servers."""
        reports = [await auditing.run(play.server) for play in self.plays()]
        return [finding for report in reports for finding in report.findings]

    async def views(self) -> list[View]:
        """What all nodes with members say."""
        return [view for play in self.plays() for node in play.server.nodes if (view := await self.view(play, node))]

    async def view(self, play: Play, node: Node) -> View | None:
        """What a node says; None when it has no member in the room."""
        try:
            room = await state.get(node, self.room_id)
        except NotFound:
            return None
        if not room.residents:
            return None
        rows = await node.read(stored.by_ids, self.events)
        return View(
            play.server.name,
            f"{node.name} of {play.server.name}",
            {key: entry.event_id for key, entry in room.now.state.items()},
            {row.event_id: Verdict(row.verdict) for row in rows},
            play.server.name in self.shaken,
        )


async def perform(
    databases: Databases, version: str, script: Script, look: Callable[[Company], Awaitable[None]] | None = None
) -> None:
    """Give a play to its end, and then look at it."""
    network = Network(databases)
    try:
        company = Company(network)
        await company.gather(version)
        await company.perform(script)
        await company.settle()
        assert [fault for play in company.plays() for fault in play.deployment.observed.faults] == []
        assert network.faults == []
        assert await company.misplaced() == []
        if look is not None:
            await look(company)
    finally:
        await network.end()


@pytest.mark.parametrize("version", VERSIONS)
@waits
def test_all_agree_when_it_is_over(version: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=EXAMPLES <= 2,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(script=scripts())
    def play(script: Script) -> None:
        finish(perform(Databases("sqlite", tmp_path_factory.mktemp("agreement")), version, script))

    play()


@waits
def test_who_is_put_out_while_a_message_of_theirs_is_on_its_way(tmp_path: Path) -> None:
    """Their message comes to the server that put them out when it is too late for it, and is shown elsewhere."""
    acts = [Act(1, "send", 1, 0.0), Act(0, "kick", 1, 0.0), Act(2, "topic", 2, 0.0)]
    script = Script(seed=0, weather=(0.0, 0.0, 0.0), acts=acts, cuts=[(0, 1, 0, 2)], in_turn=True)
    verdicts: dict[str, Verdict] = {}

    async def look(company: Company) -> None:
        (event_id,) = company.events
        for view in await company.views():
            if event_id in view.verdicts:
                verdicts[view.where] = view.verdicts[event_id]

    finish(perform(Databases("sqlite", tmp_path), "11", script, look))
    assert verdicts["tehran of a.test"] is Verdict.SOFT_FAILED
    assert verdicts["tehran of c.test"] is Verdict.ACCEPTED
    assert "paris of a.test" not in verdicts
