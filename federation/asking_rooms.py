"""Asks other servers about the graph of a room: missing events, states, authorities, history.

Answers are bounded in bytes and in number, and of the right form; that they are true is for `pdu_checks`. Those that
may be large are taken as they come (`parts.py`), so that no hostile server has us hold all that it can think of. The
policy is asked whether events may come from there to the node that asks.

spec: server-server-api/#backfilling-and-retrieving-missing-events, server-server-api/#retrieving-events
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from config.residency import DataClass
from federation import parts
from federation.remote import RemoteRefusal, ask_for
from federation.slices import Malformed
from homeserver.protocol import identifiers
from homeserver.protocol.errors import ServerUnreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from homeserver.context import Server
    from homeserver.storage.nodes import Node

    Take = Callable[[list[Any]], Awaitable[object]]
    """Takes some of what may be events in federation format, of which more may come."""

PATH: Final = "/_matrix/federation/v1"
PDU_BYTES: Final = 96 * 1024
"""Room for one event in an answer, with what a server may put beside it."""
MISSING_AT_ONCE: Final = 20
BACKFILL_AT_ONCE: Final = 100
MOST_BYTES: Final = 8 * 1024 * 1024
MOST_CHAIN_BYTES: Final = 32 * 1024 * 1024
MOST_STATE_BYTES: Final = 64 * 1024 * 1024
MOST_IDS: Final = 100_000
"""Events of a state, or of an auth chain, that a server may name."""


class StateIds(NamedTuple):
    """The state before an event, and the auth chain of that, by event ids."""

    state: list[str]
    auth_chain: list[str]


async def missing_events(
    server: Server,
    node: Node,
    destination: str,
    room_id: str,
    *,
    latest: Collection[str],
    earliest: Collection[str],
    min_depth: int = 0,
    limit: int = MISSING_AT_ONCE,
) -> list[Any]:
    """What may be events between ``earliest``, which are here, and ``latest``, at most ``limit``.

    Their order is nothing to rely on. Raises FlowDenied, ServerUnreachable.
    spec: server-server-api/#post_matrixfederationv1get_missing_eventsroomid
    """
    limit = min(limit, MISSING_AT_ONCE)
    question = {
        "earliest_events": list(earliest)[:MISSING_AT_ONCE],
        "latest_events": list(latest)[:MISSING_AT_ONCE],
        "limit": limit,
        "min_depth": max(min_depth, 0),
    }
    target = f"{PATH}/get_missing_events/{_quoted(room_id)}"
    answer = await _ask(server, node, destination, "POST", target, question, most=(limit + 1) * PDU_BYTES)
    return _listed(destination, answer, "events", limit)


async def backfill(
    server: Server, node: Node, destination: str, room_id: str, *, before: Collection[str], limit: int
) -> list[Any]:
    """What may be the events ``before`` and those that precede them, at most ``limit`` (100).

    Their order is nothing to rely on. Raises FlowDenied, ServerUnreachable.
    spec: server-server-api/#get_matrixfederationv1backfillroomid
    """
    limit = min(limit, BACKFILL_AT_ONCE)
    query = urlencode([*(("v", event_id) for event_id in list(before)[:MISSING_AT_ONCE]), ("limit", str(limit))])
    target = f"{PATH}/backfill/{_quoted(room_id)}?{query}"
    answer = await _ask(server, node, destination, "GET", target, most=MOST_BYTES)
    return _listed(destination, answer, "pdus", limit)


async def state_ids(server: Server, node: Node, destination: str, room_id: str, event_id: str) -> StateIds:
    """The state before an event. Raises FlowDenied, ServerUnreachable.

    spec: server-server-api/#get_matrixfederationv1state_idsroomid
    """
    target = f"{PATH}/state_ids/{_quoted(room_id)}?{urlencode({'event_id': event_id})}"
    found = StateIds([], [])

    async def take(name: str, ids: list[Any]) -> None:
        if not all(map(identifiers.is_event_id, ids)):
            raise ServerUnreachable(f"{destination} named events that are none")
        (found.state if name == "pdu_ids" else found.auth_chain).extend(ids)

    await _ask_large(server, node, destination, target, ("pdu_ids", "auth_chain_ids"), take, most=MOST_CHAIN_BYTES)
    return found


async def whole_state(server: Server, node: Node, destination: str, room_id: str, event_id: str, take: Take) -> None:
    """Take the state before an event, and the auth chain of that, in no order to rely on; an event may come twice.

    Raises FlowDenied, ServerUnreachable, perhaps after some of them, and what ``take`` does.
    spec: server-server-api/#get_matrixfederationv1stateroomid
    """
    target = f"{PATH}/state/{_quoted(room_id)}?{urlencode({'event_id': event_id})}"
    await _ask_large(
        server, node, destination, target, ("pdus", "auth_chain"), lambda _, pdus: take(pdus), most=MOST_STATE_BYTES
    )


async def event_auth(server: Server, node: Node, destination: str, room_id: str, event_id: str, take: Take) -> None:
    """Take what may be the auth chain of an event. Raises as `whole_state`.

    spec: server-server-api/#get_matrixfederationv1event_authroomideventid
    """
    target = f"{PATH}/event_auth/{_quoted(room_id)}/{_quoted(event_id)}"
    await _ask_large(
        server, node, destination, target, ("auth_chain",), lambda _, pdus: take(pdus), most=MOST_CHAIN_BYTES
    )


async def event(server: Server, node: Node, destination: str, event_id: str) -> Any:
    """What may be one event. Raises FlowDenied, ServerUnreachable.

    spec: server-server-api/#get_matrixfederationv1eventeventid
    """
    answer = await _ask(server, node, destination, "GET", f"{PATH}/event/{_quoted(event_id)}", most=2 * PDU_BYTES)
    found = _listed(destination, answer, "pdus", 1)
    if not found:
        raise ServerUnreachable(f"{destination} does not have that event")
    return found[0]


async def _ask(
    server: Server,
    node: Node,
    destination: str,
    method: str,
    target: str,
    content: dict[str, Any] | None = None,
    *,
    most: int,
) -> dict[str, Any]:
    try:
        return await ask_for(
            server, node, DataClass.EVENTS, destination, method, target, content, most=most, inward=True
        )
    except RemoteRefusal as refusal:
        raise ServerUnreachable(f"{destination} refused: {refusal}") from None


async def _ask_large(
    server: Server,
    node: Node,
    destination: str,
    target: str,
    lists: Collection[str],
    take: Callable[[str, list[Any]], Awaitable[object]],
    *,
    most: int,
) -> None:
    """Take long lists of an answer as they come, `MOST_IDS` elements of each at most."""
    left = dict.fromkeys(lists, MOST_IDS)
    lacking = set(lists)
    try:
        async with parts.ask_for(
            server, node, DataClass.EVENTS, destination, "GET", target, most=most, lists=lists, inward=True
        ) as answer:
            async for name, value in answer:
                if name not in left or not isinstance(value, list):
                    continue
                lacking.discard(name)
                some = value[: left[name]]
                left[name] -= len(some)
                if some:
                    await take(name, some)
    except RemoteRefusal as refusal:
        raise ServerUnreachable(f"{destination} refused: {refusal}") from None
    except Malformed as fault:
        raise ServerUnreachable(f"{destination} gave an answer that is none: {fault}") from None
    if lacking:
        raise ServerUnreachable(f"{destination} gave an answer without {', '.join(sorted(lacking))}")


def _listed(destination: str, answer: dict[str, Any], name: str, most: int) -> list[Any]:
    found = answer.get(name)
    if not isinstance(found, list):
        raise ServerUnreachable(f"{destination} gave an answer without {name}")
    return found[:most]


def _quoted(identifier: str) -> str:
    return quote(identifier, safe="")
