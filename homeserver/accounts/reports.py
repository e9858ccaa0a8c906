"""Users report events, rooms and other users to the operator.

Whoever reports learns nothing: the answer about a room or a user is the same whether there is one.

spec: client-server-api/#reporting-content
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.protocol.errors import InvalidParam, NotFound
from homeserver.protocol.identifiers import is_room_id, is_user_id
from homeserver.storage import reports as stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from homeserver.context import Caller, Server
    from homeserver.storage.nodes import Node
    from homeserver.storage.reports import Report

LONGEST_REASON: Final = 2000
"""Characters."""

MOST: Final = 200
"""Reports of one user that are kept: the newest."""


async def report_room(server: Server, caller: Caller, room_id: str, reason: str) -> None:
    """Report a room, joined or not. Raises InvalidParam.

    spec: client-server-api/#post_matrixclientv3roomsroomidreport
    """
    if not is_room_id(room_id):
        raise InvalidParam("That is no room ID")
    await add(server, caller, reason, room_id=room_id)


async def report_user(server: Server, caller: Caller, user_id: str, reason: str) -> None:
    """Report a user of any server. Raises InvalidParam.

    spec: client-server-api/#post_matrixclientv3usersuseridreport
    """
    if not is_user_id(user_id):
        raise InvalidParam("That is no user ID")
    await add(server, caller, reason, about=user_id)


async def add(
    server: Server,
    caller: Caller,
    reason: str,
    *,
    room_id: str | None = None,
    event_id: str | None = None,
    about: str | None = None,
) -> None:
    """Store a report. ``about``: the user whom, or whose event, it is about. Raises InvalidParam."""
    if len(reason) > LONGEST_REASON:
        raise InvalidParam(f"A reason has at most {LONGEST_REASON} characters")
    await caller.node.write(
        stored.add,
        caller.user_nid,
        server.clock.now_ms(),
        room_id=room_id,
        event_id=event_id,
        about=about,
        reason=reason,
        most=MOST,
    )


# for the operator -----------------------------------------------------------------------------


async def all_of(node: Node) -> AsyncIterator[Report]:
    """What the residents of a node have reported, oldest first."""
    after = 0
    while page := await node.read(stored.page, after, 100):
        for report in page:
            yield report
        after = page[-1].report_id


async def dismiss(server: Server, node_name: str, report_id: int) -> None:
    """Remove a report. Raises NotFound."""
    node = next((node for node in server.nodes if node.name == node_name), None)
    if node is None or not await node.write(stored.delete, report_id):
        raise NotFound("There is no such report")
