"""A client of sliding sync in tests: it asks, keeps what it is told as clients do, and checks the form of answers."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.deployment import Answer, User
from tests.rooms.play import Play

UNSTABLE = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
STABLE = "/_matrix/client/v4/sync"

LAZY = ["m.room.member", "$LAZY"]
ME = ["m.room.member", "$ME"]
EVERYTHING: dict[str, Any] = {
    "to_device": {"enabled": True},
    "e2ee": {"enabled": True},
    "account_data": {"enabled": True},
    "receipts": {"enabled": True},
    "typing": {"enabled": True},
}


_serial = itertools.count()


def window(
    first: int = 0, last: int = 19, *, limit: int = 10, state: list[list[str]] | None = None, **filters: Any
) -> dict[str, Any]:
    """A list of a request of the unstable form."""
    made: dict[str, Any] = {"ranges": [[first, last]], "timeline_limit": limit, "required_state": state or []}
    if filters:
        made["filters"] = filters
    return made


async def ask(user: User, pos: str | None = None, wait_ms: int = 0, **body: Any) -> Answer:
    """A request of the unstable form, with whatever answer."""
    query = {"timeout": str(wait_ms), "set_presence": "offline", **({} if pos is None else {"pos": pos})}
    return await user.asks("POST", UNSTABLE, body, **query)


async def ask_stable(user: User, **body: Any) -> Answer:
    """A request of the stable form, with whatever answer."""
    return await user.asks("POST", STABLE, {"set_presence": "offline", **body})


@dataclass
class Client:
    """A connection of a user's device, one of its own. Each request says the same unless it is told otherwise."""

    user: User
    body: dict[str, Any] = field(default_factory=lambda: {"lists": {"all": window()}})
    pos: str | None = None
    stable: bool = False
    conn_id: str = field(default_factory=lambda: f"conn{next(_serial)}")

    async def sync(self, wait_ms: int = 0, **changed: Any) -> dict[str, Any]:
        """Ask once; the position of the answer is that of the next request."""
        body = {"conn_id": self.conn_id, **self.body, **changed}
        if self.stable:
            position = {} if self.pos is None else {"pos": self.pos}
            answer = await ask_stable(self.user, timeout=wait_ms, **position, **body)
        else:
            answer = await ask(self.user, self.pos, wait_ms, **body)
        assert answer.status == 200, answer
        self.pos = str(answer.json["pos"])
        return answer.json

    async def rooms(self, **changed: Any) -> dict[str, Any]:
        """The rooms of the answer to a request."""
        return dict((await self.sync(**changed))["rooms"])

    async def room(self, room_id: str, **changed: Any) -> dict[str, Any]:
        """What the answer to a request says of one room, and of no other."""
        rooms = await self.rooms(**changed)
        assert list(rooms) == [room_id], rooms
        return dict(rooms[room_id])

    async def waits(self, **changed: Any) -> asyncio.Task[dict[str, Any]]:
        """A request that has begun to wait."""
        caller = await self.user.caller()
        waiting = asyncio.create_task(self.sync(30_000, **changed))
        key = (caller.node.name, caller.user_nid)
        wakeups = self.user.deployment.server.wakeups
        while not waiting.done() and not any(each._future for each in wakeups.listeners.get(key, ())):  # noqa: ASYNC110
            await asyncio.sleep(0)  # nothing tells that somebody else has begun to wait
        return waiting


def types(entry: dict[str, Any]) -> list[str]:
    """The types of the events of a room's timeline."""
    return [event["type"] for event in entry["timeline"]]


def state_of(entry: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """The state beside the timeline: content by type and state key."""
    return {(event["type"], event["state_key"]): event.get("content", {}) for event in entry["required_state"]}


def members(entry: dict[str, Any]) -> set[str]:
    """Of whom the member event is beside the timeline."""
    return {key for kind, key in state_of(entry) if kind == "m.room.member"}


async def set_state(play: Play, user: User, room_id: str, kind: str, content: dict[str, Any], key: str = "") -> None:
    """Change the state of a room."""
    await play.ask(user, "PUT", f"/rooms/{quote(room_id)}/state/{kind}/{quote(key)}", content)
    await play.settle()


async def set_data(play: Play, user: User, kind: str, content: dict[str, Any], room_id: str | None = None) -> None:
    """Set account data, of the account or of a room."""
    room = "" if room_id is None else f"/rooms/{quote(room_id)}"
    await play.ask(user, "PUT", f"/user/{quote(user.user_id)}{room}/account_data/{kind}", content)
