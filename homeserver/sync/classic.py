"""`/sync`: what has changed for a user since a token, or everything, and waiting until something has.

Everything is read from the user's own node, up to one position; the next token is that position. An answer is spliced
from stored bytes.

spec: client-server-api/#get_matrixclientv3sync
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import orjson

from homeserver.accounts import callers, ignored, push_rules
from homeserver.context import resident_key
from homeserver.e2ee import device_lists, mailboxes, one_time_keys
from homeserver.push import unread
from homeserver.rooms import blocking, ephemeral, epochs, erasure, presence, sight, state
from homeserver.rooms.tokens import Token
from homeserver.storage import account_data, rooms
from homeserver.storage import events as stored_events
from homeserver.storage.streams import Stream
from homeserver.sync import joined, memberships
from homeserver.sync.filters import EventFilter, SyncFilter
from homeserver.sync.joined import Asked, Draft

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.rooms.epochs import Past
    from homeserver.storage.rooms import StoredMembership

TO_DEVICE_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client asks: see the parameters of the endpoint, and `Asked`. ``timeout`` in milliseconds."""

    since: Token | None
    chosen: SyncFilter
    full_state: bool = False
    timeout: int = 0
    state_after: str | None = None


@dataclass(slots=True)
class Answer:
    """The parts of an answer, encoded. ``worth`` is false while it says nothing that a client waits for."""

    next_batch: Token
    join: list[bytes] = field(default_factory=list)
    invite: list[bytes] = field(default_factory=list)
    knock: list[bytes] = field(default_factory=list)
    leave: list[bytes] = field(default_factory=list)
    account_data: Sequence[bytes] = ()
    presence: Sequence[bytes] = ()
    to_device: Sequence[bytes] = ()
    changed: Sequence[str] = ()
    left: Sequence[str] = ()
    key_counts: Mapping[str, int] = field(default_factory=dict)
    unused_fallback: Sequence[str] = ()

    @property
    def worth(self) -> bool:
        """Whether a waiting client is to be answered with this."""
        return bool(
            self.join
            or self.invite
            or self.knock
            or self.leave
            or self.account_data
            or self.presence
            or self.to_device
            or self.changed
            or self.left
        )

    def encoded(self) -> list[bytes]:
        """The JSON object of the answer."""
        parts = [b'{"next_batch":"%s"' % str(self.next_batch).encode()]
        for name, events in (
            (b"account_data", self.account_data),
            (b"presence", self.presence),
            (b"to_device", self.to_device),
        ):
            if events:
                parts += [b',"%s":{"events":[' % name, b",".join(events), b"]}"]
        if self.join or self.invite or self.knock or self.leave:
            parts += [b',"rooms":{', b",".join(self._rooms()), b"}"]
        if self.changed or self.left:
            lists = {"changed": list(self.changed), "left": list(self.left)}
            parts += [b',"device_lists":', orjson.dumps(lists)]
        parts += [
            b',"device_one_time_keys_count":',
            orjson.dumps(self.key_counts),
            b',"device_unused_fallback_key_types":',
            orjson.dumps(list(self.unused_fallback)),
            b"}",
        ]
        return parts

    def _rooms(self) -> list[bytes]:
        parts = (
            (b'"join":{', self.join),
            (b'"invite":{', self.invite),
            (b'"knock":{', self.knock),
            (b'"leave":{', self.leave),
        )
        return [b"".join((name, b",".join(entries), b"}")) for name, entries in parts if entries]


async def sync(server: Server, caller: Caller, wish: Wish) -> list[bytes]:
    """The encoded answer, at once or as soon as there is something to say, or when ``wish.timeout`` has passed.

    Raises NodeUnavailable when the user's node is down.
    """
    node = caller.node
    await node.start()
    if wish.since is not None and wish.since.position <= node.position:  # else it is none that this node has given
        is_past = epochs.is_past(caller, wish.since)
        seen = await epochs.letters(caller, wish.since) if is_past else wish.since.position
        await mailboxes.acknowledge(node, caller.device_nid, seen)
    deadline = server.clock.monotonic() + min(wish.timeout / 1000, server.settings.limits.sync_timeout.seconds)
    woken: Set[Hashable] = frozenset()
    with callers.listen(server, caller, [resident_key(node, caller.user_nid)]) as listener:
        while True:
            answer = await _look(server, caller, wish)
            await callers.stay(server, caller, listener, woken)
            left = deadline - server.clock.monotonic()
            if answer.worth or wish.since is None or wish.full_state or left <= 0:
                break
            if server.wakeups.stopping or server.wants_alone(caller.user_id):
                break
            woken = await listener.wait(left)
    answer.key_counts, answer.unused_fallback = await one_time_keys.counts(node, caller.user_nid, caller.device_nid)
    return answer.encoded()


