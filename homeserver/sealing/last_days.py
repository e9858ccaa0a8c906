"""On which day a device was used last, as its owner is shown it: no hour, no place.

Kept is a truncated tag of the day, keyed with the deployment's secret and with a salt that goes with its epoch: the
database alone says nothing, and after the end of the epoch nothing says it any more.

spec: client-server-api/#get_matrixclientv3devices
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from homeserver.sealing.noticing import DAY_MS
from homeserver.storage import sessions

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.engine import Transaction

_TAG_BYTES: Final = 6


def tag(server: Server, salt: bytes, device_nid: int, ts: int) -> bytes:
    """What is kept of the day of a moment (milliseconds since 1970) on which a device was used."""
    said = f"{device_nid}\n{ts // DAY_MS}".encode()
    key = server.identity.tag("last day", salt.hex())
    return blake2b(said, key=key, digest_size=_TAG_BYTES).digest()


async def of_user(tx: Transaction, server: Server, user_nid: int) -> dict[int, int]:
    """The beginning of the last day of each device of a resident of which it is known: device by row id, milliseconds
    since 1970."""
    found = {}
    for each in await sessions.days_of(tx, user_nid):
        first, last = each.born_ts // DAY_MS, each.ends_ts // DAY_MS
        for day in range(first - 1, last + 1):
            if tag(server, each.salt, each.device_nid, day * DAY_MS) == each.tag:
                found[each.device_nid] = day * DAY_MS
    return found
