"""Under which transaction id the calling device has sent an event: it is told that with it, and nobody else is.

spec: client-server-api/#transaction-identifiers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from homeserver.context import Caller
    from homeserver.rooms.state import Timed


def unknown(caller: Caller, events: Iterable[Timed]) -> list[str]:
    """The ids of the caller's own events of which memory does not tell which device sent them."""
    user_id = caller.user_id
    return [event.event_id for event in events if event.sender == user_id and event.echo is None]


def transaction_id(caller: Caller, event: Timed, stored: Mapping[str, str]) -> str | None:
    """Of an event of the caller's own; None when another device sent it. ``stored``: of those that were `unknown`."""
    if event.echo is None:
        return stored.get(event.event_id)
    return event.echo[1] if event.echo[0] == caller.device_nid else None
