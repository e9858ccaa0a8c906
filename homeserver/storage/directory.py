"""The deployment's directory: keyed hash of a localpart, room, alias, medium, third-party
identifier or identity at a provider -> the node it rests on.

It holds nothing else about a person, and without the key (a file beside the configuration) nobody can try names
against it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from enum import StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar

from homeserver.runtime.lru import Lru
from homeserver.runtime.parts import in_parts
from homeserver.storage.engine import asks_once

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from homeserver.storage.engine import Engine, Transaction

REMEMBERED = 100_000
AT_ONCE = 1000
"""Routes that are looked up in one statement."""
AHEAD = 16
"""Names that are given a route together, before anything has them. Those that a process leaves lead to nothing."""

NOBODY = ""
"""Stands for a node in the route of a user who is no more: the name stays taken."""

T = TypeVar("T")


class Kind(StrEnum):
    """What a route leads to. Localparts are hashed without the server name; the rest by their full id."""

    USER = "user"
    ROOM = "room"
    ALIAS = "alias"
    MEDIA = "media"
    THREEPID = "threepid"
    UPSTREAM = "upstream"


@asks_once
async def _find(tx: Transaction, kind: str, key: bytes) -> str | None:
    row = await tx.one("SELECT node FROM routes WHERE kind = ? AND route_key = ?", kind, key)
    return None if row is None else str(row[0])


@asks_once
async def _find_all(tx: Transaction, kind: str, keys: Sequence[bytes]) -> dict[bytes, str]:
    marks = ",".join("?" * len(keys))
    rows = await tx.all(f"SELECT route_key, node FROM routes WHERE kind = ? AND route_key IN ({marks})", kind, *keys)
    return {bytes(row[0]): str(row[1]) for row in rows}


async def _claim(tx: Transaction, kind: str, key: bytes, node: str) -> str:
    await tx.run("INSERT INTO routes (kind, route_key, node) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", kind, key, node)
    found = await _find(tx, kind, key)
    assert found is not None
    return found


async def _add(tx: Transaction, rows: Sequence[tuple[str, bytes, str]]) -> None:
    tx.later("INSERT INTO routes (kind, route_key, node) VALUES (?, ?, ?)", rows)


async def _reroute(tx: Transaction, rows: Sequence[tuple[str, bytes, str]]) -> None:
    await tx.many(
        "INSERT INTO routes (kind, route_key, node) VALUES (?, ?, ?)"
        " ON CONFLICT (kind, route_key) DO UPDATE SET node = excluded.node",
        rows,
    )


async def _release(tx: Transaction, kind: str, key: bytes) -> None:
    await tx.run("DELETE FROM routes WHERE kind = ? AND route_key = ?", kind, key)


class Directory:
    """Where things rest. Routes that were found are remembered; absence never is."""

    def __init__(self, engine: Engine, key: bytes) -> None:
        self.engine = engine
        self._ahead: defaultdict[tuple[Kind, str], list[str]] = defaultdict(list)
        self._adding = asyncio.Lock()
        engine.watch(lambda health: self._ahead.clear())  # what was written last may be lost
        self._key = key
        self._known: dict[Kind, Lru[str, str]] = {kind: Lru(REMEMBERED) for kind in Kind}
        self._known_hashes: Lru[tuple[Kind, bytes], str] = Lru(REMEMBERED)
        self._changes = 0  # of routes: what was read before one is not remembered after it
        self._memories: dict[type[Any], Any] = {}

    def hash(self, kind: Kind, name: str) -> bytes:
        """The keyed hash (16 bytes) under which a name stands in the directory."""
        return blake2b(name.encode(), digest_size=16, key=self._key, person=kind.value.encode()).digest()

    async def find(self, kind: Kind, name: str) -> str | None:
        """The name of the node where ``name`` rests, or None."""
        node = self._known[kind].get(name)
        if node is None:
            changes = self._changes
            node = await self.engine.read(_find, kind.value, self.hash(kind, name))
            if node is not None and changes == self._changes:
                self._known[kind][name] = node
        return node

    async def find_all(self, kind: Kind, names: Collection[str]) -> dict[str, str]:
        """The nodes of those names that have a route, in one trip for each thousand that are not remembered."""
        known = self._known[kind]
        found = known.find(names)
        if len(found) == len(names):
            return found
        hashes = {self.hash(kind, name): name for name in names if name not in found}
        for part in in_parts(hashes, AT_ONCE):
            changes = self._changes
            for key, node in (await self.engine.read(_find_all, kind.value, part)).items():
                found[hashes[key]] = node
                if changes == self._changes:
                    known[hashes[key]] = node
        return found

    async def find_hash(self, kind: Kind, key: bytes) -> str | None:
        """Like `find`, for whoever has only the hash of a name (such as an access token has)."""
        node = self._known_hashes.get((kind, key))
        if node is None:
            changes = self._changes
            node = await self.engine.read(_find, kind.value, key)
            if node is not None and changes == self._changes:
                self._known_hashes[kind, key] = node
        return node

    def memory(self, kind: type[T]) -> T:
        """What a service keeps in memory about the deployment as a whole: one instance of ``kind``, made at first use.

        What concerns one user belongs into the memory of their node instead.
        """
        found = self._memories.get(kind)
        if found is None:
            found = self._memories[kind] = kind()
        return found

    def remembered(self, kind: Kind, name: str) -> str | None:
        """The node of ``name`` if it is in memory: for paths that may not wait."""
        return self._known[kind].get(name)

    async def claim(self, kind: Kind, name: str, node: str) -> str:
        """Route ``name`` to ``node`` unless it has a route; returns the node that it is routed to now."""
        key = self.hash(kind, name)
        found = await self.engine.write(_claim, kind.value, key, node)
        self._known[kind][name] = found
        if kind is Kind.USER:  # who is going to come with an access token
            self._known_hashes[kind, key] = found
        return found

    async def new_name(self, kind: Kind, node: str, draw: Callable[[], str]) -> str:
        """A name that is routed to ``node``, and that nobody has been given before: ``draw()`` draws from so many.

        One trip for several names. Raises ConstraintViolation if one of them has a route.
        """
        ahead = self._ahead[kind, node]
        if not ahead:
            async with self._adding:
                if not ahead:
                    names = [draw() for _ in range(AHEAD)]
                    await self.engine.write(_add, [(kind.value, self.hash(kind, name), node) for name in names])
                    ahead += names
        name = ahead.pop()
        self._known[kind][name] = node
        return name

    async def reroute(self, kind: Kind, name: str, node: str) -> None:
        """Route ``name`` to ``node``, wherever it led before."""
        await self.reroute_all([(kind, name)], node)
        self._known[kind][name] = node

    async def reroute_all(self, names: Collection[tuple[Kind, str]], node: str) -> None:
        """Route all of these to ``node``, wherever they led before: all at once, or none."""
        rows = [(kind.value, self.hash(kind, name), node) for kind, name in names]
        try:
            await self.engine.write(_reroute, rows)
        finally:
            for kind, name in names:
                self.forget(kind, name)

    async def ask(self, kind: Kind, name: str) -> str | None:
        """The node of ``name``, as the database has it."""
        return await self.engine.read(_find, kind.value, self.hash(kind, name))

    async def ask_all(self, kind: Kind, names: Collection[str]) -> dict[str, str]:
        """The nodes of those names that have a route, as the database has it."""
        hashes = {self.hash(kind, name): name for name in names}
        found: dict[str, str] = {}
        for part in in_parts(hashes, AT_ONCE):
            held = await self.engine.read(_find_all, kind.value, part)
            found.update((hashes[key], node) for key, node in held.items())
        return found

    async def release(self, kind: Kind, name: str) -> None:
        """Forget the route of ``name``."""
        await self.engine.write(_release, kind.value, self.hash(kind, name))
        self.forget(kind, name)

    def forget_all(self) -> None:
        """Ask the database next time, whatever is looked for."""
        self._changes += 1
        self._ahead.clear()
        self._known = {kind: Lru(REMEMBERED) for kind in Kind}
        self._known_hashes = Lru(REMEMBERED)

    def forget(self, kind: Kind, name: str) -> None:
        """Ask the database next time: the route of ``name`` has changed."""
        self._changes += 1
        self._known[kind].pop(name)
        self._known_hashes.pop((kind, self.hash(kind, name)))


FOUNDED = "SELECT node FROM founded_nodes"


async def founded(tx: Transaction) -> set[str]:
    """The nodes whose databases have been made."""
    return {row[0] for row in await tx.all(FOUNDED)}


async def found(tx: Transaction, node: str) -> None:
    """Remember that the database of a node has been made."""
    await tx.run("INSERT INTO founded_nodes (node) VALUES (?) ON CONFLICT DO NOTHING", node)
