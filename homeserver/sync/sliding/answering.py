"""Sliding sync: answers a request at once, or as soon as there is something to say.

Everything is read from the user's own node, up to one position, which stands in the ``pos`` of the answer. What has
been told of each room is kept with the connection before the answer goes out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from homeserver.accounts import callers, ignored
from homeserver.context import resident_key
from homeserver.e2ee import mailboxes, one_time_keys
from homeserver.rooms import ephemeral, epochs, erasure
from homeserver.rooms.tokens import Token
from homeserver.sync.sliding import connections, extensions, marks, room_list, rooms, selection, writing
from homeserver.sync.sliding.connections import Change
from homeserver.sync.sliding.request import Pos
from homeserver.sync.sliding.telling import Telling

if TYPE_CHECKING:
    from collections.abc import Hashable, Set

    from homeserver.context import Caller, Server
    from homeserver.sync.sliding.connections import Standing
    from homeserver.sync.sliding.extensions import Beside
    from homeserver.sync.sliding.request import Wish
    from homeserver.sync.sliding.room_list import RoomList
    from homeserver.sync.sliding.rooms import Told
    from homeserver.sync.sliding.selection import Selection


@dataclass(frozen=True, slots=True)
class Look:
    """What there is to say at a moment."""

    token: Token
    listed: RoomList
    selection: Selection
    told: Told
    beside: Beside

    @property
    def worth(self) -> bool:
        """Whether a waiting client is to be answered with this."""
        return bool(self.told.entries) or self.beside.worth


async def answer(server: Server, caller: Caller, wish: Wish) -> list[bytes]:
    """The encoded answer to a request. Raises UnknownPos, MissingParam without a device, NodeUnavailable."""
    caller.must_have_device()
    node = caller.node
    await node.start()
    standing = await connections.find(server, caller, wish.conn_id, wish.pos)
    inbox = wish.extensions.to_device
    if inbox is not None and inbox.since is not None and inbox.since < caller.came_pos:  # they have moved since
        inbox = replace(inbox, since=await epochs.letters(caller, Token(inbox.since)))
        wish = replace(wish, extensions=replace(wish.extensions, to_device=inbox))
    if inbox is not None and inbox.since is not None and inbox.since <= node.position:
        await mailboxes.acknowledge(node, caller.device_nid, inbox.since)
    device = node, caller.user_nid, caller.device_nid
    if wish.pos is None and wish.extensions.e2ee:  # first, since it tells whether there are messages
        await one_time_keys.counts(*device)
    deadline = server.clock.monotonic() + min(wish.timeout / 1000, server.settings.limits.sync_timeout.seconds)
    woken: Set[Hashable] = frozenset()
    with callers.listen(server, caller, [resident_key(node, caller.user_nid)]) as listener:
        while True:
            look = await _look(server, caller, wish, standing)
            await callers.stay(server, caller, listener, woken)
            left = deadline - server.clock.monotonic()
            if look.worth or wish.pos is None or left <= 0:
                break
            if server.wakeups.stopping or server.wants_alone(caller.user_id):
                break
            woken = await listener.wait(left)
    counts = await one_time_keys.counts(*device) if wish.extensions.e2ee else None
    change = Change(look.told.sent, look.beside.account)
    number = await connections.keep(server, caller, wish.conn_id, wish.pos, standing, change)
    return writing.encoded(wish, Pos(number, look.token), look.listed, look.selection, look.told, look.beside, counts)


async def _look(server: Server, caller: Caller, wish: Wish, standing: Standing) -> Look:
    node = caller.node
    direct = await marks.direct(caller)  # first, since it tells whom they ignore
    ignoring = await ignored.of_user(node, caller.user_nid)
    gone = await erasure.known(node)
    while True:
        listed = await room_list.of_caller(caller)
        filtered = await selection.filtered(caller, listed, wish, standing.rooms)
        if room_list.is_current(caller, listed):
            break
    # The list, what is chosen from it and the token are of one moment: between them nothing waits.
    chosen = selection.select(listed, wish, filtered)
    token = Token(node.position, ephemeral.now(node))
    telling = Telling(
        server,
        caller,
        wish.form,
        None if wish.pos is None else wish.pos.token.position,
        token.position,
        0 if wish.pos is None else min(wish.pos.token.ephemeral, token.ephemeral),
        ignoring,
        gone,
        direct,
        server.clock.now_ms(),
    )
    told = await rooms.tell(telling, standing, chosen, listed, wish.extensions)
    beside = await extensions.tell(telling, standing, chosen, listed, wish, told)
    return Look(token, listed, chosen, told, beside)
