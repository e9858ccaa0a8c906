"""Spaces: the rooms that a space names, as far as somebody may see them, for our users and for other servers.

Rooms of which a node of ours holds the state are described from there; the rest is asked of the servers that the space
names, and of few of them for one page.

spec: client-server-api/#discovering-rooms-within-spaces
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from config.residency import UNKNOWN, DataClass
from homeserver.protocol.errors import FlowDenied, Forbidden, InvalidParam, NodeUnavailable, NotFound, ServerUnreachable
from homeserver.protocol.event_view import MEMBER
from homeserver.protocol.identifiers import domain_of, is_room_id, is_server_name
from homeserver.residency import gate, traffic
from homeserver.rooms import state, summaries
from homeserver.runtime.lru import Lru
from homeserver.storage import published as stored
from homeserver.storage import rooms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.context import Caller, Server
    from homeserver.rooms.summaries import Summary
    from homeserver.storage.nodes import Node

SPACE = "m.space"
MOST_CHILDREN = 500
"""Children of one space that are looked at."""
CHILDREN_TOLD = 100
"""Children of which another server is told more than that they are there."""
PAGE = 50
DEPTH = 10
MOST_SEEN = 5000
"""Rooms of one walk."""
QUESTIONS = 10
"""Questions to other servers for one page."""
WAYS = 2
"""Servers that are asked about one room."""

OPEN = frozenset(("public", "knock", "knock_restricted"))
RESTRICTED = frozenset(("restricted", "knock_restricted"))


class Child(NamedTuple):
    """What a space says of a room in it: servers through which it is found, and the stripped event that says so."""

    room_id: str
    via: tuple[str, ...]
    event: dict[str, Any]


# what a room has in it ----------------------------------------------------------------------


async def children_of(node: Node, room_nid: int, suggested_only: bool) -> list[Child]:
    """The rooms of a space whose state the node holds, in the order in which they are shown."""
    events = [orjson.loads(client + b"}") for client in await node.read(stored.children, room_nid)]
    return ordered([_stripped(event) for event in events], suggested_only)


def _stripped(event: dict[str, Any]) -> dict[str, Any]:
    return {name: event[name] for name in ("type", "state_key", "content", "sender", "origin_server_ts")}


def ordered(events: Sequence[dict[str, Any]], suggested_only: bool) -> list[Child]:
    """The children that stripped events name, in their order.

    spec: client-server-api/#ordering-of-children-within-a-space
    """
    found = []
    for event in events:
        content = event["content"]
        via = content.get("via")
        names = (
            [name for name in via if isinstance(name, str) and is_server_name(name)] if isinstance(via, list) else []
        )
        wanted = not suggested_only or content.get("suggested") is True
        if names and wanted and is_room_id(event["state_key"]):
            found.append(Child(event["state_key"], tuple(names), event))
    return sorted(found, key=_order)[:MOST_CHILDREN]


def _order(child: Child) -> tuple[bool, str, int, str]:
    order = child.event["content"].get("order")
    valid = isinstance(order, str) and len(order) <= 50 and all("\x20" <= letter <= "\x7e" for letter in order)
    return not valid, order if valid else "", child.event["origin_server_ts"], child.room_id


# for other servers --------------------------------------------------------------------------


async def for_server(server: Server, origin: str, room_id: str, suggested_only: bool) -> dict[str, Any]:
    """What another server is told of a room of ours and the rooms in it. The answer of the endpoint.

    Raises NotFound, FlowDenied, NodeUnavailable. spec: server-server-api/#get_matrixfederationv1hierarchyroomid
    """
    node = await server.nodes.of_room(room_id)
    summary = None if node is None else await summaries.find(node, room_id)
    if node is None or summary is None:
        raise NotFound("There is no such room here")
    traffic.concerns(node)
    gate.check(server, DataClass.EVENTS, node.jurisdiction, server.policy.now.jurisdiction_of_server(origin))
    if not await _open_to_server(server, node, summary, origin):
        raise NotFound("There is no such room here")
    listed = await children_of(node, summary.room_nid, suggested_only)
    children, closed = [], []
    for child in listed[:CHILDREN_TOLD]:
        found, known = await _child_for_server(server, origin, child)
        if found is not None:
            children.append(found)
        elif known:
            closed.append(child.room_id)
    room = {**described(summary), "children_state": [child.event for child in listed]}
    traffic.concerns(node, room)
    return {"room": room, "children": children, "inaccessible_children": closed}


async def _child_for_server(server: Server, origin: str, child: Child) -> tuple[dict[str, Any] | None, bool]:
    """What another server is told of a room in a space; and whether we know that it is nothing."""
    try:
        node = await server.nodes.of_room(child.room_id)
        summary = None if node is None else await summaries.find(node, child.room_id)
        if node is None or summary is None:
            return None, False
        target = server.policy.now.jurisdiction_of_server(origin)
        may_go = gate.may(server, DataClass.EVENTS, node.jurisdiction, target)
        if not may_go or not await _open_to_server(server, node, summary, origin):
            return None, True
        below = await children_of(node, summary.room_nid, False) if is_space(summary.shown) else []
    except NodeUnavailable:
        return None, False
    told = {**described(summary), "children_state": [each.event for each in below]}
    traffic.concerns(node, told)
    return told, True


async def _open_to_server(server: Server, node: Node, summary: Summary, origin: str) -> bool:
    """Whether somebody of another server could get into a room, or look into it."""
    if summary.join_rule in OPEN or summary.world_readable:
        return True
    room = await state.get(node, summary.room_id)
    if origin in room.now.servers or _invited(room.now.state, origin):
        return True
    for room_id in summary.allowed if summary.join_rule in RESTRICTED else ():
        home = await server.nodes.of_room(room_id)
        other = None if home is None else await state.find(home, room_id)
        if other is not None and origin in other.now.servers:
            return True
    return False


def _invited(entries: Mapping[tuple[str, str], state.Entry], origin: str) -> bool:
    return any(
        kind == MEMBER and entry.membership == "invite" and domain_of(key) == origin
        for (kind, key), entry in entries.items()
    )


def described(summary: Summary) -> dict[str, Any]:
    """What is said of a room in a space, but for what is in it."""
    return {**summary.shown, "allowed_room_ids": list(summary.allowed)} if summary.allowed else summary.shown


def is_space(shown: Mapping[str, Any]) -> bool:
    """Whether what is said of a room says that it is a space."""
    return shown.get("room_type") == SPACE


# for our users ------------------------------------------------------------------------------


class _Step(NamedTuple):
    """A room that is still to be visited. ``hint``: what another server has said of it already."""

    room_id: str
    via: tuple[str, ...]
    depth: int
    hint: dict[str, Any] | None = None


@dataclass(slots=True)
class Walk:
    """A walk through a space that has more pages. ``steps``: what is to come, the next one last."""

    root: str
    suggested_only: bool
    max_depth: int
    steps: list[_Step]
    seen: set[str] = field(default_factory=set)


class Walks:
    """The walks that have been begun on a node (``node.memory(Walks)``), by whose they are and a number."""

    def __init__(self) -> None:
        self.held: Lru[tuple[str, str], Walk] = Lru(100_000, lambda walk: 10 + len(walk.steps) + len(walk.seen))
        self.count = 0


@dataclass(slots=True)
class _Visit:
    """Who walks: the caller, their memberships by room id, and how many questions may still be asked."""

    server: Server
    caller: Caller
    memberships: Mapping[str, str]
    questions: int = QUESTIONS


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client asks for; None: as is usual. ``token``: from the page before."""

    suggested_only: bool = False
    limit: int | None = None
    max_depth: int | None = None
    token: str | None = None


