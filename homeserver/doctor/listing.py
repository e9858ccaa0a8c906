"""What is wrong with the federation list, if the policy believes one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from homeserver.doctor.findings import Finding
from homeserver.residency.listing import holding

if TYPE_CHECKING:
    from homeserver.context import Server

SOON: Final = 3 * 24 * 60 * 60 * 1000
"""Milliseconds before the end of a list from which on it is said."""


def examine(server: Server) -> Iterator[Finding]:
    """One finding for each thing that somebody should see to."""
    if server.policy.now.federation_list is None:
        return
    held = holding.of(server)
    if held.list is None:
        why = held.fault or "none has been fetched yet"
        words = f"`domicile federation-list pull` says why: {why}"
        yield Finding(None, "no federation list, so that servers are in unknown places", 1, words)
        return
    left = held.list.valid_until - server.clock.now_ms()
    until = datetime.fromtimestamp(held.list.valid_until / 1000, UTC).isoformat(timespec="minutes")
    if left <= SOON:
        what = "federation list that has expired" if left <= 0 else f"federation list that expires on {until}"
        words = "have whoever keeps it sign another; once it has expired its servers are in unknown places"
        yield Finding(None, what, 1, words)
    if held.fault is not None:
        yield Finding(None, "federation list that cannot be fetched any more", 1, held.fault)
    if found := holding.contradictions(server):
        names = ", ".join(each["server"] for each in found[:5])
        yield Finding(None, "servers that the policy places elsewhere than the federation list", len(found), names)
    if codes := holding.undeclared(server):
        words = f"nothing flows there: declare {', '.join(codes)} in residency.toml, or leave it so"
        yield Finding(None, "jurisdictions of the federation list that the policy does not have", len(codes), words)