async def _look(server: Server, caller: Caller, wish: Wish) -> Answer:
    node = caller.node
    upto = node.position
    since = None if wish.since is None else min(wish.since.position, upto)
    token = Token(upto, ephemeral.now(node))
    seen_ephemeral = 0 if wish.since is None else min(wish.since.ephemeral, token.ephemeral)
    past = None
    if wish.since is not None and epochs.is_past(caller, wish.since):
        past = await _past(caller, wish.since)
        since = seen_ephemeral = 0  # of all but timelines and letters everything is told again
    ignoring = await ignored.of_user(node, caller.user_nid)
    gone = await erasure.known(node)
    asked = Asked(server, caller, since, upto, wish.chosen, wish.full_state, wish.state_after, ignoring, gone, past)
    answer = Answer(token)
    if since is None or node.changes.changed(Stream.TO_DEVICE, caller.device_nid, since):
        behind = since or 0 if past is None else past.letters
        waiting = await mailboxes.waiting(node, caller.device_nid, behind, upto, TO_DEVICE_AT_ONCE)
        answer.to_device = [message for _, message in waiting]
        if len(waiting) == TO_DEVICE_AT_ONCE:
            # More may wait behind these: the token stays at the last one, and so does all else of this answer.
            upto = waiting[-1][0]
            answer.next_batch = token = Token(upto, token.ephemeral)
            asked = replace(asked, upto=upto)
    own_data = await _account_data(asked)
    answer.account_data = own_data.pop(account_data.GLOBAL, [])
    mine = await memberships.of_user(node, caller.user_nid)
    await _rooms(asked, mine, own_data, seen_ephemeral, answer)
    if past is not None:
        answer.changed = await device_lists.everybody(node, caller.user_nid)
    elif since is not None:
        rooms_now = [membership.room_nid for membership in mine if membership.membership == "join"]
        answer.changed, answer.left = await device_lists.changed(node, caller.user_nid, since, upto, rooms_now)
    part = wish.chosen.presence
    answer.presence = await presence.events(server, caller, part, mine, seen_ephemeral, since is None, since)
    return answer


async def _past(caller: Caller, token: Token) -> Past:
    mine = await memberships.of_user(caller.node, caller.user_nid)
    return await epochs.past(caller, token, [membership.room_nid for membership in mine])


# account data -------------------------------------------------------------------------------


async def _account_data(asked: Asked) -> dict[int, list[bytes]]:
    """Changed account data by room_nid, that of the account (and the push rules) under GLOBAL; filtered."""
    caller, since = asked.caller, asked.since
    if since is not None and not caller.node.changes.changed(Stream.ACCOUNT_DATA, caller.user_nid, since):
        return {}
    found: dict[int, list[bytes]] = {}
    for entry in await caller.node.read(account_data.since, caller.user_nid, since or 0, asked.upto):
        part = asked.chosen.account_data if entry.room_nid == account_data.GLOBAL else asked.chosen.room_account_data
        if part.takes(entry.type, caller.user_id):
            found.setdefault(entry.room_nid, []).append(
                b'{"type":' + orjson.dumps(entry.type) + b',"content":' + entry.content + b"}"
            )
    if asked.chosen.account_data.takes("m.push_rules", caller.user_id):
        rules = await push_rules.changed(caller, since, asked.upto)
        if rules is not None:
            found.setdefault(account_data.GLOBAL, []).append(b'{"type":"m.push_rules","content":' + rules + b"}")
    return found


# rooms --------------------------------------------------------------------------------------


async def _rooms(
    asked: Asked,
    mine: Sequence[StoredMembership],
    own_data: Mapping[int, Sequence[bytes]],
    seen_ephemeral: int,
    answer: Answer,
) -> None:
    since, chosen, caller = asked.since, asked.chosen, asked.caller
    told = await ephemeral.events(asked.server, caller, mine, since, asked.upto, seen_ephemeral, chosen.ephemeral)
    mine = [membership for membership in mine if chosen.has_room(membership.room_id)]
    sights = await _sights(asked, mine)
    strangers: list[StoredMembership] = []
    drafts: list[tuple[list[bytes], Draft]] = []
    for membership in mine:
        here = asked.of_room(membership.room_nid)
        if membership.membership == "join" or (
            since is not None and membership.pos > asked.upto and await _was_in(asked, membership)
        ):
            draft = await _joined(here, membership, told.get(membership.room_nid, ()), own_data, sights)
            if draft is not None:
                drafts.append((answer.join, draft))
        elif membership.membership in ("invite", "knock"):
            if since is None or asked.full_state or since < membership.pos <= asked.upto:
                strangers.append(membership)
        elif _tells_leaving(here, membership):
            left = await _left(here, membership, own_data)
            if isinstance(left, bytes):
                answer.leave.append(_entry(membership.room_id, left))
            else:
                drafts.append((answer.leave, left))
    loaded = await joined.load(caller, [draft for _, draft in drafts])
    for into, draft in drafts:
        found = await joined.finish(draft, loaded)
        if found is not None:
            into.append(_entry(draft.room.room_id, found))
    await _invitations(asked, strangers, answer)


