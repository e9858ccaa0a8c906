"""What a node holds besides users, once these have gone: the order of rooms, and what waits to leave it.

A node is closed only when all of that is elsewhere: who asked for it again would find nobody there.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from homeserver.protocol.errors import Conflict
from homeserver.residency.moves import homes
from homeserver.storage import moves as stored
from homeserver.storage import outbox, peers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from homeserver.context import Server
    from homeserver.storage.nodes import Node

PATIENCE: Final = 60.0
"""Seconds that what waits is given to leave a node, before somebody has to say that it is to be waited for again."""

LOOK_AGAIN: Final = 0.2
"""Seconds between two looks at what waits: it leaves by several ways, which tell nobody of their ends."""


async def obstacles(server: Server, gone: Collection[str]) -> list[str]:
    """What will not leave nodes by itself. Raises NodeUnavailable."""
    found = []
    for name in gone:
        node = server.nodes[name]
        for other, count in (await node.read(outbox.held_back)).items():
            found.append(
                f"node {name} keeps back {count} parcels for {other}, which the policy in force does not let go there;"
                " a policy before this one has to, or they are never sent"
            )
        if server.places is None or not server.places.serving:
            waits = await _what_waits(server, node)
            found += [f"node {name} {each}: start the server, which sends it" for each in waits]
    return found


async def let_go(
    server: Server, emptied: Collection[str], gone: Collection[str], tell: Callable[[str, int], None]
) -> None:
    """Have other nodes order the rooms of those that are ``emptied`` of users, and wait until nothing has to leave
    those that are ``gone``. ``tell`` is told what is being done, and of how many.

    Raises Conflict, NodeUnavailable.
    """
    for name in sorted(emptied):
        done = partial(tell, f"rooms of {name}")
        done(0)
        await homes.give_up(server, server.nodes[name], emptied, wholly=name in gone, tell=done)
    for name in sorted(gone):
        tell(f"what waits on {name}", 0)
        await _sent(server, server.nodes[name])


async def _sent(server: Server, node: Node) -> None:
    """Wait, for a bounded time, until nothing waits on a node. Raises Conflict."""
    deadline = server.clock.monotonic() + PATIENCE
    while waits := await _what_waits(server, node):
        if server.clock.monotonic() > deadline:
            raise Conflict(f"Node {node.name} {'; it '.join(waits)}. `domicile residency apply --resume` waits on")
        await server.clock.sleep(LOOK_AGAIN)


async def _what_waits(server: Server, node: Node) -> list[str]:
    """What has to leave a node, or to be erased there: the ends of sentences."""
    found = []
    coming = [row for other in server.nodes for row in await other.read(stored.arrivals) if row.source == node.name]
    if coming:
        found.append(f"has not been cleared of {len(coming)} users who were moved")
    if parcels := sum((await node.read(outbox.depth)).values()):
        found.append(f"has {parcels} parcels for other nodes")
    if servers := await node.read(peers.unsent):
        names = ", ".join(row.server for row in servers[:5])
        found.append(f"has to send something to {len(servers)} other servers ({names})")
    return found
