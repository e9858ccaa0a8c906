"""Forgets uploads that nobody asks for any more, where a jurisdiction keeps them for a while only.

That somebody asks is noted while such a retention is in force, and no longer; so nothing is deleted before the whole
time has passed since it came into force. Avatars that their owners have set are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
import structlog

from homeserver.media import store
from homeserver.media.asked import TOUCH_MS, Asked, kept_ms
from homeserver.media.download import Known
from homeserver.storage import media as stored
from homeserver.storage import profiles
from homeserver.storage.directory import Kind

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("media")

BATCH: Final = 200


async def forget_idle(server: Server, node: Node) -> None:
    """Delete what nobody has asked for as long as the node keeps it, with its routes and files. Raises
    NodeUnavailable."""
    kept, now = kept_ms(server, node), server.clock.now_ms()
    if kept is None:
        while await node.write(stored.note_no_more, BATCH):
            pass
        node.memory(Asked).noted.clear()
        return
    while await node.write(stored.begin_noting, now, BATCH):
        pass
    while gone := await node.write(_remove_idle, server, node, now - kept - TOUCH_MS, now):
        deleted = [(media_id, digest) for media_id, digest in gone if digest is not None]
        for media_id, digest in deleted:
            await server.nodes.directory.release(Kind.MEDIA, media_id)
            await store.erase(node, media_id, digest)
        log.info("forgot uploads that nobody asked for", node=node.name, files=len(deleted))


async def _remove_idle(
    tx: Transaction, server: Server, node: Node, before_ms: int, now_ms: int
) -> list[tuple[str, bytes | None]]:
    """Delete the next media that nobody has asked for; None instead of a digest for one that is kept after all."""
    found: list[tuple[str, bytes | None]] = []
    for media_id, user_nid in await stored.idle(tx, before_ms, BATCH):
        avatar = (await profiles.fields(tx, user_nid)).get("avatar_url")
        if avatar is not None and orjson.loads(avatar) == f"mxc://{server.name}/{media_id}":
            await stored.touch(tx, media_id, now_ms)
            found.append((media_id, None))
            continue
        removed = await stored.remove(tx, media_id)
        if removed is not None and removed.digest is not None:
            found.append((media_id, removed.digest))

    def forget() -> None:
        for media_id, _ in found:
            node.memory(Known).forget(media_id)

    tx.after_commit(forget)
    return found
