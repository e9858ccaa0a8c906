"""Servers that answer what a test wants them to, instead of what is true."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

import orjson

from homeserver.protocol.events import Event
from homeserver.runtime.exchange import Answer, Fault, Unreachable
from homeserver.runtime.outbound import Place
from tests.federation.forging import Scene
from tests.network import Network

Lie = Callable[[str, dict[str, Any]], object]
"""What is answered to a request, by its target (decoded) and its body; None: nothing at all; a number: an error."""

PATH = "/_matrix/federation/v1"


class Liar:
    """A server that answers some requests of others itself; ``asked`` are their targets."""

    def __init__(self, network: Network, name: str) -> None:
        self.asked: list[str] = []
        self.lies: dict[str, Lie] = {}
        self._name = name
        self._network = network
        self._honest = network.carry
        network.carry = self.carry  # type: ignore[method-assign]

    def says(self, start: str, lie: Lie | object) -> None:
        """Answer requests whose path starts like this."""
        self.lies[f"{PATH}/{start}"] = lie if callable(lie) else lambda target, body: lie

    async def carry(
        self, source: str, place: Place, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        """`Network.carry`, with the lies."""
        found = next((lie for start, lie in self.lies.items() if target.startswith(start)), None)
        is_cut = frozenset((source, self._name)) in self._network._cut
        if place.targets[0].host != self._name or found is None or is_cut:
            return await self._honest(source, place, method, target, headers, body)
        self.asked.append(unquote(target.removeprefix(PATH)))
        said = found(unquote(target), orjson.loads(body) if body else {})
        if said is None:
            raise Unreachable(Fault.TIMEOUT, "no answer")
        if isinstance(said, Answer):
            return said
        if isinstance(said, int):
            return Answer(said, {}, b'{"errcode":"M_UNKNOWN","error":"no"}')
        return Answer(200, {}, said if isinstance(said, bytes) else orjson.dumps(said))

    def tells(self, *known: Event, made: Scene, without: str = "") -> None:
        """Answer for these events as an honest server would that has them, but for one path."""
        by_id = {event.event_id: event.pdu() for event in known}

        def missing(target: str, body: dict[str, Any]) -> object:
            return {"events": list(by_id.values())}

        def one(target: str, body: dict[str, Any]) -> object:
            pdu = by_id.get(target.rpartition("/")[2])
            return 404 if pdu is None else {"origin": self._name, "origin_server_ts": 1, "pdus": [pdu]}

        self.says("get_missing_events", missing)
        self.says("backfill", lambda target, body: {"pdus": list(by_id.values())})
        self.says("event/", one)
        for path in ("state_ids", "state/", "event_auth"):
            self.says(path, 404)
        self.lies.pop(f"{PATH}/{without}", None)
