"""Relations between events: which event another one is about, and how.

spec: client-server-api/#forming-relationships-between-events
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from homeserver.protocol.client_format import content_of

if TYPE_CHECKING:
    from collections.abc import Mapping

THREAD: Final = "m.thread"
REPLACE: Final = "m.replace"
REFERENCE: Final = "m.reference"

_RELATES: Final = b'"m.relates_to"'


def relation_of(content: Mapping[str, Any]) -> tuple[str, str] | None:
    """(rel_type, parent event id) of an event that relates to another."""
    relates = content.get("m.relates_to")
    if not isinstance(relates, dict):
        return None
    rel_type, parent = relates.get("rel_type"), relates.get("event_id")
    if isinstance(rel_type, str) and isinstance(parent, str) and "\0" not in rel_type + parent:
        return rel_type, parent
    return None


def may_relate(client: bytes) -> bool:
    """False: a stored event relates to nothing, so that it need not be parsed."""
    return _RELATES in client


def relation_in(client: bytes) -> tuple[str, str] | None:
    """`relation_of` a stored event (see client_format.py)."""
    return relation_of(orjson.loads(content_of(client))) if _RELATES in client else None
