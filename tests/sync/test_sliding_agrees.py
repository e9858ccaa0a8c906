"""What a client of sliding sync accumulates is what `/sync` shows, whatever happens and whatever it asks for.

Three users play at random in a few rooms on two nodes. Connections follow one of them through windows that move, with
limits and state that change, with answers that are lost, over restarts of what is in memory. In the end each has, for
every room that it was told of, the same timeline, state, members, counts, account data and receipts as a new `/sync`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.rooms.state import Rooms
from homeserver.rooms.state_rows import StateRows
from homeserver.sync.sliding.connections import Connections
from homeserver.sync.sliding.room_list import RoomLists
from tests.deployment import User
from tests.rooms.play import Play
from tests.support import aio
from tests.sync.sliding import EVERYTHING, Client, set_data, window

STEPS = 60
STATE = [["m.room.name", ""], ["m.room.topic", ""], ["m.room.member", "*"], ["m.room.power_levels", ""]]
SHOWN = ("m.room.name", "m.room.topic", "m.room.member", "m.room.power_levels")


@dataclass
class Seen:
    """A room as a client has it."""

    timeline: list[str] = field(default_factory=list)
    state: dict[tuple[str, str], str] = field(default_factory=dict)
    counts: tuple[int, int] = (0, 0)
    name: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    receipts: dict[tuple[str, str], str] = field(default_factory=dict)

    def take(self, entry: dict[str, Any]) -> None:
        """Take in what is told of the room."""
        if entry.get("initial"):
            self.timeline, self.state, self.name = [], {}, None
        events = [event["event_id"] for event in entry.get("timeline", ())]
        if entry.get("limited") or entry.get("unstable_expanded_timeline"):
            self.timeline = events
        else:
            assert not set(events) & set(self.timeline), "told twice"
            self.timeline += events
        for event in entry.get("required_state", ()):
            self.state[event["type"], event["state_key"]] = event["event_id"]
        if "joined_count" in entry:
            self.counts = entry["joined_count"], entry["invited_count"]
        self.name = entry.get("name", self.name)

    def read(self, content: dict[str, Any]) -> None:
        """Take in receipts."""
        for event_id, kinds in content.items():
            for kind, users in kinds.items():
                self.receipts.update(((kind, user_id), event_id) for user_id in users)


@dataclass
class Follower:
    """A client that keeps what it is told."""

    client: Client
    rooms: dict[str, Seen] = field(default_factory=dict)

    def take(self, answer: dict[str, Any]) -> None:
        """Take in an answer."""
        for room_id, entry in answer["rooms"].items():
            if "invite_state" in entry:
                self.rooms.pop(room_id, None)
                continue
            self.rooms.setdefault(room_id, Seen()).take(entry)
        extensions = answer["extensions"]
        for room_id, entries in extensions["account_data"]["rooms"].items():
            if room_id in self.rooms:
                self.rooms[room_id].data.update((entry["type"], entry["content"]) for entry in entries)
        for room_id, event in extensions["receipts"]["rooms"].items():
            if room_id in self.rooms:
                self.rooms[room_id].read(event["content"])


class Game:
    """The play, and the dice."""

    def __init__(self, play: Play, users: list[User], rooms: list[str], dice: random.Random) -> None:
        self.play = play
        self.users = users
        self.rooms = rooms
        self.dice = dice
        self.events: dict[str, list[str]] = {room_id: [] for room_id in rooms}
        self.serial = 0

    async def step(self) -> None:
        """Something happens. What is not allowed at this moment is refused, which is as good."""
        user, room_id = self.dice.choice(self.users), self.dice.choice(self.rooms)
        self.serial += 1
        happens = [self._send] * 6 + [self._name, self._rename, self._leave, self._invite, self._mark, self._read]
        await self.dice.choice(happens)(user, room_id)
        if self.dice.random() < 0.5:
            await self.play.settle()

    async def _ask(self, user: User, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return (await user.asks(method, f"/_matrix/client/v3/rooms/{path}", body)).json

    async def _send(self, user: User, room_id: str) -> None:
        try:
            self.events[room_id].append(await self.play.send(user, room_id, str(self.serial)))
        except AssertionError:
            return

    async def _name(self, user: User, room_id: str) -> None:
        kind, name = self.dice.choice([("m.room.name", "name"), ("m.room.topic", "topic")])
        await self._ask(user, "PUT", f"{quote(room_id)}/state/{kind}", {name: f"{kind} {self.serial}"})

    async def _rename(self, user: User, room_id: str) -> None:
        member = f"{quote(room_id)}/state/m.room.member/{quote(user.user_id)}"
        await self._ask(user, "PUT", member, {"membership": "join", "displayname": f"U{self.serial}"})

    async def _leave(self, user: User, room_id: str) -> None:
        if user is not self.users[0]:  # the one who is followed is in all rooms, and so is their power
            await self._ask(user, "POST", f"{quote(room_id)}/leave", {})

    async def _invite(self, user: User, room_id: str) -> None:
        other = self.dice.choice(self.users[1:])
        await self._ask(self.users[0], "POST", f"{quote(room_id)}/invite", {"user_id": other.user_id})
        if self.dice.random() < 0.8:
            await self.play.settle()
            await self._ask(other, "POST", f"{quote(room_id)}/join", {})

    async def _mark(self, user: User, room_id: str) -> None:
        await set_data(self.play, self.users[0], "org.example.mark", {"n": self.serial}, room_id)

    async def _read(self, user: User, room_id: str) -> None:
        if self.events[room_id]:
            kind = self.dice.choice(["m.read", "m.read.private"]) if user is self.users[0] else "m.read"
            event_id = quote(self.dice.choice(self.events[room_id][-3:]))
            await self._ask(user, "POST", f"{quote(room_id)}/receipt/{kind}/{event_id}", {})

    async def look(self, follower: Follower) -> None:
        """A client asks, through some window; an answer may be lost, and memory too."""
        first = self.dice.choice([0, 0, 0, 1])
        last = first + self.dice.choice([0, 1, len(self.rooms)])
        body: dict[str, Any] = {"lists": {"all": window(first, last, limit=self.dice.choice([1, 3, 20]), state=STATE)}}
        if self.dice.random() < 0.3:
            body["room_subscriptions"] = {self.dice.choice(self.rooms): {"timeline_limit": 5, "required_state": STATE}}
        if self.dice.random() < 0.2:
            await replace(follower.client).sync(**body)
        if self.dice.random() < 0.1:
            for kind in (Connections, RoomLists, Rooms, StateRows):
                memory = self.play.node("tehran").memory(kind)
                if not isinstance(memory, Rooms) or not memory.busy:
                    memory.clear()
        follower.take(await follower.client.sync(**body))


@pytest.mark.parametrize("seed", range(6))
@aio
async def test_a_client_has_what_sync_shows(play: Play, seed: int) -> None:
    dice = random.Random(seed)
    alice, bob, carol = await play.user("alice"), await play.user("bob", "paris"), await play.user("carol")
    rooms = [await play.room_of(alice, bob, carol) for _ in range(3)]
    game = Game(play, [alice, bob, carol], rooms, dice)
    extensions = {name: EVERYTHING[name] for name in ("account_data", "receipts")}
    followers = [Follower(Client(alice, {"extensions": extensions})) for _ in range(2)]
    for _ in range(STEPS):
        await game.step()
        for follower in followers:
            if dice.random() < 0.4:
                await game.look(follower)
    await play.settle()
    everything: dict[str, Any] = {"lists": {"all": window(0, 9, limit=20, state=STATE)}}
    for follower in followers:
        follower.take(await follower.client.sync(**everything))
        assert (await follower.client.sync(**everything))["rooms"] == {}
        await agree(play, alice, follower)


async def agree(play: Play, user: User, follower: Follower) -> None:
    """Compare what a follower has with what `/sync` shows."""
    filter_ = '{"room":{"timeline":{"limit":1000}}}'
    classic = (await play.ask(user, "GET", "/sync", filter=filter_))["rooms"]["join"]
    assert follower.rooms.keys() == classic.keys()
    for room_id, seen in follower.rooms.items():
        shown = classic[room_id]
        events = shown["timeline"]["events"]
        timeline = [event["event_id"] for event in events]
        assert seen.timeline == timeline[-len(seen.timeline) :]
        assert len(seen.timeline) >= min(20, len(timeline))
        state = {
            (event["type"], event["state_key"]): event
            for event in (*shown["state"]["events"], *events)
            if "state_key" in event
        }
        wanted = {key: event["event_id"] for key, event in state.items() if key[0] in SHOWN}
        assert seen.state == wanted
        summary = shown["summary"]
        assert seen.counts == (summary["m.joined_member_count"], summary["m.invited_member_count"])
        name = state.get(("m.room.name", ""))
        assert seen.name == (None if name is None else name["content"]["name"])
        data = {event["type"]: event["content"] for event in shown["account_data"]["events"]}
        assert seen.data == data
        receipts = Seen()
        for event in shown["ephemeral"]["events"]:
            receipts.read(event["content"])
        assert seen.receipts.items() <= receipts.receipts.items()
        own = {key: value for key, value in receipts.receipts.items() if key[1] == user.user_id}
        assert own.items() <= seen.receipts.items()
