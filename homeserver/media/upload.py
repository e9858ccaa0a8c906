"""Taking in media: each rests on the node of whoever uploads it, under an id that has its route; file first, then row.

spec: client-server-api/#content-repository
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from homeserver.media import shelves, store
from homeserver.media.download import Known, arrival
from homeserver.protocol.errors import (
    CannotOverwriteMedia,
    CommitUnknown,
    Forbidden,
    LimitExceeded,
    NodeUnavailable,
    NotFound,
    TooLarge,
)
from homeserver.storage import media as stored
from homeserver.storage.directory import Kind
from homeserver.storage.media import Content, Medium

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

PASSING_FILES: Final = 500
PASSING_BYTES: Final = 64 * 1024 * 1024
"""What one user may have at most of what is to be deleted: the pictures of the previews that they were the first to ask
for. Where they may have less of their own files, it is as much."""

LONGEST_RETRY_MS: Final = 60_000
"""What a client is told to wait at most when it has too many pending uploads: it may finish one at any moment."""


class Body(Protocol):
    """Where the bytes of an upload come from."""

    async def fill(self, room: memoryview) -> int:
        """Fill ``room``, and return how many bytes that were: fewer than there is room for only at the end."""


class Ready:
    """A `Body` that is here already."""

    def __init__(self, content: bytes) -> None:
        self._rest = memoryview(content)

    async def fill(self, room: memoryview) -> int:
        """See `Body.fill`."""
        fitting = self._rest[: len(room)]
        self._rest = self._rest[len(fitting) :]
        room[: len(fitting)] = fitting
        return len(fitting)


async def upload(
    server: Server,
    caller: Caller,
    body: Body,
    *,
    declared: int | None,
    content_type: str,
    filename: str | None,
    until_ms: int | None = None,
) -> str:
    """Store what the caller sends and return its content URI. ``declared`` is the number of bytes, if that is known;
    ``until_ms``: when it is to be deleted, in milliseconds since 1970.

    Raises Forbidden beyond the caller's quota, TooLarge, NodeUnavailable, and what reading ``body`` raises; nothing is
    left then. What is to be deleted has a quota of its own.

    spec: client-server-api/#post_matrixmediav3upload
    """
    node = caller.node
    quota = _quota(server) if until_ms is None else _passing_quota(server)
    if quota is not None:
        await node.read(_check_quota, caller.user_nid, declared or 0, quota)
    async with _received(server, node, body, declared) as draft:
        media_id = await server.nodes.directory.new_name(Kind.MEDIA, node.name, shelves.new_id)
        written = await draft.finish(media_id)
    content = Content(content_type, filename, *written)
    try:
        await node.advance_together(
            _add, node, quota, media_id, caller.user_nid, content, server.clock.now_ms(), until_ms
        )
    except (CommitUnknown, asyncio.CancelledError):
        raise  # there may be a row: the sweep will see
    except Exception:
        with suppress(NodeUnavailable):
            await store.erase(node, media_id, written.digest)
            await server.nodes.directory.release(Kind.MEDIA, media_id)
        raise
    return uri(server, media_id)


async def create(server: Server, caller: Caller) -> tuple[str, int]:
    """Make a content URI whose content comes later; returns it and until when that must be, in milliseconds since 1970.

    Raises LimitExceeded when the caller has too many of them, and NodeUnavailable.

    spec: client-server-api/#post_matrixmediav1create
    """
    node, rules = caller.node, server.settings.media
    now = server.clock.now_ms()
    expires = now + round(rules.pending_lifetime.seconds * 1000)
    media_id = await server.nodes.directory.new_name(Kind.MEDIA, node.name, shelves.new_id)
    first = await node.write(stored.reserve, media_id, caller.user_nid, now, expires, rules.pending_uploads)
    if first is not None:
        await server.nodes.directory.release(Kind.MEDIA, media_id)
        raise LimitExceeded(min(max(first - now, 1), LONGEST_RETRY_MS))
    return uri(server, media_id), expires


async def fill(
    server: Server,
    caller: Caller,
    server_name: str,
    media_id: str,
    body: Body,
    *,
    declared: int | None,
    content_type: str,
    filename: str | None,
) -> None:
    """Store what the caller sends under a content URI that they made with `create`.

    Raises NotFound for a URI that is unknown or has expired, Forbidden for somebody else's and beyond the caller's
    quota, CannotOverwriteMedia for one that has content, TooLarge, NodeUnavailable, and what reading ``body`` raises.

    spec: client-server-api/#put_matrixmediav3uploadservernamemediaid
    """
    if server_name != server.name or not shelves.is_ours(media_id):
        raise NotFound("There is no such medium")
    node = await server.nodes.of_media(media_id)
    if node is not caller.node:
        raise Forbidden("Only who made this content URI may upload to it")
    await node.read(_check_pending, media_id, caller.user_nid, server.clock.now_ms())
    quota = _quota(server)
    if quota is not None:
        await node.read(_check_quota, caller.user_nid, declared or 0, quota)
    async with _received(server, node, body, declared) as draft:
        written = await draft.finish(media_id)
    content = Content(content_type, filename, *written)
    refused: Forbidden | None = None
    try:
        if await node.write(_fill, server, node, media_id, caller.user_nid, content, quota):
            return
    except Forbidden as fault:
        refused = fault
    medium = await node.read(stored.find, media_id)
    if medium is None or medium.digest != written.digest:  # the same bytes would share the file
        await store.erase(node, media_id, written.digest)
    await node.read(_check_pending, media_id, caller.user_nid, server.clock.now_ms())
    raise refused or NotFound("There is no such medium")


async def delete(server: Server, node: Node, media_id: str) -> bool:
    """Delete a medium of the node and all that was derived from it; False when there is none.

    Raises NodeUnavailable.
    """
    medium = await node.write(_delete, node, media_id)
    if medium is None:
        return False
    await server.nodes.directory.release(Kind.MEDIA, media_id)
    if medium.digest is not None:
        await store.erase(node, media_id, medium.digest)
    return True


def uri(server: Server, media_id: str) -> str:
    """The content URI of a local medium. spec: client-server-api/#matrix-content-mxc-uris"""
    return f"mxc://{server.name}/{media_id}"


