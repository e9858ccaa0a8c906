"""What a push gateway is told, and what it is not.

Never content: it is ciphertext, or state that a client reads for itself; of a member event alone what the membership
is. A pusher of the format ``event_id_only`` is told where to look and nothing else.

spec: push-gateway-api/#homeserver-behaviour
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from homeserver.protocol.client_format import content_of
from homeserver.protocol.event_view import MEMBER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.protocol.push_evaluation import Outcome
    from homeserver.rooms.state import Timed

EVENT_ID_ONLY: Final = "event_id_only"
ENCRYPTED: Final = "m.room.encrypted"


@dataclass(frozen=True, slots=True)
class Pusher:
    """Where notifications of one app on one device go. ``passed_on``: what its app wants to be given back."""

    app_id: str
    pushkey: str
    kind: str
    url: str
    lang: str
    set_ts: int
    passed_on: Mapping[str, Any]

    @property
    def wants_details(self) -> bool:
        """Whether it asks for more than where to look."""
        return self.passed_on.get("format") != EVENT_ID_ONLY


def pusher_of(definition: bytes, set_ts: int) -> Pusher:
    """A stored pusher. ``set_ts`` in milliseconds since 1970."""
    found = orjson.loads(definition)
    passed_on = {name: value for name, value in found["data"].items() if name != "url"}
    return Pusher(
        found["app_id"],
        found["pushkey"],
        found["kind"],
        found["data"].get("url", ""),
        found.get("lang", ""),
        set_ts,
        passed_on,
    )


@dataclass(frozen=True, slots=True)
class Due:
    """An event of which a resident is to be told. ``room_nid`` is 0 for who is outside of the room."""

    room_nid: int
    room_id: str
    pos: int
    event: Timed
    thread: str
    outcome: Outcome


class Tally(NamedTuple):
    """What a resident has not read, in all rooms."""

    unread: int
    missed_calls: int

    def as_json(self) -> dict[str, int]:
        """Without what is zero, as the specification asks."""
        return {name: value for name, value in self._asdict().items() if value}


class Names(NamedTuple):
    """What those are called whom a notification mentions, where that is known."""

    sender: str | None = None
    room: str | None = None
    alias: str | None = None


def about_event(due: Due, tally: Tally, pusher: Pusher, user_id: str, names: Names | None, clear: bool) -> bytes:
    """The body of a request about an event. ``names`` None: no details. ``clear``: content that is not encrypted is
    told too, which nobody but a test suite wants.

    spec: push-gateway-api/#post_matrixpushv1notify
    """
    device = _device(pusher)
    found: dict[str, Any] = {
        "event_id": due.event.event_id,
        "room_id": due.room_id,
        "prio": priority(due),
        "counts": tally.as_json(),
        "devices": [device],
    }
    if names is not None:
        device["tweaks"] = _tweaks(due.outcome)
        found |= _details(due, user_id, names, clear)
    return orjson.dumps({"notification": found})


def about_counts(tally: Tally, pusher: Pusher) -> bytes:
    """The body of a request that only says how much is unread: a device shows it beside the app."""
    # COMPAT(sygnal, 0.15): a count that is missing leaves the number as it was, so that nothing unread is said too.
    counts = {"unread": 0, **tally.as_json()}
    found = {"prio": "low", "counts": counts, "devices": [_device(pusher)]}
    return orjson.dumps({"notification": found})


def priority(due: Due) -> str:
    """``high`` for what the rule wants to be heard or stand out, and for what only the device can read: that may be
    what mentions its owner."""
    heard = any(isinstance(action, dict) and action.get("set_tweak") == "sound" for action in due.outcome.actions)
    return "high" if heard or due.outcome.highlight or due.event.type == ENCRYPTED else "low"


def _device(pusher: Pusher) -> dict[str, Any]:
    return {
        "app_id": pusher.app_id,
        "pushkey": pusher.pushkey,
        "pushkey_ts": pusher.set_ts // 1000,
        "data": dict(pusher.passed_on),
    }


def _tweaks(outcome: Outcome) -> dict[str, Any]:
    tweaks: dict[str, Any] = {}
    for action in outcome.actions:
        if isinstance(action, dict):
            name = action["set_tweak"]
            value = action.get("value", True if name == "highlight" else None)
            if value is not None:
                tweaks[name] = value
    return tweaks


def _details(due: Due, user_id: str, names: Names, clear: bool) -> dict[str, Any]:
    event = due.event
    found: dict[str, Any] = {
        "type": event.type,
        "sender": event.sender,
        "sender_display_name": names.sender,
        "room_name": names.room,
        "room_alias": names.alias,
    }
    if event.type == MEMBER and event.state_key is not None:
        found["user_is_target"] = event.state_key == user_id
        found["content"] = {"membership": _content(event).get("membership")}
    elif clear and event.type != ENCRYPTED:
        found["content"] = _content(event)
    return {name: value for name, value in found.items() if value is not None}


def _content(event: Timed) -> dict[str, Any]:
    content: dict[str, Any] = orjson.loads(content_of(event.client))
    return content
