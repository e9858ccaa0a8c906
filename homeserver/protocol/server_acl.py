"""Server access control lists: which servers may take part in a room, by its m.room.server_acl.

They bind the network, not the graph: an event is never rejected for one.

spec: client-server-api/#server-access-control-lists-acls-for-rooms
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol import globs, identifiers
from homeserver.protocol.errors import InvalidParam

if TYPE_CHECKING:
    from homeserver.protocol.event_view import EventCore, StateKey

SERVER_ACL: Final[StateKey] = ("m.room.server_acl", "")


def allows(event: EventCore | None, server_name: str) -> bool:
    """Whether a server may take part in a room whose m.room.server_acl is this event; anybody may if there is none.

    Neither port nor case counts. What is no server name may not.
    spec: client-server-api/#mroomserver_acl
    """
    try:
        host = identifiers.parse_server_name(server_name).host
    except InvalidParam:
        return False
    if event is None:
        return True
    is_ipv6 = ":" in host
    if event.content.get("allow_ip_literals") is False and (is_ipv6 or _is_ipv4(host)):
        return False
    name = f"[{host}]" if is_ipv6 else host
    if any(globs.whole(pattern)(name) for pattern in _patterns(event.content.get("deny"))):
        return False
    return any(globs.whole(pattern)(name) for pattern in _patterns(event.content.get("allow")))


def _patterns(listed: Any) -> Iterator[str]:
    if isinstance(listed, list | tuple):
        yield from (pattern for pattern in listed if isinstance(pattern, str))


def _is_ipv4(host: str) -> bool:
    try:
        IPv4Address(host)
    except AddressValueError:
        return False
    return True