async def hierarchy(server: Server, caller: Caller, room_id: str, wish: Wish) -> dict[str, Any]:
    """One page of a walk through a space, depth first. The answer of the endpoint.

    Raises Forbidden for a room that the caller may not see, InvalidParam for a token that is none or belongs to other
    parameters.

    spec: client-server-api/#get_matrixclientv1roomsroomidhierarchy
    """
    visit = _Visit(server, caller, await _memberships(caller))
    limit = PAGE if wish.limit is None else min(wish.limit, PAGE)
    walk = _continued(caller, room_id, wish) if wish.token is not None else _begun(room_id, wish)
    found: list[dict[str, Any]] = []
    while walk.steps and len(found) < limit and len(walk.seen) < MOST_SEEN:
        if visit.questions <= 0 and found:
            break
        step = walk.steps.pop()
        if step.room_id in walk.seen:
            continue
        walk.seen.add(step.room_id)
        entry, below = await _visited(visit, step, walk.suggested_only)
        if entry is None:
            if step.depth == 0:
                raise Forbidden("You are not allowed to view this room")
            continue
        found.append(entry)
        if step.depth < walk.max_depth:
            walk.steps += [each._replace(depth=step.depth + 1) for each in reversed(below)]
    answer: dict[str, Any] = {"rooms": found}
    if walk.steps and len(walk.seen) < MOST_SEEN:
        answer["next_batch"] = _kept(caller, walk)
    return answer


def _begun(room_id: str, wish: Wish) -> Walk:
    depth = DEPTH if wish.max_depth is None else min(wish.max_depth, DEPTH)
    return Walk(room_id, wish.suggested_only, depth, [_Step(room_id, (), 0)])


def _continued(caller: Caller, room_id: str, wish: Wish) -> Walk:
    """The walk of which a token is, as it was then: a page can be asked for again."""
    assert wish.token is not None
    walk = caller.node.memory(Walks).held.get((caller.user_id, wish.token))
    if walk is None or walk.root != room_id:
        raise InvalidParam("'from' is no token of this space")
    fresh = _begun(room_id, wish)
    if fresh.suggested_only != walk.suggested_only or fresh.max_depth != walk.max_depth:
        raise InvalidParam("suggested_only and max_depth cannot change on paginated requests")
    return Walk(walk.root, walk.suggested_only, walk.max_depth, list(walk.steps), set(walk.seen))


