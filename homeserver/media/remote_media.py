"""Media of other servers: fetched once for each node that wants them, kept there, and forgotten when nobody asks.

spec: server-server-api/#content-repository
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from config.residency import DataClass
from homeserver.media import shelves, store
from homeserver.media.content_types import content_type, file_name
from homeserver.protocol.errors import CommitUnknown, LimitExceeded, NodeUnavailable, RemoteTooLarge
from homeserver.residency import gate
from homeserver.runtime.lru import Lru
from homeserver.storage import remote_media as stored
from homeserver.storage.media import Content, Medium

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.remote_media import RemoteMedium

MOST_AT_ONCE: Final = 32
"""Files that a node fetches at the same moment."""
REMEMBERED: Final = 4096
TOUCH_MS: Final = 3_600_000
"""How exactly it is known when a copy was asked for last."""
BATCH: Final = 200

log = structlog.get_logger("media")

Name = tuple[str, str]
"""Server name and media id."""


class Fetching:
    """The copies that a node knows to have, and what it is fetching (``node.memory(Fetching)``)."""

    def __init__(self) -> None:
        self.known: Lru[Name, RemoteMedium] = Lru(REMEMBERED)
        self.tasks: dict[Name, asyncio.Task[RemoteMedium]] = {}


async def find(server: Server, node: Node, server_name: str, media_id: str, wait_ms: int) -> Medium:
    """The node's copy of a medium, which is fetched when there is none; its ``media_id`` is that of the file here.

    Raises FlowDenied when media may not come in from there, NotFound, NotYetUploaded, RemoteTooLarge, LimitExceeded,
    ServerUnreachable, NodeUnavailable. ``wait_ms``: how long the other server may wait for an upload.
    """
    source = server.policy.now.jurisdiction_of_server(server_name)
    gate.check(server, DataClass.MEDIA, source, node.jurisdiction)
    if not node.engine.health().up:
        raise NodeUnavailable(node.name)
    memory, name, now = node.memory(Fetching), (server_name, media_id), server.clock.now_ms()
    copy = memory.known.get(name) or await node.read(stored.find, server_name, media_id)
    copy = copy or memory.known.get(name)  # it came while the database was asked
    if copy is None:
        copy = await _fetched(server, node, name, wait_ms)
    elif copy.asked_ts + TOUCH_MS < now:
        await node.write(stored.touch, copy.file_id, now)
        copy = copy._replace(asked_ts=now)
    memory.known[name] = copy
    return Medium(copy.file_id, 0, copy.content_type, copy.filename, copy.size, copy.digest, copy.asked_ts, None)


async def _fetched(server: Server, node: Node, name: Name, wait_ms: int) -> RemoteMedium:
    """Fetch a medium, once for all who ask for it meanwhile."""
    memory = node.memory(Fetching)
    task = memory.tasks.get(name)
    if task is None:
        if len(memory.tasks) >= MOST_AT_ONCE:
            raise LimitExceeded(1000)
        # A task of its own: that one client goes away does not stop what others wait for.
        task = memory.tasks[name] = asyncio.get_running_loop().create_task(_fetch(server, node, name, wait_ms))
        task.add_done_callback(lambda done: _done(memory, name, done))
    return await asyncio.shield(task)


def _done(memory: Fetching, name: Name, task: asyncio.Task[RemoteMedium]) -> None:
    del memory.tasks[name]
    if not task.cancelled() and task.exception() is None:  # whoever still waits is told of an error
        memory.known[name] = task.result()


async def _fetch(server: Server, node: Node, name: Name, wait_ms: int) -> RemoteMedium:
    file_id, most, now = shelves.new_id(), server.settings.media.max_download, server.clock.now_ms()
    draft = await store.begin(node)

    async def take(piece: bytes) -> None:
        if draft.size + len(piece) > most:
            raise RemoteTooLarge("The content is too large to serve")
        await draft.add(piece)

    try:
        head = await server.remote.fetch_media(server, node, *name, wait_ms, take)
        written = await draft.finish(file_id)
    except BaseException:
        with suppress(NodeUnavailable):
            await draft.discard()
        raise
    content = Content(content_type(head.content_type), file_name(head.filename), *written)
    try:
        added = await node.write(stored.add, file_id, *name, content, now)
    except (CommitUnknown, asyncio.CancelledError):
        raise  # there may be a row: the sweep will see
    except Exception:
        with suppress(NodeUnavailable):
            await store.erase(node, file_id, written.digest)
        raise
    if not added:  # another process was faster
        await store.erase(node, file_id, written.digest)
        found = await node.read(stored.find, *name)
        assert found is not None
        return found
    return stored.RemoteMedium(file_id, *content, now)


async def forget_idle(server: Server, node: Node) -> None:
    """Delete the node's copies that nobody has asked for as long as its jurisdiction keeps them.

    Raises NodeUnavailable.
    """
    kept_ms = server.policy.now.retention(node.jurisdiction).media_cache.ms
    before = server.clock.now_ms() - kept_ms - TOUCH_MS
    while gone := await node.write(_remove_idle, node, before):
        for file_id, digest in gone:
            await store.erase(node, file_id, digest)
        log.info("forgot media of other servers", node=node.name, files=len(gone))


async def _remove_idle(tx: Transaction, node: Node, before_ms: int) -> list[tuple[str, bytes]]:
    gone = await stored.remove_idle(tx, before_ms, BATCH)
    if gone:
        tx.after_commit(node.memory(Fetching).known.clear)
    return gone
