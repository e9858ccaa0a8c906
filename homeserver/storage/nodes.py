"""The nodes of a deployment. This file and directory.py are the only ones that see more than one database.

A `Node` is one place of storage: its engine, its media folder, its positions, and what services keep in memory
about it. Nothing here opens a transaction on two nodes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from homeserver.protocol.errors import NodeUnavailable, NotFound
from homeserver.runtime.lru import Lru
from homeserver.storage.directory import NOBODY, Directory, Kind
from homeserver.storage.engine import ConstraintViolation, Engine, Health, Scope, Transaction, Write
from homeserver.storage.group_commit import GroupCommit
from homeserver.storage.streams import Changes, Stream, current

P = ParamSpec("P")
T = TypeVar("T")


class Mirror:
    """A memory that repeats what is in the database; `Node.memory` has it cleared when that can have changed unseen."""

    def clear(self) -> None:
        """Forget everything, also what is being read at this moment."""
        raise NotImplementedError


class Node:
    """One place of storage in one jurisdiction.

    ``position`` is the last announced position: what a sync token of this node says. Owned by `advance`.
    ``lapses`` counts how often the node has been out of reach, when it may have missed what it was to be told.
    """

    def __init__(self, name: str, jurisdiction: str, engine: Engine, media: Path) -> None:
        self.name = name
        self.jurisdiction = jurisdiction
        self.engine = engine
        self.media = media
        self.position = 0
        self.changes = Changes(0)
        self._order = asyncio.Lock()
        self._group = GroupCommit(self.advance)
        self._memories: dict[type[Any], Any] = {}
        self._started = False
        self.lapses = 0 if engine.health().up else 1
        self.followers: list[Callable[[], object]] = []
        """Called whenever something was announced, or something fleeting changed, for whoever tells others of it."""
        engine.watch(self._doubt)

    def __repr__(self) -> str:
        return f"<Node {self.name} {self.jurisdiction}>"

    async def read(self, fn: Callable[Concatenate[Transaction, P], Awaitable[T]], *args: P.args, **kw: P.kwargs) -> T:
        """Run ``fn(tx, …)`` on a snapshot of this node."""
        return await self.engine.read(fn, *args, **kw)

    async def write(self, fn: Callable[Concatenate[Transaction, P], Awaitable[T]], *args: P.args, **kw: P.kwargs) -> T:
        """Run ``fn(tx, …)`` and commit. ``fn`` may run again when the database asks for it; it takes no positions."""
        return await self.engine.write(fn, *args, **kw)

    async def advance(
        self, fn: Callable[Concatenate[Transaction, P], Awaitable[T]], *args: P.args, **kw: P.kwargs
    ) -> T:
        """Like `write`, for transactions that take positions: one at a time, announced before the next begins."""
        await self.start()
        async with self._order:
            try:
                return await self.engine.write(fn, *args, **kw)
            except ConstraintViolation:
                if not await self._was_behind():
                    raise
            return await self.engine.write(fn, *args, **kw)

    async def advance_together(
        self, fn: Callable[Concatenate[Transaction, P], Awaitable[T]], *args: P.args, **kw: P.kwargs
    ) -> T:
        """Like `advance`, but one transaction for all who wait for this at the same time.

        For what is small and frequent, and does not trust a memory that the like of it makes untrue: before ``fn`` and
        after it others may run in the same transaction. Should one of them fail, each runs again, alone.
        """
        with Scope(self.name):  # the caller's: what is written is so in another task
            return await self._group.run(lambda tx: fn(tx, *args, **kw))

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Write]:
        """See `Engine.alone`. Positions may be taken with what is yielded."""
        await self.start()
        async with self._order, self.engine.alone() as write:
            yield write

    async def _was_behind(self) -> bool:
        """Whether `streams.take` failed because ``position`` was not that of the database, which it is now."""
        position = await self.engine.read(current)
        if position == self.position:
            return False
        self.position = position
        return True

    async def start(self) -> None:
        """Learn the node's position from its database, once; a node that was down learns it when it is back."""
        if not self._started:
            async with self._order:
                if not self._started:
                    self.position = await self.engine.read(current)
                    self.changes = Changes(self.position)
                    self._started = True

    def _doubt(self, health: Health) -> None:
        """The database was lost, perhaps in a COMMIT that nobody was told of: nothing that mirrors it is believed."""
        self._started = False
        self.lapses += not health.up
        for memory in self._memories.values():
            if isinstance(memory, Mirror):
                memory.clear()

    def announce(self, pos: int, changes: Iterable[tuple[Stream, Iterable[int]]]) -> None:
        """To be called after the commit, inside `advance` (``tx.after_commit``): ``changes`` happened up to ``pos``."""
        for stream, keys in changes:
            self.changes.note(stream, keys, pos)
        self.position = max(self.position, pos)
        self.stir()

    def stir(self) -> None:
        """Call those who follow the node."""
        for follower in self.followers:
            follower()

    def memory(self, kind: type[T]) -> T:
        """What a service keeps in memory about this node: one instance of ``kind``, made at first use."""
        found = self._memories.get(kind)
        if found is None:
            found = self._memories[kind] = kind()
        return found

    def caches(self) -> Iterator[Lru[Any, Any]]:
        """Those memories that have a name and weigh in bytes, for the metrics."""
        for memory in list(self._memories.values()):
            for part in vars(memory).values():
                if isinstance(part, Lru) and part.name:
                    yield part


