"""What the policy holds back between two nodes holds back its own room, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from config.load import policy_from_text
from config.residency import DataClass
from homeserver.rooms import replicas
from homeserver.rooms.replicas import ParcelKind
from homeserver.storage import outbox, streams
from homeserver.storage.outbox import NewParcel
from tests.deployment import FLOWING, POLICY, Deploy, Deployment, flow
from tests.rooms.play import Cast, Play
from tests.support import ON_SQLITE, aio

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.rooms.seeding import Mark
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node
    from homeserver.storage.outbox import Parcel

KEYS_ONLY = POLICY + flow("IR", "FR", classes=["keys"])


class Carrier:
    """Ships parcels that are notes, and remembers what arrived."""

    def __init__(self, deployment: Deployment) -> None:
        self.server = deployment.server
        self.tehran, self.paris = deployment.node("tehran"), deployment.node("paris")
        self.arrived: list[str] = []
        self.kinds = {
            "event": ParcelKind(DataClass.EVENTS, self._apply),
            "key": ParcelKind(DataClass.KEYS, self._apply),
            "glimpse": ParcelKind(DataClass.EVENTS, self._apply, fleeting=True),
        }
        self._shipping: asyncio.Task[None] | None = None

    async def _apply(self, server: Server, source: Node, destination: Node, parcel: Parcel, mark: Mark) -> None:
        async def write(tx: Transaction) -> None:
            mark(tx)

        await destination.write(write)
        self.arrived.append((parcel.body or b"").decode())

    async def put(self, *notes: tuple[str, int | None, str]) -> None:
        """Queue notes: (kind, room, text)."""

        async def write(tx: Transaction) -> None:
            first = await streams.allocate(tx, len(notes))
            parcels = [NewParcel("paris", kind, room, body=text.encode()) for kind, room, text in notes]
            outbox.put(tx, first, parcels)
            tx.after_commit(lambda: self.tehran.announce(first + len(notes) - 1, []))

        await self.tehran.advance(write)

    def may(self, policy: str) -> None:
        """Put a policy in force."""
        self.server.policy.now = policy_from_text(policy, "residency.toml", self.server.name)

    async def run(self) -> list[str]:
        """Ship, from a new start, until all that may go has gone; what has arrived since the last time."""
        with self.server.wakeups.listen([("inbox", "paris")]) as listener:
            shipping = asyncio.create_task(replicas.ship(self.server, self.tehran, self.paris, self.kinds))
            await listener.wait()
        await replicas.caught_up(self.server, self.tehran, self.paris)
        shipping.cancel()
        await asyncio.wait([shipping])
        found, self.arrived = self.arrived, []
        return found

    async def left(self) -> int:
        """How many parcels wait or are held back."""
        return (await self.tehran.read(outbox.depth)).get("paris", 0)


NOTES: Sequence[tuple[str, int | None, str]] = (
    ("event", 1, "1a"),
    ("key", 2, "2a"),
    ("key", 1, "1b"),
    ("glimpse", 3, "3a"),
    ("key", None, "x"),
    ("event", 1, "1c"),
    ("key", 2, "2b"),
)


@aio
async def test_what_may_go_goes_and_what_belongs_together_stays_in_order(deploy: Deploy) -> None:
    carrier = Carrier(await deploy(policy=KEYS_ONLY))
    await carrier.put(*NOTES)
    assert await carrier.run() == ["2a", "x", "2b"]
    assert await carrier.left() == 3, "of the first room; what is fleeting was dropped"
    assert await carrier.run() == [], "nothing is shipped twice"
    await carrier.put(("key", 1, "1d"), ("key", 2, "2c"))
    assert await carrier.run() == ["2c"]
    await carrier.put(("key", 1, "1e"))
    carrier.may(FLOWING)
    assert await carrier.run() == ["1a", "1b", "1c", "1d", "1e"]
    assert await carrier.left() == 0
    await carrier.put(*NOTES)
    assert await carrier.run() == [text for _, _, text in NOTES]


@aio
async def test_a_policy_that_comes_to_allow_it_is_noticed(deploy: Deploy) -> None:
    deployment = await deploy(policy=KEYS_ONLY)
    carrier = Carrier(deployment)
    await carrier.put(*NOTES[:2])
    shipping = asyncio.create_task(replicas.ship(carrier.server, carrier.tehran, carrier.paris, carrier.kinds))
    await replicas.caught_up(carrier.server, carrier.tehran, carrier.paris)
    assert carrier.arrived == ["2a"]
    carrier.may(FLOWING)
    with carrier.server.wakeups.listen([("inbox", "paris")]) as listener:
        await deployment.clock.advance(replicas.RETRY_AFTER)
        while carrier.arrived == ["2a"]:
            await listener.wait()
    assert carrier.arrived == ["2a", "1a"]
    shipping.cancel()
    await asyncio.wait([shipping])


@aio
async def test_a_lane_that_may_go_in_part_stops_where_it_may_not(deploy: Deploy) -> None:
    carrier = Carrier(await deploy(policy=POLICY))
    await carrier.put(("key", 1, "1a"), ("event", 1, "1b"), ("key", 1, "1c"))
    assert await carrier.run() == []
    carrier.may(KEYS_ONLY)
    assert await carrier.run() == ["1a"]
    carrier.may(FLOWING)
    assert await carrier.run() == ["1b", "1c"]


@aio
async def test_a_room_is_whole_after_a_time_in_which_nothing_flowed(cast: Cast) -> None:
    play: Play = await cast()
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    flowing = play.server.policy.now
    play.server.policy.now = policy_from_text(POLICY, "residency.toml", play.server.name)
    for number in range(5):
        await play.send(alice, room_id, str(number))
    await play.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.topic", {"topic": "Roses"})
    await play.settle()
    assert await play.texts(bob, room_id) == []
    await play.end()  # and a restart
    play.server.policy.now = flowing
    await play.begin()
    await play.settle()
    await play.send(alice, room_id, "5")
    await play.assert_equal(room_id)
    assert await play.texts(bob, room_id) == [str(number) for number in range(6)]


# whose events they are ----------------------------------------------------------------------

BERLIN = """
[jurisdictions.DE]
name = "Germany"
[nodes.berlin]
jurisdiction = "DE"
database = "sqlite:berlin/node.db"
media = "file:berlin/media"
"""


def among_three(*closed: tuple[str, str]) -> str:
    """A policy by which everything flows between three jurisdictions, but from some to others."""
    places = ("IR", "FR", "DE")
    pairs = [(a, b) for a in places for b in places if a != b and (a, b) not in closed]
    flow = '[[flows]]\nfrom = "{}"\nto = ["{}"]\nclasses = ["*"]\nconsent = false\n'
    return POLICY + BERLIN + "".join(flow.format(*pair) for pair in pairs)


@ON_SQLITE
@aio
async def test_a_copy_elsewhere_is_no_way_around_the_author_s_node(cast: Cast) -> None:
    """Paris orders the room and may send to Berlin; what Alice writes in Tehran may not go there: it waits in Paris."""
    play = await cast(policy=among_three())
    alice, pierre = await play.user("alice"), await play.user("pierre", "paris")
    dieter, dora = await play.user("dieter", "berlin"), await play.user("dora", "berlin")
    room, other = await play.room_of(pierre, alice, dieter), await play.room_of(pierre, dora)
    play.server.policy.now = policy_from_text(among_three(("IR", "DE")), "residency.toml", play.server.name)
    await play.send(pierre, room, "from Paris")
    await play.send(alice, room, "from Tehran")
    await play.send(pierre, room, "and behind it")
    await play.send(pierre, other, "elsewhere")
    for user in (alice, pierre):
        await play.settle()
        assert await play.texts(user, room) == ["from Paris", "from Tehran", "and behind it"]
    assert await play.texts(dora, other) == ["elsewhere"]
    assert await play.texts(dieter, room) == ["from Paris"]
    play.server.policy.now = policy_from_text(among_three(), "residency.toml", play.server.name)
    await play.send(pierre, room, "again")
    await play.deployment.clock.advance(2)
    await play.settle()
    assert await play.texts(dieter, room) == ["from Paris", "from Tehran", "and behind it", "again"]
