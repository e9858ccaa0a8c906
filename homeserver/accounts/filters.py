"""Filters that clients upload once and name by id afterwards. spec: client-server-api/#filtering"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from homeserver.protocol import filter_schema
from homeserver.protocol.errors import NotFound, TooLarge
from homeserver.storage import filters as stored

if TYPE_CHECKING:
    from homeserver.context import Caller

MOST_FILTERS = 200
MAX_BYTES = 64 * 1024


async def add(caller: Caller, definition: dict[str, Any]) -> str:
    """The id of a filter, the same for the same definition. Raises BadJson, InvalidParam, TooLarge.

    spec: client-server-api/#post_matrixclientv3useruseridfilter
    """
    filter_schema.check(definition)
    encoded = orjson.dumps(definition, option=orjson.OPT_SORT_KEYS)
    if len(encoded) > MAX_BYTES:
        raise TooLarge(f"A filter has at most {MAX_BYTES} bytes")
    filter_id = await caller.node.write(stored.add, caller.user_nid, encoded, MOST_FILTERS)
    if filter_id is None:
        raise TooLarge(f"An account has at most {MOST_FILTERS} different filters")
    return str(filter_id)


async def find(caller: Caller, filter_id: str) -> bytes:
    """The JSON of one of the caller's filters. Raises NotFound.

    spec: client-server-api/#get_matrixclientv3useruseridfilterfilterid
    """
    number = int(filter_id) if filter_id.isascii() and filter_id.isdigit() and len(filter_id) < 10 else -1
    definition = await caller.node.read(stored.find, caller.user_nid, number)
    if definition is None:
        raise NotFound("There is no such filter")
    return definition
