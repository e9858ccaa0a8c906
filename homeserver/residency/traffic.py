"""How many bytes have crossed each border, and stayed within each jurisdiction, since the server was started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.runtime.telemetry import Counter

DEPLOYMENT: Final = "deployment"
"""Stands for a jurisdiction where bytes belong to no node, or it is not known yet to which: questions about keys and
names, and what other servers send of their own accord."""


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


def table(server: Server) -> list[dict[str, Any]]:
    """Source, target and bytes of each pair of jurisdictions, the most first."""
    pairs = sorted(_counter(server).values().items(), key=lambda pair: (-pair[1], pair[0]))
    return [{"from": source, "to": target, "bytes": int(size)} for (source, target), size in pairs]
