"""The directory against the nodes: what rests on a node has a route that leads there, and a route leads to something.

What a node says is its own is believed more than the directory when that has been lost: `rebuild` makes routes anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.accounts.contacts import route_of as threepid_route
from homeserver.accounts.oauth.identities import route_of as identity_route
from homeserver.doctor.findings import Finding
from homeserver.protocol.identifiers import localpart_of
from homeserver.storage import closed_accounts, soundness
from homeserver.storage.directory import Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from homeserver.context import Server
    from homeserver.storage.nodes import Node

WORDS: Final = {
    Kind.USER: "users",
    Kind.ROOM: "rooms",
    Kind.ALIAS: "room aliases",
    Kind.MEDIA: "media",
    Kind.THREEPID: "phone numbers and addresses",
    Kind.UPSTREAM: "identities at providers",
}


async def names(node: Node, kind: Kind) -> AsyncIterator[list[str]]:
    """What rests on a node, as the directory names it, page by page. Raises NodeUnavailable."""
    after: tuple[str, ...] = ()
    while rows := await node.read(soundness.names, kind, after):
        after = rows[-1]
        if kind is Kind.USER:
            yield [localpart_of(user_id) for (user_id,) in rows]
        elif kind is Kind.THREEPID:
            yield [threepid_route(medium, address) for medium, address in rows]
        elif kind is Kind.UPSTREAM:
            yield [identity_route(provider, subject) for provider, subject in rows]
        else:
            yield [name for (name,) in rows]


async def examine(server: Server, node: Node) -> list[Finding]:
    """What is wrong with the routes to a node. Raises NodeUnavailable."""
    found = []
    directory = server.nodes.directory
    for kind in Kind:
        lost, astray, here = 0, 0, 0
        async for page in names(node, kind):
            routes = await directory.ask_all(kind, page)
            lost += len(page) - len(routes)
            here += sum(name == node.name for name in routes.values())
            astray += sum(name != node.name for name in routes.values())
        word = WORDS[kind]
        if lost:
            words = "nobody finds them: if the directory was put back, do so again with this node up"
            if kind in (Kind.THREEPID, Kind.MEDIA, Kind.ALIAS):
                words = "they were taken away after the archive was made from which the node was put back"
            found.append(Finding(node.name, f"{word} to which no route leads", lost, words))
        if astray:
            words = "`domicile residency audit` names those that may not rest here; a move may be under way"
            found.append(Finding(node.name, f"{word} whose route leads to another node", astray, words))
        total = (await directory.engine.read(soundness.route_counts)).get((kind.value, node.name), 0)
        if total > here and kind is not Kind.MEDIA:
            words = "nothing, if something is just being made; else what it led to was lost with an older database"
            found.append(Finding(node.name, f"routes of {word} that lead to nothing here", total - here, words))
    return found


async def rebuild(server: Server) -> dict[str, int]:
    """Give what rests on the nodes that are up the routes that it lacks, and lead those back that lead where it is no
    more; returns how many of each kind. Closed accounts are noted again, too. Raises NodeUnavailable."""
    made: dict[str, int] = {}
    up = [node for node in server.nodes if node.engine.health().up]
    for kind in Kind:
        for name, there in (await _unrouted(server, up, kind)).items():
            await server.nodes.directory.reroute(kind, name, there)
            made[kind.value] = made.get(kind.value, 0) + 1
    for node in up:
        after = ""
        while page := await node.read(closed_accounts.on_node, after):
            after = page[-1][0]
            for user_id, erased in page:
                await closed_accounts.note(server.nodes.directory, localpart_of(user_id), erased=erased)
    return made


async def _unrouted(server: Server, up: Sequence[Node], kind: Kind) -> dict[str, str]:
    """What has no route, or one to a node that does not have it, and a node that has it."""
    directory = server.nodes.directory
    found: dict[str, str] = {}
    astray: dict[str, str] = {}
    for node in up:
        async for page in names(node, kind):
            routes = await directory.ask_all(kind, page)
            for name in page:
                routed = routes.get(name)
                if routed != node.name:
                    found[name] = node.name
                if routed is not None and routed != node.name:
                    astray[name] = routed
    there = {node.name for node in up}
    for name, routed in list(astray.items()):
        if routed not in there:  # which nobody can ask now
            del found[name], astray[name]
    for node in up if astray else ():
        async for page in names(node, kind):
            for name in page:
                if astray.get(name) == node.name:  # it is there, too: a move is under way
                    found.pop(name, None)
    return found
