"""Asks other servers for their room directories. What an entry says is checked, since it is shown as it is.

spec: server-server-api/#published-room-directory
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from config.residency import DataClass
from federation.remote import RemoteRefusal, ask_for
from homeserver.protocol.errors import InvalidParam, ServerUnreachable
from homeserver.protocol.identifiers import is_room_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Server
    from homeserver.storage.nodes import Node

MOST_BYTES: Final = 8 * 2**20
LONGEST_TOKEN: Final = 1000

_TEXTS: Final = (
    "name",
    "topic",
    "canonical_alias",
    "avatar_url",
    "join_rule",
    "room_type",
    "room_version",
    "encryption",
)


async def public_rooms(
    server: Server, node: Node, destination: str, chosen: Mapping[str, Any], limit: int, since: str | None
) -> dict[str, Any]:
    """See `context.Remote.public_rooms`."""
    path = "/_matrix/federation/v1/publicRooms"
    if since is not None and len(since) > LONGEST_TOKEN:
        raise InvalidParam("'since' is no token of a directory")
    question: dict[str, Any] | None = None
    if chosen:
        question = {"limit": limit, "filter": dict(chosen), **({} if since is None else {"since": since})}
    else:
        path += f"?limit={limit}" + ("" if since is None else f"&since={quote(since, safe='')}")
    method = "GET" if question is None else "POST"
    try:
        answer = await ask_for(
            server,
            node,
            DataClass.EVENTS,
            destination,
            method,
            path,
            question,
            most=MOST_BYTES,
            inward=True,
            if_reachable=True,
        )
    except RemoteRefusal as refusal:
        if refusal.status == 400:
            raise InvalidParam(f"{destination} does not understand the question") from None
        raise ServerUnreachable(f"{destination} does not show its room directory") from None
    chunk = answer.get("chunk")
    entries = [entry_of(each) for each in chunk[:limit]] if isinstance(chunk, list) else []
    found: dict[str, Any] = {"chunk": [entry for entry in entries if entry is not None]}
    for name in ("next_batch", "prev_batch"):
        if isinstance(answer.get(name), str):
            found[name] = answer[name]
    if _is_count(answer.get("total_room_count_estimate")):
        found["total_room_count_estimate"] = answer["total_room_count_estimate"]
    return found


def entry_of(value: object) -> dict[str, Any] | None:
    """What an entry says of a room, as far as it has the form of that; None for what is none."""
    if not isinstance(value, dict) or not is_room_id(value.get("room_id")):
        return None
    members = value.get("num_joined_members")
    entry: dict[str, Any] = {
        "room_id": value["room_id"],
        "num_joined_members": members if _is_count(members) else 0,
        "world_readable": value.get("world_readable") is True,
        "guest_can_join": value.get("guest_can_join") is True,
    }
    for name in _TEXTS:
        if isinstance(value.get(name), str):
            entry[name] = value[name]
    return entry


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
