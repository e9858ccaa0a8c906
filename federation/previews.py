"""What another server shows of a room to those whom it invites, or who knock: checked, and stripped for clients.

In room versions that demand it, each entry is an event in federation format that its servers signed; older ones may
come stripped, and unproved.

spec: server-server-api/#inviting-to-a-room
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from federation.pdu_checks import Dropped, check_pdus
from homeserver.protocol import client_format
from homeserver.protocol.event_view import CREATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.protocol.versions import RoomRules

MOST: Final = 64
"""Entries that are looked at."""


class BadPreview(Exception):
    """A preview that the room version does not allow. The reason is for the other server."""


async def checked(server: Server, rules: RoomRules, room_id: str, entries: object, *, whole: bool) -> list[bytes]:
    """The entries as stripped state events in JSON.

    ``whole``: raise BadPreview if one is not what it should be, where the room version demands that; otherwise such
    are left out.
    """
    listed = list(entries[:MOST]) if isinstance(entries, list) else []
    results = await check_pdus(server, rules, room_id, listed, seconds=5)
    found: list[bytes] = []
    create = False
    for entry, result in zip(listed, results, strict=True):
        if not isinstance(result, Dropped) and result.state_key is not None:
            create = create or (result.type, result.state_key) == CREATE
            found.append(client_format.stripped(result.client))
            continue
        if rules.previews_are_events:
            if whole:
                raise BadPreview("An entry of the room's state is no event of the room that its server signed")
            continue
        stripped = client_format.stripped_from(entry)
        if stripped is not None and not _claims_proof(entry):
            found.append(stripped)
    if rules.previews_are_events and whole and not create:
        raise BadPreview("The m.room.create event is not among the room's state")
    return found


def _claims_proof(entry: object) -> bool:
    """Whether an entry came with signatures: then they had to be right."""
    return isinstance(entry, dict) and "signatures" in entry


def array(found: Sequence[bytes]) -> bytes:
    """A JSON array of stripped state events."""
    return b"[" + b",".join(found) + b"]"
