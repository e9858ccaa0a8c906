"""Whom and what a change of the policy would touch: users who move, rooms that break a rule, servers that are lost.

Read page by page, and only as far as the two policies differ: what could not change is not looked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from config.placement import conditions_of
from homeserver.residency.changes import comparing
from homeserver.storage import surveys

if TYPE_CHECKING:
    from config.policy import Policy
    from homeserver.context import Server
    from homeserver.storage.nodes import Node
    from homeserver.storage.surveys import Resident

AT_ONCE = 500
"""Rows that are read together."""

NAMED = 200
"""How many of one kind are named, and covered by name by the plan's digest."""

NOWHERE = ""
"""The destination of somebody for whom the policy has no place."""


@dataclass
class Named:
    """Names of one kind: how many there are, and the first of them."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """One more."""
        self.count += 1
        if len(self.names) < NAMED:
            self.names.append(name)

    def covered(self) -> object:
        """What a plan's digest covers of them: the names, or of many how many there are, roughly."""
        return sorted(self.names) if self.count <= NAMED else self.count.bit_length()


class Move(NamedTuple):
    """Somebody who would have to move; ``target`` is `NOWHERE` when there is no place for them."""

    resident: Resident
    source: str
    target: str
    why: str


class Broken(NamedTuple):
    """A room that would break a rule: the nodes with members, other servers, and the flows that would be missing."""

    room_id: str
    nodes: list[str]
    servers: list[str]
    missing: list[dict[str, str]]


@dataclass
class Survey:
    """What was found. ``moves``: by source, target and reason."""

    moves: dict[tuple[str, str, str], Named] = field(default_factory=lambda: defaultdict(Named))
    bytes_to_copy: int = 0
    broken: list[Broken] = field(default_factory=list)
    broken_rooms: Named = field(default_factory=Named)
    healed: int = 0
    servers_lost: Named = field(default_factory=Named)
    servers_gained: Named = field(default_factory=Named)
    homes: dict[str, int] = field(default_factory=dict)
    """How many rooms are ordered by nodes that have to be left."""


# users --------------------------------------------------------------------------------------


def asks_nodes(before: Policy, after: Policy) -> bool:
    """Whether any node has to be asked, to know what the change would do."""
    different = comparing.nodes(before, after)
    return bool(
        different["gone"]
        or different["other_jurisdiction"]
        or comparing.renamed_rules(before, after)
        or asks_rooms(before, after)
    )


def asks_rooms(before: Policy, after: Policy) -> bool:
    """Whether there may be rooms that break a rule, or keep one again, though nobody moves."""
    pairs, peers = comparing.pairs(before, after), comparing.peers(before, after)
    return any(pairs.values()) or any(peers.values()) or bool(comparing.nodes(before, after)["other_jurisdiction"])


async def moves(node: Node, before: Policy, after: Policy) -> AsyncIterator[list[Move]]:
    """Those residents of a node who would have to move, page by page. Raises NodeUnavailable."""
    there = before.nodes[node.name].jurisdiction
    place = after.nodes.get(node.name)
    if place is None or place.jurisdiction != there:
        why = "node gone" if place is None else "node in another jurisdiction"
        name = ""
        while page := await node.read(surveys.residents, name, AT_ONCE):
            yield [Move(each, node.name, _target(each, there, after), why) for each in page]
            name = page[-1].user_id
        return
    for rule, (old, new) in comparing.renamed_rules(before, after).items():
        last = 0
        while old == node.name and (page := await node.read(surveys.pinned_by, rule, last, AT_ONCE)):
            yield [Move(each, node.name, new, f"pin rule {rule}") for each in page]
            last = page[-1].user_nid


def _target(resident: Resident, jurisdiction: str, after: Policy) -> str:
    """Where somebody goes whose node cannot keep them: where the rule that pinned them says, else to the first node of
    the same jurisdiction. To another jurisdiction nobody is brought but by a rule."""
    if resident.rule:
        for pin in after.pins:
            if pin.node is not None and conditions_of(pin) == resident.rule:
                return pin.node
    return next((name for name, place in after.nodes.items() if place.jurisdiction == jurisdiction), NOWHERE)


# all of it ----------------------------------------------------------------------------------


