"""The border between our server and another one, which the policy places, or does not know."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson

from tests.deployment import FLOWING, POLICY
from tests.federation.meetings import enter
from tests.matrix.asked import Spy
from tests.matrix.rows import FAR, HERE, THERE, Column, Flow
from tests.matrix.world import Phase, World, both_ways, files, flows
from tests.network import Network
from tests.rooms import identity_server
from tests.rooms.identity_server import IdentityServer

GERMANY = FLOWING.replace("[[pins]]", '[jurisdictions.DE]\nname = "Germany"\n[[pins]]', 1)
ALONE = POLICY.partition("[nodes.paris]")[0] + '[default]\nnode = "tehran"\n' + flows("IR", "unknown")
"""The policy of the other server, which has one node: everything flows."""
PUSH, PAGES = "push.test", "pages.test"
"""A gateway that rings phones, and a web server."""
OTHERS = (THERE, PUSH, PAGES, identity_server.NAME)
SETTINGS = f"""
[policy_server]
enabled = true
[media]
url_previews = true
[third_party_invites]
identity_servers = ["{identity_server.NAME}"]
"""


@dataclass
class Servers(World):
    """Alice is at home on the node tehran of here.test, and Bob on there.test, which lets everything flow."""

    addresses: IdentityServer = field(default_factory=IdentityServer)

    def policy(self, phase: Phase) -> str:
        """What the policy of here.test says of the other server: it stands in Iran as our node does, in Germany (by its
        name, or by the end of it), or nowhere that is known."""
        if phase.column is Column.SAME:
            return GERMANY + _peers("IR", *OTHERS)
        if phase.column in (Column.ALLOWED, Column.ISOLATED):
            return GERMANY + _peers("DE", "*.test", "*.example.net") + _flows(None)
        if phase.column is Column.DENIED:
            return GERMANY + _peers("DE", *OTHERS) + _flows(phase.lacking)
        known = GERMANY + _peers("DE", "*.example") + _flows(None)
        return known + (flows("IR", "unknown") if phase.column is Column.UNKNOWN_ALLOWED else "")

    async def turn_to(self, column: Column) -> None:
        """Nothing to do: the policy alone makes the difference."""

    def left(self, side: str) -> bytes:
        """Bodies, and what was asked for."""
        targets = [each.target.encode() for each in self.network.exchanges if each.source == side]
        return b"\n".join([self.network.bytes_out(side), *targets])

    async def held(self, side: str) -> bytes:
        """The files, and what a sync shows."""
        play, user = (self.here, self.alice) if side == HERE else (self.there, self.bob)
        answer = await user.asks("GET", "/_matrix/client/v3/sync")
        assert answer.status == 200
        return orjson.dumps(answer.json) + files(play, self.network)


def _flows(lacking: Flow | None) -> str:
    """That everything flows to and from Germany, from both nodes, but for what is lacking."""
    way, name = lacking or ("", "")
    return both_ways("IR", "DE", lacking) + flows("FR", "DE", *[name] * (way == FAR)) + flows("DE", "FR")


def _peers(jurisdiction: str, *names: str) -> str:
    return "".join(f'[[peers]]\nserver = "{name}"\njurisdiction = "{jurisdiction}"\n' for name in names)


async def meet(network: Network, spy: Spy) -> Servers:
    """Found both servers and let them share a room."""
    open_to_all = GERMANY + _peers("DE", "*.test", "*.example.net") + _flows(None)
    here = await network.found(HERE, policy=open_to_all, settings=SETTINGS)
    there = await network.found(THERE, policy=ALONE, settings=SETTINGS)
    alice, bob = await here.user("alice"), await there.user("bob")
    room_id = await here.create(alice, preset="public_chat")
    await enter(there, bob, room_id, HERE)
    await network.settle()
    network.others[PUSH] = lambda *asked: (200, b'{"rejected":[]}')
    network.others[PAGES] = lambda *asked: (200, b"{}")
    made = Servers(network, spy, here, there, alice, bob, room_id)
    network.others[identity_server.NAME] = made.addresses.answer
    return made
