"""The files of a user's media: copied one by one, and checked by their digests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from homeserver.media import reading, store
from homeserver.media.download import Known
from homeserver.protocol.errors import NotFound
from homeserver.residency.moves.journal import Impossible
from homeserver.storage import belongings
from homeserver.storage.belongings import BELONGINGS, PAGE
from homeserver.storage.media import Medium

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from homeserver.residency.moves.journal import Move
    from homeserver.storage.belongings import BelongingRow
    from homeserver.storage.engine import Param
    from homeserver.storage.nodes import Node

log = structlog.get_logger("residency.moves")

MEDIA = BELONGINGS["media"]


def medium_of(row: BelongingRow, user_nid: int) -> Medium:
    """What a row of `media` says."""
    values = belongings.values_of(MEDIA, row)
    names = ("content_type", "filename", "size", "digest", "created_ts", "expires_ts")
    return Medium(values["media_id"], user_nid, *(values[name] for name in names))  # type: ignore[arg-type]


def has_file(row: BelongingRow) -> bool:
    """Whether there is a file for a row of `media`."""
    return medium_of(row, 0).digest is not None


async def of_user(node: Node, user_nid: int) -> AsyncIterator[Medium]:
    """The media of a user of a node."""
    after: Sequence[Param] = ()
    while True:
        part, after = await node.read(belongings.page, MEDIA, user_nid, after, 0)
        for row in part:
            yield medium_of(row, user_nid)
        if len(part) < PAGE:
            return


async def copy(move: Move) -> int:
    """Copy the files that the target does not have; returns how many bytes. Raises NodeUnavailable."""
    copied = 0
    async for medium in of_user(move.source, move.user_nid):
        if medium.digest is None or medium.size is None:
            continue
        if not await store.holds(move.target, medium.media_id, medium.digest, medium.size):
            copied += await _copy(move, medium)
    return copied


async def _copy(move: Move, medium: Medium) -> int:
    try:
        content = await reading.read(move.source, medium)
    except NotFound:  # it is lost where it was, which is not the mover's doing
        log.warning("a medium's file is missing and was not copied", node=move.source.name, media_id=medium.media_id)
        return 0
    draft = await store.begin(move.target, medium.digest)
    try:
        if isinstance(content, bytes):
            await draft.add(content)
        else:
            async for piece in content:
                await draft.add(piece)
        written = await draft.finish(medium.media_id)
    except BaseException:
        await draft.discard()
        raise
    if (written.size, written.digest) != (medium.size, medium.digest):
        await store.erase(move.target, medium.media_id, written.digest)
        raise Impossible(f"the file of medium {medium.media_id} is damaged on {move.source.name}: restore or delete it")
    return written.size


async def forget(move: Move) -> None:
    """Delete the copies of files on the target of a user who does not come. Raises NodeUnavailable."""
    async for medium in of_user(move.source, move.user_nid):
        if medium.digest is not None:
            await store.erase(move.target, medium.media_id, medium.digest)


async def erase(source: Node, target: Node, user_nid: int) -> int:
    """Delete from ``source`` the files of a user who is on ``target`` now, and what was derived from them; returns how
    many. Raises NodeUnavailable."""
    erased = 0
    async for medium in of_user(target, user_nid):
        source.memory(Known).forget(medium.media_id)
        if medium.digest is not None:
            await store.erase(source, medium.media_id, medium.digest)
            erased += 1
    return erased
