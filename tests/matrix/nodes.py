"""The border between two nodes of one deployment: tehran and paris, with shiraz in the same jurisdiction as tehran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import pytest

from homeserver.jobs import PARCELS
from homeserver.rooms import seeding
from homeserver.rooms.replicas import ParcelKind
from tests.deployment import POLICY, User
from tests.matrix.asked import Spy
from tests.matrix.rows import HERE, THERE, Column
from tests.matrix.world import Phase, World, both_ways, files
from tests.network import Network
from tests.residency.test_isolation import all_arrived
from tests.rooms import play as plays

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.rooms.seeding import Mark
    from homeserver.storage.nodes import Node
    from homeserver.storage.outbox import Parcel

THREE = POLICY.replace(
    "[[pins]]",
    '[nodes.shiraz]\njurisdiction = "IR"\ndatabase = "sqlite:shiraz/node.db"\nmedia = "file:shiraz/media"\n[[pins]]',
    1,
)
NODES = {Column.SAME: "shiraz"}
OTHERWISE = "paris"


class Carried(NamedTuple):
    """A parcel that was applied: its kind, from where to where it went, and what it says itself."""

    kind: str
    source: str
    target: str
    body: bytes


@dataclass
class Nodes(World):
    """Alice is at home on the node tehran, and Bob on paris, or on shiraz where both are in one jurisdiction."""

    neighbours: dict[str, tuple[User, str]] = field(default_factory=dict)
    carried: list[Carried] = field(default_factory=list)

    def policy(self, phase: Phase) -> str:
        """What flows between Iran and France; inside Iran everything does."""
        return THREE if phase.column is Column.SAME else THREE + both_ways("IR", "FR", phase.lacking)

    async def turn_to(self, column: Column) -> None:
        """Go to the node, and let what waited for it arrive."""
        self.change(Phase(Column.ALLOWED))
        self.node = NODES.get(column, OTHERWISE)
        self.bob, self.room_id = self.neighbours[self.node]
        await self.network.settle()

    def side(self, user: User) -> str:
        """Where a user is at home."""
        return HERE if user.user_id == self.alice.user_id else THERE

    def left(self, side: str) -> bytes:
        """What users of the other side were told straight from this one, and what parcels say."""
        source = "tehran" if side == HERE else self.node
        bodies = [each.body for each in self._crossed() if each.source == source]
        return b"\n".join([*self.answers.get(HERE if side == THERE else THERE, []), *bodies])

    async def held(self, side: str) -> bytes:
        """The files of the node, what a sync shows, and what its user was told."""
        name, user = ("tehran", self.alice) if side == HERE else (self.node, self.bob)
        answer = await user.asks("GET", "/_matrix/client/v3/sync")
        assert answer.status == 200
        return b"\n".join(
            [orjson.dumps(answer.json), *self.answers.get(side, []), files(self.here, self.network, name)]
        )

    async def arrived(self) -> None:
        """See `World.arrived`."""
        await all_arrived(self.here)

    async def held_elsewhere(self) -> bytes:
        """See `World.held_elsewhere`; also what the whole deployment has, where it says nothing of anybody."""
        return files(self.here, self.network, "paris", "shiraz", "directory")

    def routes(self) -> set[str]:
        """The kinds of parcels that were carried across the border."""
        return {each.kind for each in self._crossed()}

    def _crossed(self) -> list[Carried]:
        return [each for each in self.carried if {each.source, each.target} == {"tehran", self.node}]

    def begin(self) -> None:
        """See `World.begin`."""
        super().begin()
        self.carried.clear()


async def gather(network: Network, spy: Spy, patch: pytest.MonkeyPatch) -> Nodes:
    """Found a deployment of three nodes and let their users share rooms."""
    carried: list[Carried] = []
    patch.setattr(seeding, "AT_ONCE", 3)  # so that a short history is more than what a replica begins with
    patch.setattr(plays, "PARCELS", _noting(PARCELS, carried))
    here = await network.found(HERE, policy=THREE + both_ways("IR", "FR"))
    alice = await here.user("alice")
    neighbours = {}
    for name, node in (("bob", "paris"), ("bea", "shiraz")):
        user = await here.user(name, node)
        neighbours[node] = user, await here.room_of(alice, user)
    bob, room_id = neighbours[OTHERWISE]
    return Nodes(network, spy, here, here, alice, bob, room_id, neighbours=neighbours, carried=carried)


def _noting(kinds: Mapping[str, ParcelKind], carried: list[Carried]) -> dict[str, ParcelKind]:
    """The same kinds of parcels, of which each that is applied is noted."""

    def noting(name: str, kind: ParcelKind) -> ParcelKind:
        async def apply(server: Server, source: Node, destination: Node, parcel: Parcel, mark: Mark) -> Any:
            carried.append(Carried(name, source.name, destination.name, parcel.body or b""))
            return await kind.apply(server, source, destination, parcel, mark)

        return replace(kind, apply=apply)

    return {name: noting(name, kind) for name, kind in kinds.items()}
