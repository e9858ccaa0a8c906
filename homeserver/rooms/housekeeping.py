"""What grows with time and is of no use after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol.errors import NodeUnavailable
from homeserver.storage import client_transactions, delayed_events, events, sticky_events, to_device

if TYPE_CHECKING:
    from homeserver.context import Server


async def forget_transactions(server: Server) -> None:
    """Drop the transaction ids that no client will repeat any more, on all nodes that are up."""
    before = server.clock.now_ms() - server.settings.sessions.transaction_id_lifetime.ms
    for node in server.nodes:
        try:
            await node.write(events.forget_transactions, before)
            await node.write(client_transactions.forget, before)
            await node.write(to_device.forget_received, before)
            await node.write(delayed_events.forget, before)
            await node.write(sticky_events.forget, server.clock.now_ms())
        except NodeUnavailable:
            continue
