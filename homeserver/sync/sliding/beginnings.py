"""What a new connection is told beside the state of its rooms, read in one trip for the whole answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.rooms import aggregations
from homeserver.storage import account_data, sliding
from homeserver.storage.sliding import Shown
from homeserver.sync import echoes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.storage.sliding import Beginnings
    from homeserver.sync.sliding.request import Extensions
    from homeserver.sync.sliding.selection import Selection
    from homeserver.sync.sliding.telling import Draft, Telling

EVENTS_AT_ONCE: Final = 2000
"""Events of which everything is read together."""


async def read(
    telling: Telling, selection: Selection, wanted: Extensions, drafts: Sequence[Draft]
) -> Beginnings | None:
    """What there is beside the timelines of these rooms; None when the connection is not new, when nothing is wanted
    beside rooms, and when it is too much to be read at once.
    """
    scopes = [scope for scope in (wanted.account_data, wanted.receipts) if scope is not None]
    if telling.since is not None or not scopes:
        return None
    rooms = {nid for scope in scopes for nid in selection.within(scope)}
    events = [event.event_id for draft in drafts for event in draft.events]
    if len(rooms) >= sliding.AT_ONCE or len(events) > EVENTS_AT_ONCE:
        return None
    asked = [
        (draft.room, [event for event in draft.events if event.state_key is None and not event.bare])
        for draft in drafts
        if bundles(draft) and draft.room is not None
    ]
    look = aggregations.Look([room for room, _ in asked])
    parents = [event.event_id for _, of_room in asked for event in of_room]
    own = [event_id for draft in drafts for event_id in echoes.unknown(telling.caller, draft.events)]
    caller, shown = telling.caller, Shown(events, parents, own)
    rooms.add(account_data.GLOBAL)
    asker = caller.user_nid, caller.device_nid
    found = await caller.node.read(sliding.beginnings, *asker, rooms, shown, telling.upto)
    for room, of_room in asked:
        look.note(room, of_room, found.related)
    return found


def bundles(draft: Draft) -> bool:
    """Whether events are told with what relates to them: where a timeline is not all that there is to tell."""
    return draft.limited and draft.room is not None
