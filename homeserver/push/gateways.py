"""Asks push gateways: what leaves the jurisdiction by them, the residency policy is asked about, and what comes of it.

Where a gateway stands is what the policy says of a server of its name. That somebody got something, and how much they
have not read, is of the class ``notifications``; who sent what kind of event in which room is of the class ``events``.

spec: push-gateway-api/#post_matrixpushv1notify
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import orjson
import structlog

from config.residency import DataClass
from homeserver.protocol.errors import InvalidParam
from homeserver.residency import gate, places, traffic
from homeserver.runtime.exchange import Unreachable
from homeserver.runtime.outbound import place_of

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.push.notification import Pusher
    from homeserver.storage.nodes import Node

log = structlog.get_logger("push")

PATH: Final = "/_matrix/push/v1/notify"
MOST_ANSWER: Final = 64 * 1024


class Result(StrEnum):
    """What came of a notification."""

    SENT = "sent"
    REJECTED = "rejected"
    """The gateway knows that nobody is there any more."""
    WITHHELD = "withheld"
    """The residency policy does not let it go."""
    FAILED = "failed"


def check(server: Server, node: Node, url: str) -> None:
    """Refuse a gateway to which nothing may go from a node, or which is none. Raises InvalidParam, FlowDenied."""
    try:
        place, target = place_of(url)
    except Unreachable:
        raise InvalidParam(f"data.url must be an https:// URL with the path {PATH}") from None
    if target.partition("?")[0] != PATH:
        raise InvalidParam(f"data.url must be an https:// URL with the path {PATH}")
    gate.check(server, DataClass.NOTIFICATIONS, node.jurisdiction, places.of_place(server, place))


def may_have_details(server: Server, node: Node, pusher: Pusher) -> bool:
    """Whether a gateway may be told more of an event than where it is."""
    if not pusher.wants_details or not server.settings.push.details:
        return False
    try:
        place, _ = place_of(pusher.url)
    except Unreachable:
        return False
    return gate.may(server, DataClass.EVENTS, node.jurisdiction, places.of_place(server, place))


async def notify(server: Server, node: Node, pusher: Pusher, body: bytes) -> Result:
    """Give a gateway a notification for one pusher."""
    try:
        place, target = place_of(pusher.url)
        there = places.of_place(server, place)
        if not gate.may(server, DataClass.NOTIFICATIONS, node.jurisdiction, there):
            return Result.WITHHELD
        answer = await server.outbound.request(
            "POST",
            place,
            target,
            headers={"Content-Type": "application/json"},
            body=body,
            most=MOST_ANSWER,
            seconds=server.settings.push.request_timeout.seconds,
        )
    except Unreachable as fault:
        log.debug("a push gateway could not be reached", fault=fault.fault.value)
        return Result.FAILED
    traffic.count(server, node.jurisdiction, there, len(body))
    traffic.count(server, there, node.jurisdiction, len(answer.body))
    if answer.status != 200:
        log.debug("a push gateway did not take a notification", status=answer.status)
        return Result.FAILED
    return Result.REJECTED if pusher.pushkey in _rejected(answer.body) else Result.SENT


def _rejected(body: bytes) -> list[object]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    rejected = found.get("rejected") if isinstance(found, dict) else None
    return rejected if isinstance(rejected, list) else []
