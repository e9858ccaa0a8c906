"""One room of an answer as bytes, in either form.

Events are spliced as they are stored; only what names the room is looked into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import orjson

from homeserver.protocol.client_format import content_of
from homeserver.protocol.event_view import MEMBER
from homeserver.rooms import showing, sight, tokens
from homeserver.sync import echoes
from homeserver.sync.sliding.request import Form

if TYPE_CHECKING:
    from homeserver.protocol.event_view import StateKey
    from homeserver.rooms.state import Timed
    from homeserver.storage.events import StoredEvent
    from homeserver.sync.sliding.telling import Draft, Telling

NAME: Final[StateKey] = ("m.room.name", "")
AVATAR: Final[StateKey] = ("m.room.avatar", "")


def text_in(rows: Mapping[int, StoredEvent], nid: int | None, field: str) -> str | None:
    """A field of the content of a state event, if it is a string that is not empty."""
    row = None if nid is None else rows.get(nid)
    return None if row is None else _text_in(row.client, field)


@lru_cache(maxsize=5000)
def _text_in(client: bytes, field: str) -> str | None:
    found = orjson.loads(content_of(client)).get(field)
    return found if isinstance(found, str) and found else None


@dataclass(slots=True)
class Entry:
    """A room with what it needs: state events by row id; the caller's own transaction ids, and what relates to events,
    by event id. ``heroes``: users with their member events, where they are told.
    """

    telling: Telling
    draft: Draft
    rows: Mapping[int, StoredEvent]
    own: Mapping[str, str]
    related: Mapping[str, bytes]
    heroes: Sequence[tuple[str, StoredEvent | None]] | None = None
    bump_stamp: int = 0

    def encoded(self, lists: Sequence[str]) -> bytes | None:
        """The JSON object of a room that the user is in, or was; None when there is nothing to say."""
        draft, since, initial = self.draft, self.telling.since, self.draft.initial
        state = self._state()
        fields = self._fields()
        if not (initial or draft.expanded or draft.events or draft.limited or state or fields):
            return None
        live = 0 if since is None else sum(event.pos > since for event in draft.events)
        parts = [self._head(lists), *fields]
        if state or initial:
            parts += (b',"required_state":[', b",".join(state), b"]")
        if initial or draft.expanded or draft.events or draft.limited:
            parts += (
                b',"timeline":[',
                b",".join(self._timeline()),
                b'],"limited":true' if draft.limited else b'],"limited":false',
                b',"prev_batch":"%s","num_live":%d'
                % (tokens.between(draft.floor, self.telling.caller.epoch).encode(), live),
            )
        if draft.expanded:
            parts.append(b',"expanded_timeline":true' if self._stable else b',"unstable_expanded_timeline":true')
        parts.append(b"}")
        return b"".join(parts)

    def invitation(self, lists: Sequence[str], stripped: bytes) -> bytes:
        """The JSON object of a room to which the user is invited, or at which they knock."""
        name = b"stripped_state" if self._stable else b"invite_state"
        return b"".join((self._head(lists), *self._direct(), b',"%s":' % name, stripped, b"}"))

    @property
    def _stable(self) -> bool:
        return self.telling.form is Form.STABLE

    def _head(self, lists: Sequence[str]) -> bytes:
        head = b'{"bump_stamp":%d' % self.bump_stamp
        if self.draft.initial:
            head += b',"initial":true'
        if self._stable:
            head += b',"membership":"%s","lists":' % self.draft.listed.membership.encode() + orjson.dumps(lists)
        return head

    # what names the room

    def _fields(self) -> list[bytes]:
        draft = self.draft
        found = self._direct()
        if self.heroes is not None:
            found.append(b',"heroes":' + orjson.dumps([_hero(user_id, row) for user_id, row in self.heroes]))
        if draft.opening is not None:
            return [draft.opening.names, *found]
        found += [*self._text(b"name", NAME, "name"), *self._text(b"avatar", AVATAR, "url")]
        if draft.joined and draft.room is not None and draft.has_moved(MEMBER):
            found.append(_counts(draft.room.now.joined, draft.room.now.invited))
        return found

    def _text(self, name: bytes, key: StateKey, field: str) -> list[bytes]:
        """A text, when it is told for the first time, or has changed; null for one that is no more."""
        if not self.draft.initial and key not in self.draft.changes:
            return []
        text = text_in(self.rows, self.draft.nid_of(key), field)
        if text is None and (self.draft.initial or not self._stable):
            return []
        return [b',"%s":' % name + orjson.dumps(text)]

    def _direct(self) -> list[bytes]:
        is_direct = self.draft.listed.room_id in self.telling.direct
        sent = self.draft.sent
        if is_direct and (self.draft.initial or sent is None or not sent.direct):
            return [b',"is_dm":true']
        if not is_direct and sent is not None and sent.direct:
            return [b',"is_dm":false']
        return []

    # its events

    def _state(self) -> list[bytes]:
        now, seen, find = self.telling.now, self.draft.seen, self.rows.get
        opening = self.draft.opening
        found = [] if opening is None else opening.at(now)
        for key, nid in self.draft.state.items():
            row = None if nid is None else find(nid)
            if row is not None:
                if seen is None and row.unsigned is None:  # nearly always, and there are hundreds in an answer
                    found.append(showing.PLAIN_STATE % (row.client, max(now - row.ts, 0)))
                else:
                    then = None if seen is None else sight.membership_at(seen, row.pos)
                    found.append(showing.show_stored(row, now, membership=then))
            elif nid is None and self._stable:
                found.append(orjson.dumps({"type": key[0], "state_key": key[1]}))
        return found

    def _timeline(self) -> list[bytes]:
        """The events. Most of them are as others were told them a moment ago."""
        events = self.draft.events
        if self.draft.seen is not None:
            return [self._shown(event) for event in events]
        related, user_id, stale = self.related, self.telling.caller.user_id, self.telling.now - showing.FRESH_MS
        return [
            event.shown[1]
            if event.shown is not None
            and event.shown[0] > stale
            and event.sender != user_id
            and event.event_id not in related
            else self._shown(event)
            for event in events
        ]

    def _shown(self, event: Timed) -> bytes:
        """An event of the timeline, with the transaction id under which the calling device sent it."""
        caller, now = self.telling.caller, self.telling.now
        related = self.related.get(event.event_id)
        membership = sight.membership_at(self.draft.seen, event.pos)
        if event.sender != caller.user_id:
            return showing.show(event, now, membership=membership, relations=related)
        own = echoes.transaction_id(caller, event, self.own)
        return showing.show(event, now, membership=membership, transaction_id=own, relations=related)


def names(name: str | None, avatar: str | None, joined: int, invited: int) -> bytes:
    """What names a room, to who is told everything: its name and avatar, if it has any, and how many are in it."""
    texts = [b',"%s":' % key + orjson.dumps(text) for key, text in ((b"name", name), (b"avatar", avatar)) if text]
    return b"".join((*texts, _counts(joined, invited)))


def _counts(joined: int, invited: int) -> bytes:
    return b',"joined_count":%d,"invited_count":%d' % (joined, invited)


def _hero(user_id: str, row: StoredEvent | None) -> dict[str, str]:
    found = {"user_id": user_id}
    content = {} if row is None else orjson.loads(content_of(row.client))
    for field in ("displayname", "avatar_url"):
        value = content.get(field)
        if isinstance(value, str):
            found[field] = value
    return found