def _kept(caller: Caller, walk: Walk) -> str:
    walks = caller.node.memory(Walks)
    walks.count += 1
    token = f"w{walks.count}"
    walks.held[caller.user_id, token] = walk
    return token


async def _memberships(caller: Caller) -> dict[str, str]:
    return {each.room_id: each.membership for each in await caller.node.read(rooms.memberships_of, caller.user_nid)}


async def _visited(visit: _Visit, step: _Step, suggested_only: bool) -> tuple[dict[str, Any] | None, list[_Step]]:
    """What the caller is shown of a room, and where it leads; None when they may not see it."""
    node, summary = await _here(visit, step.room_id)
    if node is not None and summary is not None:
        if not may_see(described(summary), visit.memberships):
            return None, []
        children = await children_of(node, summary.room_nid, suggested_only) if is_space(summary.shown) else []
        entry = {**described(summary), "children_state": [child.event for child in children]}
        return entry, [_Step(child.room_id, child.via, 0) for child in children]
    shown, hints = await _there(visit, step, suggested_only)
    if shown is None or not may_see(shown, visit.memberships):
        return None, []
    children = ordered(shown["children_state"], suggested_only) if is_space(shown) else []
    entry = {**shown, "children_state": [child.event for child in children]}
    return entry, [_Step(child.room_id, child.via, 0, hints.get(child.room_id)) for child in children]


async def _here(visit: _Visit, room_id: str) -> tuple[Node | None, Summary | None]:
    """A room that a node of ours knows: the caller's own if it does, else its home, if it may be told from there."""
    own = visit.caller.node
    summary = await summaries.find(own, room_id)
    if summary is not None:
        return own, summary
    try:
        home = await visit.server.nodes.of_room(room_id)
        if home is None or not gate.may(visit.server, DataClass.EVENTS, home.jurisdiction, own.jurisdiction):
            return None, None
        return home, await summaries.find(home, room_id)
    except NodeUnavailable:
        return None, None


async def _there(
    visit: _Visit, step: _Step, suggested_only: bool
) -> tuple[dict[str, Any] | None, Mapping[str, dict[str, Any]]]:
    """What other servers say of a room, and of those in it."""
    if step.hint is not None and not is_space(step.hint):
        return step.hint, {}
    server, node = visit.server, visit.caller.node
    others = [name for name in dict.fromkeys(step.via) if name.lower() != server.name.lower()]
    for name in others[:WAYS]:
        if visit.questions <= 0:
            break
        visit.questions -= 1
        try:
            found = await server.remote.hierarchy(server, node, name, step.room_id, suggested_only)
        except (NotFound, ServerUnreachable, FlowDenied):
            continue
        hints = {**dict.fromkeys(found.inaccessible, _CLOSED), **found.children}
        return found.room, hints
    return step.hint, {}


_CLOSED: dict[str, Any] = {"join_rule": "invite", "world_readable": False, "children_state": []}
"""A room of which a server said that nobody of ours can get into it: it is not asked about any more."""


def may_see(shown: Mapping[str, Any], memberships: Mapping[str, str]) -> bool:
    """Whether what is said of a room is for somebody with these memberships.

    spec: client-server-api/#get_matrixclientv1roomsroomidhierarchy
    """
    if memberships.get(str(shown.get("room_id"))) in ("join", "invite") or shown.get("world_readable") is True:
        return True
    rule = shown.get("join_rule", "public")
    if rule in OPEN:
        return True
    return rule in RESTRICTED and any(
        memberships.get(room_id) == "join" for room_id in shown.get("allowed_room_ids", ())
    )


# one room -----------------------------------------------------------------------------------


async def summary(server: Server, caller: Caller, room_id: str, via: Sequence[str]) -> dict[str, Any]:
    """What a user is told of one room, from here or from one of the servers ``via``. Raises NotFound.

    spec: client-server-api/#get_matrixclientv1room_summaryroomidoralias
    """
    visit = _Visit(server, caller, await _memberships(caller))
    _, known = await _here(visit, room_id)
    shown = None if known is None else described(known)
    if known is None:
        shown, _ = await _there(visit, _Step(room_id, tuple(via), 0), False)
    if shown is None or not may_see(shown, visit.memberships):
        raise NotFound("Room not found")
    answer = {name: value for name, value in shown.items() if name != "children_state"}
    return {**answer, "membership": visit.memberships.get(room_id, "leave")}


async def summary_for_anybody(server: Server, room_id: str) -> dict[str, Any]:
    """What somebody who has not said who they are is told of a room that is here. Raises NotFound, NodeUnavailable."""
    home = await server.nodes.of_room(room_id)
    if home is None or not gate.may(server, DataClass.EVENTS, home.jurisdiction, UNKNOWN):
        raise NotFound("Room not found")
    known = await summaries.find(home, room_id)
    if known is None or not may_see({**described(known), "allowed_room_ids": []}, {}):
        raise NotFound("Room not found")
    return dict(described(known))
