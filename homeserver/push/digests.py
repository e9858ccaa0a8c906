"""Letters to those who are not there: that something waits for them, and how much; never what, nor from whom.

One letter a while after the first thing that they did not read, and no other for a long time.

spec: client-server-api/#post_matrixclientv3pushersset
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.accounts import letters
from homeserver.protocol.errors import MediumNotSupported, NotDelivered
from homeserver.protocol.threepids import EMAIL, Identifier
from homeserver.push.gateways import Result
from homeserver.storage import accounts

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.push.lines import Line
    from homeserver.push.notification import Tally
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

APP_ID: Final = "m.email"
"""The one app of such pushers."""


def delay(server: Server, line: Line) -> float:
    """Seconds until a letter may be written to who has just got something."""
    left = (line.retry_ts - server.clock.now_ms()) / 1000
    return max(server.settings.push.letter_after.seconds, left)


def next_at(server: Server) -> int:
    """When the next letter may be written, in milliseconds since 1970."""
    return server.clock.now_ms() + server.settings.push.letter_every.ms


async def is_own(tx: Transaction, user_nid: int, address: str) -> bool:
    """Whether a resident has proved to own an e-mail address."""
    found = await accounts.threepids(tx, user_nid)
    return any(each.medium == EMAIL and each.address == address for each in found)


async def send(server: Server, node: Node, line: Line, tally: Tally) -> Result:
    """Write one; to an address that is its owner's no more, none."""
    address = line.pusher.pushkey
    if not await node.read(is_own, line.owner.user_nid, address):
        return Result.REJECTED
    if not letters.may_reach(server, node, address):
        return Result.WITHHELD
    try:
        await letters.send_digest(server, Identifier(EMAIL, address), tally.unread, len(line.owner.badge.by_room))
    except MediumNotSupported:
        return Result.WITHHELD
    except NotDelivered:
        return Result.FAILED
    return Result.SENT
