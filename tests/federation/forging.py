"""Events as a server may invent them, and transactions with them, told to another server as if it had made them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from federation import remote
from homeserver.protocol import auth_rules, events
from homeserver.protocol.events import Event
from homeserver.rooms import state
from homeserver.rooms.send import Draft, _Core
from homeserver.rooms.state import Room
from homeserver.storage import events as stored
from homeserver.storage import graph
from homeserver.storage.events import StoredEvent, Verdict
from tests.deployment import User
from tests.federation.meetings import enter
from tests.network import Network
from tests.rooms.play import Play, ciphertext

SEND = "/_matrix/federation/v1/send"
_serial = itertools.count()


@dataclass
class Scene:
    """Alice of here.test, whose room it is, at home in Tehran; and Bob of there.test, who is in it."""

    network: Network
    here: Play
    there: Play
    alice: User
    bob: User
    room_id: str

    async def room(self, play: Play | None = None, node: str = "tehran") -> Room:
        """The room as a node has it."""
        return await state.get((play or self.here).node(node), self.room_id)

    async def forged(
        self,
        author: User,
        kind: str,
        content: dict[str, Any],
        state_key: str | None = None,
        *,
        after: Sequence[Event] = (),
        by: Play | None = None,
        **fields: Any,
    ) -> Event:
        """An event that is fine, at the tip of the room as here.test has it or ``after`` others, unless ``fields`` say
        otherwise. It is signed by the server of its author, or by that of ``by``."""
        room = await self.room()
        keys = auth_rules.auth_types_for(room.rules, _Core(Draft(kind, author.user_id, content, state_key)))
        cited = [entry.event_id for entry in (room.head.state.get(key) for key in keys) if entry is not None]
        follows = [event.event_id for event in after] or list(room.head.tips)
        draft = {
            "prev_events": follows,
            "auth_events": cited,
            "depth": max([room.head.depth, *(event.depth for event in after)]) + 1,
            "origin_server_ts": self.network.clock.now_ms(),
            "event_id": None if room.rules.event_id_is_hash else f"$forged{next(_serial)}:{domain(author)}",
            **fields,
        }
        hashes = {event.event_id: event.reference_hash for event in after}
        if not room.rules.event_id_is_hash:
            wanted = {*draft["prev_events"], *draft["auth_events"]} - hashes.keys()
            rows = await self.here.node("tehran").read(stored.by_ids, wanted)
            hashes |= {row.event_id: state.parse(room, row).reference_hash for row in rows}
            hashes |= dict.fromkeys(wanted - hashes.keys(), "unknown")
        signer = (by or self.network.plays[domain(author)]).server
        return events.build(
            room.rules,
            type=kind,
            sender=author.user_id,
            room_id=self.room_id,
            content=content,
            state_key=state_key,
            reference_hashes=hashes,
            server_name=signer.name,
            key=signer.identity.key,
            **draft,
        )

    async def message(self, text: str, **fields: Any) -> Event:
        """A message of Bob's that is fine."""
        return await self.forged(self.bob, "m.room.encrypted", ciphertext(text), **fields)

    async def tell(
        self,
        pdus: Sequence[Event | object] = (),
        edus: Sequence[object] = (),
        txn_id: str | None = None,
        *,
        by: Play | None = None,
    ) -> dict[str, Any]:
        """Send a transaction to here.test; what it answers about events, by their ids."""
        content = {
            "origin": (by or self.there).server.name,
            "origin_server_ts": self.network.clock.now_ms(),
            "pdus": [pdu.pdu() if isinstance(pdu, Event) else pdu for pdu in pdus],
            "edus": list(edus),
        }
        return await self.tell_raw(content, txn_id, by=by)

    async def tell_raw(
        self, content: Mapping[str, Any], txn_id: str | None = None, *, by: Play | None = None
    ) -> dict[str, Any]:
        """Send anything as a transaction to here.test."""
        target = f"{SEND}/{txn_id or f'forged{next(_serial)}'}"
        answer = await remote.ask((by or self.there).server, "here.test", "PUT", target, content, most=10**6)
        return dict(answer["pdus"])

    async def held(self, event: Event | str, node: str = "tehran") -> StoredEvent | None:
        """An event as here.test holds it."""
        room = await self.room(node=node)
        event_id = event if isinstance(event, str) else event.event_id
        rows = await self.here.node(node).read(graph.of_room, room.nid, [event_id])
        return rows[0] if rows else None

    async def verdict(self, event: Event | str) -> Verdict | None:
        """What the checks of here.test came to; None for what it does not have."""
        row = await self.held(event)
        return None if row is None else Verdict(row.verdict)

    def counted(self, name: str, *labels: str) -> float:
        """A number that here.test shows."""
        counter = self.here.server.telemetry._known.get(name)
        return 0 if counter is None else float(counter.value(*labels))  # type: ignore[union-attr]


def domain(user: User) -> str:
    """The server of a user."""
    return user.user_id.partition(":")[2]


async def scene(network: Network, **wish: Any) -> Scene:
    """A room that Bob has joined; ``wish`` is said when it is created."""
    here, there = await network.found("here.test"), await network.found("there.test")
    alice, bob = await here.user("alice"), await there.user("bob")
    room_id = await here.create(alice, preset="public_chat", **wish)
    await enter(there, bob, room_id, "here.test")
    await network.settle()
    return Scene(network, here, there, alice, bob, room_id)


async def third(made: Scene, name: str = "third.test") -> tuple[Play, User]:
    """One more server, with a user in the room."""
    play = await made.network.found(name)
    carol = await play.user("carol")
    await enter(play, carol, made.room_id, "here.test")
    await made.network.settle()
    return play, carol
