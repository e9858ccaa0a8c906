"""Whether a transaction that waits may still be sent: what was let out when it was made is asked again, item by item,
once the policy is another one.

Invariant: what is asked of an item here is what gathering.py asks of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from config.residency import DataClass
from homeserver.application_services.sending.gathering import lets_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from config.application_services import ApplicationService
    from homeserver.context import Server
    from homeserver.storage.nodes import Node


async def may_be_sent(server: Server, node: Node, service: ApplicationService, body: bytes) -> bool:
    """Whether the policy lets all that a transaction says go to the service."""
    for data_class, owner in set(_flows(orjson.loads(body))):
        if not await lets_out(server, node, service, data_class, owner):
            return False
    return True


def _flows(said: dict[str, Any]) -> Iterator[tuple[DataClass, str | None]]:
    """The classes of what a transaction says, each with its owner where it has one."""
    for event in said["events"]:
        yield DataClass.EVENTS, event["sender"]
    for event in (*said.get("ephemeral", ()), *said.get("de.sorunome.msc2409.ephemeral", ())):
        if event["type"] == "m.presence":
            yield DataClass.PRESENCE, event["sender"]
        else:
            yield DataClass.RECEIPTS, None
            yield from ((DataClass.RECEIPTS, user_id) for user_id in _people(event))
    if said.get("de.sorunome.msc2409.to_device"):
        yield DataClass.MAILBOX, None
    lists = said.get("org.matrix.msc3202.device_lists", {})
    yield from ((DataClass.KEYS, user_id) for user_id in lists.get("changed", ()))
    if lists.get("left"):
        yield DataClass.KEYS, None


def _people(event: dict[str, Any]) -> Iterator[str]:
    """Who types, or has read."""
    if event["type"] == "m.typing":
        yield from event["content"]["user_ids"]
    else:
        for receipts in event["content"].values():
            for readers in receipts.values():
                yield from readers