async def survey(server: Server, before: Policy, after: Policy, tell: Callable[[str], None]) -> Survey:
    """What the change would touch. ``tell`` is told how far it has come. Raises NodeUnavailable."""
    found = Survey()
    joining: dict[str, set[str]] = defaultdict(set)  # rooms that come to span a jurisdiction because somebody moves
    for node in list(server.nodes):
        if node.name not in before.nodes:
            continue
        tell(f"users of {node.name}")
        async for page in moves(node, before, after):
            await _note_moves(found, joining, node, before, after, page)
        place = after.nodes.get(node.name)
        if place is None or place.jurisdiction != before.jurisdiction_of_node(node.name):
            found.homes[node.name] = await node.read(surveys.homes, node.name)
    if asks_rooms(before, after) or joining:
        for node in list(server.nodes):
            tell(f"rooms of {node.name}")
            await _survey_rooms(found, node, before, after, joining)
            await _survey_servers(found, node, before, after)
    return found


async def of_rooms(server: Server, before: Policy, after: Policy) -> Survey:
    """What a change touches by which nobody moves: rooms, and servers that can be reached. Raises NodeUnavailable."""
    found = Survey()
    for node in list(server.nodes):
        if node.name in before.nodes:
            await _survey_rooms(found, node, before, after, {})
            await _survey_servers(found, node, before, after)
    return found


async def _note_moves(
    found: Survey, joining: dict[str, set[str]], node: Node, before: Policy, after: Policy, page: list[Move]
) -> None:
    crossing: dict[str, list[int]] = defaultdict(list)
    for move in page:
        found.moves[move.source, move.target, move.why].add(move.resident.user_id)
        if move.target != NOWHERE:
            there = after.jurisdiction_of_node(move.target)
            if there != before.jurisdiction_of_node(node.name):
                crossing[there].append(move.resident.user_nid)
    found.bytes_to_copy += await node.read(surveys.media_bytes, [move.resident.user_nid for move in page])
    for there, user_nids in crossing.items():
        for room_id in await node.read(surveys.joined, user_nids):
            joining[room_id].add(there)


async def _survey_rooms(found: Survey, node: Node, before: Policy, after: Policy, joining: dict[str, set[str]]) -> None:
    """The rooms that this node orders."""
    last = 0
    while page := await node.read(surveys.rooms, last, AT_ONCE):
        ours = {room_nid: room_id for room_nid, room_id, home in page if home == node.name}
        nodes, servers = await node.read(surveys.spans, list(ours))
        for room_nid, room_id in ours.items():
            held, others = nodes.get(room_nid, set()), servers.get(room_nid, set())
            # Who has to leave a node stays in its jurisdiction, unless a rule names another, which is in ``joining``.
            here = {before.jurisdiction_of_node(name) for name in held & before.nodes.keys()}
            was = before.room_may_span(here | {before.jurisdiction_of_server(name) for name in others})
            becomes = here | joining.get(room_id, set())
            missing = after.room_may_span(becomes | {after.jurisdiction_of_server(name) for name in others})
            if missing and not was:
                found.broken_rooms.add(room_id)
                if found.broken_rooms.count <= NAMED:
                    flows = [{"class": v.data_class.value, "from": v.source, "to": v.target} for v in missing]
                    found.broken.append(Broken(room_id, sorted(held), sorted(others)[:NAMED], flows))
            found.healed += bool(was and not missing)
        last = page[-1][0]


async def _survey_servers(found: Survey, node: Node, before: Policy, after: Policy) -> None:
    """Other servers with which this node's users can share rooms no more, or can again."""
    was = before.jurisdiction_of_node(node.name)
    becomes = after.nodes[node.name].jurisdiction if node.name in after.nodes else was
    name = ""
    while page := await node.read(surveys.servers, name, AT_ONCE):
        for server in page:
            could = not before.room_may_span({was, before.jurisdiction_of_server(server)})
            can = not after.room_may_span({becomes, after.jurisdiction_of_server(server)})
            if could != can:
                (found.servers_gained if can else found.servers_lost).add(f"{server} ({becomes})")
        name = page[-1]


def shown(found: Survey) -> dict[str, Any]:
    """A survey as JSON; of each kind at most `NAMED` are named."""
    return {
        "moves": [
            {"from": source, "to": target or None, "why": why, "count": named.count, "users": named.names}
            for (source, target, why), named in sorted(found.moves.items())
        ],
        "bytes_to_copy": found.bytes_to_copy,
        "rooms": {
            "broken": found.broken_rooms.count,
            "rooms": [room._asdict() for room in found.broken],
            "healed": found.healed,
            "ordered_by": found.homes,
        },
        "servers": {
            "lost": found.servers_lost.count,
            "lost_names": found.servers_lost.names,
            "gained": found.servers_gained.count,
            "gained_names": found.servers_gained.names,
        },
    }