@asynccontextmanager
async def _received(server: Server, node: Node, body: Body, declared: int | None) -> AsyncIterator[store.Draft]:
    """Have the bytes of a body on the node, to be finished inside; nothing is left of them otherwise."""
    most = server.settings.media.max_upload
    if declared is not None and declared > most:
        raise _too_large(most)
    draft = await store.begin(node)
    try:
        more = True
        while more:
            room = draft.room()
            count = await body.fill(room)
            if draft.size + count > most:
                raise _too_large(most)
            await draft.took(count)
            more = count == len(room)
        yield draft
    except BaseException:
        with suppress(NodeUnavailable):
            await draft.discard()
        raise


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"An upload may have at most {most} bytes")


class Quota(NamedTuple):
    """What one user may have, all in all; None: any number. ``passing``: of what is to be deleted."""

    files: int | None
    size: int | None
    passing: bool = False


def _quota(server: Server) -> Quota | None:
    rules = server.settings.media
    return None if rules.user_files is rules.user_bytes is None else Quota(rules.user_files, rules.user_bytes)


def _passing_quota(server: Server) -> Quota:
    rules = server.settings.media
    return Quota(
        min(PASSING_FILES, PASSING_FILES if rules.user_files is None else rules.user_files),
        min(PASSING_BYTES, PASSING_BYTES if rules.user_bytes is None else rules.user_bytes),
        passing=True,
    )


async def _check_quota(tx: Transaction, user_nid: int, size: int, quota: Quota) -> None:
    """Raise Forbidden unless the user may have one more medium, of so many bytes."""
    files, total = await stored.held(tx, user_nid, passing=quota.passing)
    if quota.files is not None and files >= quota.files:
        raise Forbidden(f"You have as many files here as you may have: {quota.files}")
    if quota.size is not None and total + size > quota.size:
        raise Forbidden(f"With this you would have more than the {quota.size} bytes of files that you may have here")


async def _add(
    tx: Transaction,
    node: Node,
    quota: Quota | None,
    media_id: str,
    user_nid: int,
    content: Content,
    now_ms: int,
    until_ms: int | None,
) -> None:
    if quota is not None:  # again: others of the same user may have come meanwhile
        await _check_quota(tx, user_nid, content.size, quota)
    await stored.add(tx, media_id, user_nid, content, now_ms, until_ms)
    medium = Medium(media_id, user_nid, *content, now_ms, until_ms)
    tx.after_commit(lambda: node.memory(Known).note(medium))


async def _check_pending(tx: Transaction, media_id: str, user_nid: int, now_ms: int) -> None:
    medium = await stored.find(tx, media_id)
    if medium is None:
        raise NotFound("There is no such medium")
    if medium.user_nid != user_nid:
        raise Forbidden("Only who made this content URI may upload to it")
    if medium.size is not None or medium.expires_ts is None:
        raise CannotOverwriteMedia("This medium has been uploaded already")
    if medium.expires_ts <= now_ms:
        raise NotFound("This content URI has expired")


async def _fill(
    tx: Transaction, server: Server, node: Node, media_id: str, user_nid: int, content: Content, quota: Quota | None
) -> bool:
    if quota is not None:
        await _check_quota(tx, user_nid, content.size, quota)
    filled = await stored.fill(tx, media_id, content, server.clock.now_ms())
    if filled:
        tx.after_commit(lambda: server.wakeups.wake(arrival(node, media_id)))
    return filled


async def _delete(tx: Transaction, node: Node, media_id: str) -> stored.Medium | None:
    medium = await stored.remove(tx, media_id)
    tx.after_commit(lambda: node.memory(Known).forget(media_id))
    return medium
