"""Telling people of devices that are new in their account, and of another identity: their other devices at once, and
their e-mail addresses.

Both are written in the transaction that makes it true, the letter with the addresses as they are then
(`transparency/changes.py`): no device can hinder it that is new itself. The first device of an account is no news.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog

from homeserver.accounts import letters, recipients
from homeserver.e2ee import to_device
from homeserver.protocol.errors import MediumNotSupported, NodeUnavailable, NotDelivered
from homeserver.protocol.threepids import EMAIL, Identifier
from homeserver.storage import chores
from homeserver.transparency.changes import LETTER

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from homeserver.context import Server
    from homeserver.protocol.key_log import Reason
    from homeserver.storage.chores import Chore
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("e2ee.notices")

EVENT: Final = "org.domicile.key_notice"
"""The type of the message to the other devices."""

AT_ONCE: Final = 50
PATIENCE: Final = 600
"""Seconds in which a letter that cannot be sent is tried again."""


async def tell(
    tx: Transaction,
    server: Server,
    node: Node,
    user_id: str,
    reason: Reason,
    devices: Collection[str] = (),
    *,
    but: str | None = None,
) -> None:
    """Put it into the mailboxes of a resident's devices other than those, and than ``but``, which did it.

    Only inside `Node.advance`. Usually no trip when there is none.
    """
    content = {"reason": reason.value, "devices": list(devices), "time": server.clock.now_ms() // 1000}
    mine = (await recipients.of_users(tx, node, [user_id]))[user_id]
    others = {device_id: content for device_id in mine if device_id not in devices and device_id != but}
    if others:
        await to_device.deliver_within(tx, server, node, user_id, EVENT, others)


# letters ------------------------------------------------------------------------------------


async def write_letters(server: Server) -> None:
    """Write the letters that wait, on all nodes that are up. A job."""
    for node in server.nodes:
        try:
            after = 0
            while waiting := await node.read(chores.waiting, LETTER, AT_ONCE, after):
                after = waiting[-1].chore_nid
                await _write(server, node, waiting)
        except NodeUnavailable:
            continue


async def _write(server: Server, node: Node, waiting: Sequence[Chore]) -> None:
    """One letter for each address, whatever number of devices is new."""
    by_address: dict[tuple[int, str, str], list[tuple[Chore, dict[str, Any]]]] = {}
    for chore in waiting:
        said = orjson.loads(chore.body)
        for address in said["addresses"] if letters.is_possible(server, EMAIL) else ():
            if not letters.may_reach(server, node, address):
                continue
            by_address.setdefault((chore.user_nid, address, said["reason"]), []).append((chore, said))
    failed: set[int] = set()
    for (_, address, _), told in by_address.items():
        devices = [device_id for _, said in told for device_id in said["devices"]]
        times = [f"{datetime.fromtimestamp(said['time'], UTC):%Y-%m-%d %H:%M} UTC" for _, said in told]
        try:
            await letters.send_key_notice(server, Identifier(EMAIL, address), devices, times)
        except (NotDelivered, MediumNotSupported):
            now = server.clock.now_ms() // 1000
            failed |= {chore.chore_nid for chore, said in told if now - said["time"] < PATIENCE}
            log.warning("no letter about keys could be sent", node=node.name)
    await node.write(chores.done, [each.chore_nid for each in waiting if each.chore_nid not in failed])
