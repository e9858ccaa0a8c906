"""Annotations: a user reacts to an event with one key once, until that is redacted.

spec: client-server-api/#avoiding-duplicate-annotations
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import orjson

from homeserver.protocol.client_format import content_of
from homeserver.protocol.errors import DuplicateAnnotation
from homeserver.protocol.relations import relation_of
from homeserver.rooms import state
from homeserver.storage import relations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from typing import Any

    from homeserver.rooms.send import Draft
    from homeserver.storage.nodes import Node

ANNOTATION: Final = "m.annotation"


class UnderWay:
    """Annotations that wait for their commit on one node (``node.memory(UnderWay)``)."""

    def __init__(self) -> None:
        self.held: set[tuple[str, str, str, str, str]] = set()


def key_of(content: Mapping[str, Any]) -> str | None:
    """The key of an annotation; None for what is none."""
    relation = relation_of(content)
    key = content["m.relates_to"].get("key") if relation is not None and relation[0] == ANNOTATION else None
    return key if isinstance(key, str) else None


@asynccontextmanager
async def once(node: Node, room_id: str, draft: Draft, key: str) -> AsyncIterator[None]:
    """Keep the sender of a draft, an annotation with this key, from sending it again before it is committed.

    ``node`` is where it is ordered. Raises DuplicateAnnotation when they have sent it, NotFound without the room.
    """
    relation = relation_of(draft.content)
    assert relation is not None
    this = (room_id, relation[1], draft.type, draft.sender, key)
    held = node.memory(UnderWay).held
    if this in held:
        raise DuplicateAnnotation("You have sent this annotation already")
    held.add(this)
    try:
        room = await state.get(node, room_id)
        for client in await node.read(relations.annotations_by, room.nid, relation[1], draft.type, draft.sender):
            if key_of(orjson.loads(content_of(client))) == key:
                raise DuplicateAnnotation("You have sent this annotation already")
        yield
    finally:
        held.discard(this)