async def _sights(asked: Asked, mine: Sequence[StoredMembership]) -> Mapping[int, sight.Sight]:
    """What the user may see of each room that they are in, read together for a client that is told everything."""
    if asked.since is not None:
        return {}
    room_nids = [membership.room_nid for membership in mine if membership.membership == "join"]
    await unread.prepare(asked.caller.node, asked.caller.user_nid, room_nids)
    return await sight.of_rooms(asked.caller.node, room_nids, asked.caller.user_id)


def _entry(room_id: str, found: bytes) -> bytes:
    return orjson.dumps(room_id) + b":" + found


def _tells_leaving(asked: Asked, membership: StoredMembership) -> bool:
    if asked.gap:
        return True
    if asked.since is None or asked.full_state:
        return asked.chosen.include_leave
    return asked.since < membership.pos <= asked.upto


async def _joined(
    asked: Asked,
    membership: StoredMembership,
    told: Sequence[bytes],
    own_data: Mapping[int, Sequence[bytes]],
    sights: Mapping[int, sight.Sight],
) -> Draft | None:
    since, room_nid = asked.since, membership.room_nid
    mine = _of_room(asked.chosen.room_account_data, membership.room_id, own_data.get(room_nid, ()))
    changes = asked.caller.node.changes
    if (
        since is not None
        and not asked.full_state
        and not told
        and not mine
        and not changes.changed(Stream.TIMELINE, room_nid, since)
        and not changes.changed(Stream.STICKY, room_nid, since)
        and not changes.changed(Stream.PRIVATE_RECEIPTS, asked.caller.user_nid, since)
    ):
        return None
    room = await state.find(asked.caller.node, membership.room_id)
    if room is None:
        return None
    seen = sights.get(room_nid)
    if seen is None and (since is None or membership.pos > since):
        seen = await sight.of_room(asked.caller.node, room, asked.caller.user_id)
    if seen is not None and membership.pos > asked.upto and seen.membership_at(asked.upto) != "join":
        return None  # they came while this answer was made: the next one tells
    # Their membership may have been renewed by a change of name: what counts is when they came to be in the room. And
    # they may have been away in between.
    start = None if since is None or (seen is not None and seen.membership_at(since) != "join") else since
    return await joined.begin(asked, room, start, seen=seen, ephemeral=told, account_data=mine, joined=True)


async def _was_in(asked: Asked, membership: StoredMembership) -> bool:
    """Whether the user was in a room at the position up to which the answer tells, though they are not now."""
    room = await state.find(asked.caller.node, membership.room_id)
    if room is None:
        return False
    seen = await sight.of_room(asked.caller.node, room, asked.caller.user_id)
    return seen.membership_at(asked.upto) == "join"


async def _left(asked: Asked, membership: StoredMembership, own_data: Mapping[int, Sequence[bytes]]) -> Draft | bytes:
    """A room that the user left, or was removed from: up to that event, and as far as they may see.

    Of what has become of their membership outside the room (a declined invitation, a ban after they had left) they
    are told by that event alone.
    """
    node = asked.caller.node
    mine = _of_room(asked.chosen.room_account_data, membership.room_id, own_data.get(membership.room_nid, ()))
    room = await state.find(node, membership.room_id)
    seen = None if room is None else await sight.of_room(node, room, asked.caller.user_id)
    left_at = None if seen is None else seen.left_at
    since = asked.since
    if room is None or seen is None or left_at is None:
        return await joined.outsider_section(asked, membership, mine)
    if since is not None and since >= left_at and not asked.full_state:
        return await joined.outsider_section(asked, membership, mine)
    until = replace(asked, upto=min(asked.upto, left_at))
    if asked.full_state:
        since = None
    elif since is not None and seen.membership_at(since) != "join":
        since = left_at - 1
    return await joined.begin(until, room, since, seen=seen, ephemeral=(), account_data=mine, joined=False)


def _of_room(part: EventFilter, room_id: str, entries: Sequence[bytes]) -> Sequence[bytes]:
    return entries if part.has_room(room_id) else ()


async def _invitations(asked: Asked, strangers: Sequence[StoredMembership], answer: Answer) -> None:
    """Rooms to which the user is invited, or at which they knock, with their stripped state."""
    caller = asked.caller
    invited = [each.event_nid for each in strangers if each.membership == "invite"]
    said = await caller.node.read(blocking.permissions, caller.user_nid) if invited else []
    if invited and (asked.ignored or said):
        sent = await caller.node.read(stored_events.by_nids, invited)
        hidden = {row.event_nid for row in sent if row.sender in asked.ignored or blocking.hides(said, row.sender)}
        strangers = [each for each in strangers if each.event_nid not in hidden]
    if not strangers:
        return
    previews = await caller.node.read(rooms.invitations, caller.user_nid, [each.room_nid for each in strangers])
    for membership in strangers:
        preview = previews.get(membership.room_nid, b"[]")
        name, into = (
            (b"invite_state", answer.invite) if membership.membership == "invite" else (b"knock_state", answer.knock)
        )
        into.append(_entry(membership.room_id, b'{"%s":{"events":' % name + preview + b"}}"))
