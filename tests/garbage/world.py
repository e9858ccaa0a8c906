"""A deployment that is attacked: people who live in it, people who send garbage, and what must hold afterwards.

Alice and Dora live in different jurisdictions and write to each other in a room called the house. Mallory and Trudy
send garbage; they share a room, the den, with Alice. When Mallory has locked herself out, or
been suspended, she begins anew.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import orjson

from homeserver.accounts import roles
from homeserver.protocol.errors import Refusal
from homeserver.protocol.roles import Role
from homeserver.residency import isolation
from homeserver.runtime.clock import FakeClock, Timer
from homeserver.storage.engine import Transaction
from homeserver.storage.nodes import Node
from homeserver.storage.tables import TABLES
from homeserver.web.heads import Heads
from homeserver.web.messages import Response
from tests import openapi
from tests.deployment import FLOWING, NAME, PASSWORD, SETTINGS, User, start
from tests.e2ee.play import Device, Identity
from tests.garbage.requests import PNG, Ask
from tests.garbage.values import Known, fresh
from tests.rooms.play import CLIENT, Play
from tests.support import Databases

PATIENCE = 20.0
"""Real seconds in which every request must have its answer."""
LONGEST = 600.0
"""Seconds of the server's clock that a client may make a request wait."""

BACKUP = {"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {"public_key": "A" * 43}}


class HastyClock(FakeClock):
    """Says when somebody has begun to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_for = asyncio.Event()

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Note the wait."""
        self.waited_for.set()
        return super().call_later(seconds, callback, *args)


class World:
    """The deployment and its people."""

    def __init__(self, play: Play, clock: HastyClock, crosses: bool) -> None:
        self.play = play
        self.deployment = play.deployment
        self.clock = clock
        self.crosses = crosses
        """Whether anything may cross the border."""
        self.heads = Heads(0)
        self.tokens: dict[str, str | None] = {"nobody": None, "junk": "é' \" junk"}
        self._since: dict[str, str] = {}
        self.alice: User
        self.dora: User
        self.mallory: User
        self.trudy: User
        self.known: Known
        self.house = self.secret = ""

    @classmethod
    async def begin(cls, databases: Databases, policy: str) -> World:
        """Start it."""
        clock = HastyClock()
        settings = SETTINGS + "[media]\npending_uploads = 10000\n"
        world = cls(
            Play(await start(databases, settings=settings, policy=policy, clock=clock)), clock, policy == FLOWING
        )
        await world.play.begin()
        await world._settle_in()
        return world

    async def end(self) -> None:
        """Stop to ship."""
        await self.play.end()

    # people and rooms

    async def _settle_in(self) -> None:
        play = self.play
        nora = await play.user("nora")
        login = await self.deployment.login(nora, refresh_token=True)
        await self.clock.advance(24 * 3600)
        self.tokens["expired"] = login.json["access_token"]
        gone = await self.deployment.login(nora)
        self.tokens["gone"] = gone.json["access_token"]
        await self.deployment.asked("POST", CLIENT + "/logout", {}, token=gone.json["access_token"])
        grace = await self.deployment.user("grace", admin=True)
        self.tokens["grace"] = grace.token
        for role in Role:
            await roles.give(self.deployment.server, grace.user_id, role)
        self.alice = await self.deployment.user("alice", admin=True)  # whom no other administrator can lock or suspend
        self.dora = await self.deployment.user("dora", "paris", admin=True)
        self.house = await self._room(self.alice, self.dora)
        self.secret = await play.send(self.alice, self.house, "not for mallory")
        await self._begin_anew()

    async def _room(self, *users: User) -> str:
        """A room of these users; those whom the policy does not let in stay outside."""
        first, *others = users
        room_id = await self.play.create(first)
        for other in others:
            path = f"/rooms/{quote(room_id)}"
            invited = await first.asks("POST", f"{CLIENT}{path}/invite", {"user_id": other.user_id})
            if invited.status == 200:
                await self.play.change(other, room_id, "join")
        await self.play.settle()
        return room_id

    async def _begin_anew(self) -> None:
        """New attackers, in a new den, with one of everything."""
        play, ask = self.play, self.play.ask
        self.mallory, self.trudy = await play.user(fresh()), await play.user(fresh(), "paris")
        mallory, token = self.mallory, self.mallory.token
        self.tokens |= {"mallory": token, "trudy": self.trudy.token}
        keys, identity = Device(mallory), Identity(mallory.user_id)
        await keys.publish(one_time_keys=keys.one_time_keys(*(str(number) for number in range(20))))
        await ask(mallory, "POST", "/keys/device_signing/upload", identity.upload())
        refreshable = await self.deployment.login(mallory, refresh_token=True)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "image/png"}
        uploaded = await self.deployment.site.call("POST", "/_matrix/media/v3/upload", headers=headers, body=PNG)
        pending = await self.deployment.asked("POST", "/_matrix/media/v1/create", token=token)
        self.known = Known(
            server=NAME,
            password=PASSWORD,
            me=mallory.user_id,
            alice=self.alice.user_id,
            trudy=self.trudy.user_id,
            dora=self.dora.user_id,
            room="",
            house=self.house,
            event="",
            secret=self.secret,
            alias="",
            device=mallory.device_id,
            media=orjson.loads(await _bytes(uploaded))["content_uri"].rpartition("/")[2],
            pending=pending.json["content_uri"].rpartition("/")[2],
            batch=(await ask(mallory, "GET", "/sync"))["next_batch"],
            filter=(await ask(mallory, "POST", f"/user/{quote(mallory.user_id)}/filter", {}))["filter_id"],
            backup=(await ask(mallory, "POST", "/room_keys/version", BACKUP))["version"],
            refresh=refreshable.json["refresh_token"],
            keys=keys,
            identity=identity,
        )
        await self._new_den()

    async def _new_den(self) -> None:
        room = await self._room(self.mallory, self.trudy, self.alice)
        alias = f"#{fresh()}:{NAME}"
        await self.play.ask(self.mallory, "PUT", f"/directory/room/{quote(alias)}", {"room_id": room})
        event = await self.play.send(self.mallory, room, "hello")
        self.known = replace(self.known, room=room, alias=alias, event=event)

    async def refresh(self) -> None:
        """Give the attackers what they have lost."""
        for user in (self.mallory, self.trudy):
            whoami = await user.asks("GET", CLIENT + "/account/whoami")
            if whoami.status != 200 or (await user.caller()).suspended:
                await self._begin_anew()
                return
        backup, room = self.known.backup, self.known.room
        if (await self.mallory.asks("GET", f"{CLIENT}/room_keys/version/{backup}")).status != 200:
            made = await self.play.ask(self.mallory, "POST", "/room_keys/version", BACKUP)
            self.known = replace(self.known, backup=made["version"])
        joined = await self.play.ask(self.mallory, "GET", "/joined_rooms")
        may = f"/rooms/{quote(room)}/state/org.example.may"
        if room not in joined["joined_rooms"] or (await self.mallory.asks("PUT", CLIENT + may, {})).status != 200:
            await self._new_den()

    # attacks

    async def attack(self, ask: Ask) -> list[str]:
        """Make the request. Returns what is wrong with its answer, or with what is found after it."""
        # A body and its type belong together: by a type without one the answer to matrix-nio is told apart.
        headers = {"Content-Type": ask.content_type} if ask.method != "GET" else {}
        token = self.tokens[ask.who]
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        response = await self._answered(ask.method, ask.target, headers, ask.body)
        faults = await self._faults(ask.method, ask.target, response)
        if ask.method not in ("GET", "HEAD", "OPTIONS") and response.status == 200:
            await self.refresh()
            faults += await self._sync_faults()
        return faults

    async def _answered(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Response:
        """The answer. Whoever waits for the clock has it moved."""
        self.clock.waited_for.clear()
        task = asyncio.ensure_future(self.deployment.site.call(method, target, headers=headers, body=body))
        waited = 0.0
        async with asyncio.timeout(PATIENCE):
            while not task.done():
                waiting = asyncio.ensure_future(self.clock.waited_for.wait())
                await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                self.clock.waited_for.clear()
                if not task.done() and waited < LONGEST:
                    await self.clock.advance(LONGEST / 20)
                    waited += LONGEST / 20
                    self.clock.waited_for.set()
        return task.result()

    async def _faults(self, method: str, target: str, response: Response) -> list[str]:
        body = await _bytes(response)
        head = self.heads.head(response, len(body), shared=True)  # raises for what would break the answer up
        names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:-2]]
        if method == "HEAD":
            method = "GET"
        try:
            route, _ = self.deployment.site.table.match(method, target.partition("?")[0])
        except Refusal:
            operation = None
        else:
            operation = openapi.operation(route.method, route.path)
        faults = openapi.answer_faults(operation, response.status, response.content_type, body)
        if len(set(names)) != len(names):
            faults.append(f"a header comes twice: {head!r}")
        seen, self.deployment.observed.faults = self.deployment.observed.faults, []
        for fault in seen:
            raise fault
        return faults

    async def _sync_faults(self) -> list[str]:
        """Sync those who see what attackers do."""
        faults = []
        for user in (self.mallory, self.alice):
            query = {"since": self._since[user.user_id]} if user.user_id in self._since else {}
            faults += await self._sync(user, query)
        return faults

    async def _sync(self, user: User, query: dict[str, str]) -> list[str]:
        target = CLIENT + "/sync?" + "&".join(f"{name}={quote(value)}" for name, value in query.items())
        response = await self._answered("GET", target, {"Authorization": f"Bearer {user.token}"}, b"")
        faults = await self._faults("GET", target, response)
        if response.status != 200:
            return [*faults, f"{user.user_id} cannot sync: {response.status}"]
        found = re.search(rb'"next_batch":"([^"]+)"', await _bytes(response))
        assert found
        self._since[user.user_id] = found[1].decode()
        return faults

    # what must hold

    async def open_borders(self) -> None:
        """Take back what an administrator has declared."""
        for each in await isolation.declared(self.deployment.server):
            await isolation.release(self.deployment.server, each.jurisdiction)

    async def still_works(self) -> None:
        """Alice and Dora write to each other as if nothing had been, and everything is where it belongs."""
        text = fresh()
        await self.play.send(self.alice, self.house, text)
        await self.play.settle()
        members = await self.play.ask(self.alice, "GET", f"/rooms/{quote(self.house)}/joined_members")
        inside = [self.alice, self.dora] if self.crosses else [self.alice]
        assert set(members["joined"]) == {user.user_id for user in inside}
        for reader in inside:
            assert text in await self.play.texts(reader, self.house)
        for user in (self.alice, self.dora, self.mallory, self.trudy):
            assert await self._sync(user, {}) == []
        for node in self.deployment.server.nodes:
            assert await self.strangers(node) == []

    async def strangers(self, node: Node) -> list[str]:
        """Rows with an owner who belongs elsewhere, in tables that have rows of residents only: ``table: user``.

        Where nothing may cross the border, a node does not even know the others' users, but for those whom a resident
        has named to ban them.
        """
        found = []
        for table, user_id in await node.read(_owners):
            home = await self.deployment.server.nodes.of_user(user_id)
            if home is not node and not (table == "users" and (self.crosses or home is None)):
                found.append(f"{table}: {user_id}")
        return found


async def _owners(tx: Transaction) -> list[tuple[str, str]]:
    """Whom a node knows, and who owns rows in each resident table."""
    kept_out = "SELECT user_nid FROM memberships WHERE membership IN ('ban', 'leave')"
    found = [("users", row[0]) for row in await tx.all(f"SELECT user_id FROM users WHERE user_nid NOT IN ({kept_out})")]
    found += [("residents", row[0]) for row in await tx.all("SELECT user_id FROM users NATURAL JOIN residents")]
    for table in TABLES.values():
        if table.resident:
            owned = (
                f"SELECT DISTINCT user_id FROM users JOIN {table.name} owned ON users.user_nid = owned.{table.owner}"
            )
            found += [(table.name, row[0]) for row in await tx.all(owned)]
    return found


async def _bytes(response: Response) -> bytes:
    """The body of an answer; a stream is kept for whoever asks again."""
    body = response.body
    if not isinstance(body, bytes):
        body = b"".join([piece async for piece in body]) if hasattr(body, "__aiter__") else b"".join(body)
        response.body = body
    return body
