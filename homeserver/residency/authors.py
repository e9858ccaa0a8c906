"""Whose events may not leave for a jurisdiction, wherever a copy of them rests: the author's own node decides that,
beside the node that gives them away.

Nobody is looked up while all nodes may send there, as is usual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from config.residency import DataClass
from homeserver.protocol.event_view import MEMBER
from homeserver.residency import gate

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from homeserver.context import Server
    from homeserver.protocol.event_view import StateKey


def some_closed(server: Server, target: str) -> bool:
    """Whether there is a node from whose jurisdiction no events may flow to ``target``."""
    policy = server.policy.now
    return not all(policy.may(DataClass.EVENTS, node.jurisdiction, target) for node in server.nodes)


async def withheld(server: Server, target: str, user_ids: Collection[str]) -> Mapping[str, str]:
    """Those of some users who are ours and whose events may not flow to ``target``, each with their jurisdiction.

    A user on a node that the policy does not have any more is one of them. Raises NodeUnavailable of the directory.
    """
    homes = await server.nodes.of_users(user_ids)
    places = {node.name: node.jurisdiction for node in server.nodes}
    found = {user_id: places.get(name, "") for user_id, name in homes.items()}
    return {
        user_id: here for user_id, here in found.items() if not gate.may_in_time(server, DataClass.EVENTS, here, target)
    }


async def among(server: Server, target: str, state: Iterable[StateKey]) -> Mapping[str, str]:
    """`withheld` of those who ever were in a room with these entries in its state."""
    if not some_closed(server, target):
        return {}
    return await withheld(server, target, [key for kind, key in state if kind == MEMBER])


async def check(server: Server, target: str, state: Iterable[StateKey]) -> None:
    """Raise FlowDenied unless the events of all our users who ever were in a room may flow to ``target``, where its
    state is about to be shown. Raises NodeUnavailable of the directory."""
    for here in sorted(set((await among(server, target, state)).values())):
        gate.check(server, DataClass.EVENTS, here, target)
