"""How a plan and its progress are shown to a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def lines(plan: dict[str, Any]) -> Iterator[str]:
    """A plan in words."""
    if not plan["changed"]:
        yield f"Nothing would change: that is version {plan['in_force']['serial']}, which is in force."
        return
    yield f"Version {plan['serial']}, after version {plan['in_force']['serial']}"
    if plan["restores"] is not None:
        yield f"  the text of version {plan['restores']} again"
    yield from _nodes(plan["nodes"])
    yield from _flows(plan["flows"], plan["pairs"])
    yield from _peers(plan["peers"], plan["servers"])
    if plan["others"]:
        yield f"  changed: {', '.join(plan['others'])}"
    yield from _moves(plan)
    yield from _rooms(plan)
    for obstacle in plan["obstacles"]:
        yield f"Cannot be applied: {obstacle}"
    approvals = plan["approvals"]
    if approvals["needed"]:
        names = f" ({', '.join(approvals['given'])})" if approvals["given"] else ""
        yield f"Approvals: {len(approvals['given'])} of {approvals['needed']}{names}"
    if plan["digest"]:
        yield f"Plan {plan['digest']}"


def _nodes(nodes: dict[str, Any]) -> Iterator[str]:
    for name in nodes["new"]:
        yield f"  + node {name}"
    for name in nodes["gone"]:
        yield f"  - node {name}"
    for each in nodes["other_jurisdiction"]:
        yield f"  ~ node {each['node']}: from {each['from']} to {each['to']}"
    for name in nodes["other_storage"]:
        yield f"  ~ node {name}: another database or media store; what is there is not copied"


def _flows(flows: dict[str, Any], pairs: dict[str, Any]) -> Iterator[str]:
    for sign, kind in (("+", "gained"), ("-", "lost")):
        for flow in flows[kind]:
            yield f"  {sign} {flow['from']} -> {flow['to']}: {', '.join(flow['classes'])}"
    for flow in flows["consent_asked"]:
        yield f"  ~ {flow['from']} -> {flow['to']}: users are asked first"
    for flow in flows["consent_not_asked"]:
        yield f"  ~ {flow['from']} -> {flow['to']}: users are not asked any more"
    for one, other in pairs["opened"]:
        yield f"  + rooms between {one} and {other} can be formed"
    for one, other in pairs["closed"]:
        yield f"  - rooms between {one} and {other} can be formed no more: invitations and joins are refused"


def _peers(peers: dict[str, Any], servers: dict[str, Any]) -> Iterator[str]:
    for peer in peers["added"]:
        yield f"  + peer {peer['server']} in {peer['jurisdiction']}"
    for peer in peers["removed"]:
        yield f"  - peer {peer['server']}, which was in {peer['jurisdiction']}"
    for peer in peers["changed"]:
        yield f"  ~ peer {peer['server']}: from {peer['from']} to {peer['to']}"
    if servers["gained"]:
        yield f"  + {servers['gained']} known servers can share rooms: {_some(servers['gained_names'])}"
    if servers["lost"]:
        yield f"  - {servers['lost']} known servers can share rooms no more: {_some(servers['lost_names'])}"


def _moves(plan: dict[str, Any]) -> Iterator[str]:
    for move in plan["moves"]:
        where = move["to"] or "no place at all"
        yield f"Users that move from {move['from']} to {where} ({move['why']}): {move['count']}"
        yield f"    {_some(move['users'])}"
    if plan["bytes_to_copy"]:
        yield f"Bytes of their files: {plan['bytes_to_copy']}"


def _rooms(plan: dict[str, Any]) -> Iterator[str]:
    rooms = plan["rooms"]
    for name, count in rooms["ordered_by"].items():
        if count:
            yield f"Rooms that {name} orders, and other nodes will that have members: {count}"
    if rooms["healed"]:
        yield f"Rooms that break no rule any more: {rooms['healed']}"
    if rooms["broken"]:
        yield f"Rooms that break a rule from then on: {rooms['broken']}; {plan['what_happens_to_rooms']}"
    for room in rooms["rooms"]:
        missing = ", ".join(f"{flow['class']} {flow['from']} -> {flow['to']}" for flow in room["missing"])
        servers = f" and {_some(room['servers'])}" if room["servers"] else ""
        yield f"    {room['room_id']} on {', '.join(room['nodes']) or 'no node'}{servers}: no {missing}"


def _some(names: list[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def how_far(answer: dict[str, Any]) -> str:
    """How far the applying of a plan has come."""
    many = f": {answer['moved']} of {answer['to_move']}" if answer["to_move"] else ""
    return f"{answer['step']}{many}"
