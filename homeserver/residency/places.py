"""Where something stands that has a name on the web: what the policy says of a server of that name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from config.residency import UNKNOWN
from homeserver.runtime.outbound import HTTPS

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.runtime.outbound import Place


def of_host(server: Server, host: str) -> str:
    """The jurisdiction of a host, with its port if it is not the usual one: ``unknown`` for what nobody has placed.

    This deployment has several jurisdictions, so that its own name says nothing.
    """
    if host.lower() == server.name.lower():
        return UNKNOWN
    return server.policy.now.jurisdiction_of_server(host)


def of_place(server: Server, place: Place) -> str:
    """By the name with the port, when the policy has it so, or else by the name."""
    port = place.targets[0].port
    found = UNKNOWN if port == HTTPS else of_host(server, place.host)
    return of_host(server, place.certificate) if found == UNKNOWN else found
