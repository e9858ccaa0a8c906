"""How many bytes have crossed each border, and stayed within each jurisdiction, since the server was started."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Final, Self

import orjson

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.runtime.telemetry import Counter
    from homeserver.storage.nodes import Node

DEPLOYMENT: Final = "deployment"
"""Stands for a jurisdiction where bytes belong to no node, or to nodes of several jurisdictions at once: what concerns
keys of servers and names, say, or a transaction with events of many rooms. Of an answer that nodes of several
jurisdictions have put together, what frames their parts."""


def _counter(server: Server) -> Counter:
    return server.telemetry.counter(
        "domicile_federation_bytes",
        "Bytes of bodies between nodes and other servers, asked and answered, by jurisdiction.",
        ["source", "target"],
    )


def count(server: Server, source: str, target: str, size: int) -> None:
    """So many bytes went from one jurisdiction to another."""
    if size:
        _counter(server).inc(source, target, by=size)


class Account:
    """Whose the bytes are of a request that another server makes, and of its answer: found out while it is answered.

    A context manager; within it whatever looks at a node for the other server says so by `concerns`.
    """

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._token: Token[dict[str, int] | None] | None = None

    def __enter__(self) -> Self:
        self._token = _concerned.set(self._places)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _concerned.reset(self._token)

    @property
    def place(self) -> str:
        """The jurisdiction that was concerned, or `DEPLOYMENT` when it was none, or more than one."""
        return next(iter(self._places)) if len(self._places) == 1 else DEPLOYMENT

    def parts(self, size: int) -> dict[str, int]:
        """How many of the bytes of an answer come from which jurisdiction."""
        if len(self._places) <= 1:
            return {self.place: size}
        known = sum(self._places.values())
        return {**self._places, DEPLOYMENT: size - known} if known <= size else {DEPLOYMENT: size}


_concerned: ContextVar[dict[str, int] | None] = ContextVar("concerned", default=None)


def concerns(node: Node, told: object = None) -> None:
    """What is being answered to another server, if anything is, is asked of this node, or brought to it; ``told``: a
    part of the answer, as JSON, that comes from there."""
    places = _concerned.get()
    if places is not None:
        size = 0 if told is None else len(orjson.dumps(told))
        places[node.jurisdiction] = places.get(node.jurisdiction, 0) + size


def table(server: Server) -> list[dict[str, Any]]:
    """Source, target and bytes of each pair of jurisdictions, the most first."""
    pairs = sorted(_counter(server).values().items(), key=lambda pair: (-pair[1], pair[0]))
    return [{"from": source, "to": target, "bytes": int(size)} for (source, target), size in pairs]