class Nodes:
    """All nodes, and the directory that says what rests on which."""

    def __init__(self, nodes: Iterable[Node], directory: Directory, server_name: str) -> None:
        self._nodes = {node.name: node for node in nodes}
        self.directory = directory
        self.server_name = server_name
        self._suffix = ":" + server_name

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __getitem__(self, name: str) -> Node:
        node = self._nodes.get(name)
        if node is None:  # a route to a node that the policy no longer has
            raise NodeUnavailable(name)
        return node

    def add(self, node: Node) -> None:
        """One more node. Raises ValueError when there is one of this name."""
        if node.name in self._nodes:
            raise ValueError(f"there are two nodes {node.name}")
        self._nodes = {**self._nodes, node.name: node}

    def remove(self, name: str) -> Node:
        """Take a node out; whoever is going through them at the moment still meets it. Raises NodeUnavailable."""
        node = self[name]
        self._nodes = {other: each for other, each in self._nodes.items() if other != name}
        return node

    def is_local(self, user_id: str) -> bool:
        """Does this deployment answer for the user?"""
        return user_id.endswith(self._suffix)

    async def of_user(self, user_id: str) -> Node | None:
        """The node to which a local user is pinned; None when there is no such user."""
        if not self.is_local(user_id):
            return None
        return self._held(await self.directory.find(Kind.USER, user_id[1 : -len(self._suffix)]))

    async def of_users(self, user_ids: Collection[str]) -> dict[str, str]:
        """The names of the nodes of those users who are local and exist."""
        suffix, end = self._suffix, -len(self._suffix)
        names = {user_id[1:end]: user_id for user_id in user_ids if user_id.endswith(suffix)}
        found = await self.directory.find_all(Kind.USER, names)
        return {names[name]: node for name, node in found.items() if node != NOBODY}

    async def of_room(self, room_id: str) -> Node | None:
        """The home node of a room; None when no local user ever was in it."""
        return self._held(await self.directory.find(Kind.ROOM, room_id))

    async def of_alias(self, alias: str) -> Node | None:
        """The node that holds a local alias."""
        return self._held(await self.directory.find(Kind.ALIAS, alias))

    async def of_media(self, media_id: str) -> Node:
        """The node that holds a local medium. Raises NotFound."""
        node = self._held(await self.directory.find(Kind.MEDIA, media_id))
        if node is None:
            raise NotFound("There is no such medium")
        return node

    def _held(self, name: str | None) -> Node | None:
        return None if name is None or name == NOBODY else self[name]
