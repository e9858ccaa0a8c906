"""Which addresses the server connects to of its own accord: those of the public internet, and what the operator allows.

Whoever can make the server ask an address (a peer by its DNS records, a user by a link) must not reach what stands
behind the operator's firewall. What is not known to be public is denied.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NOT_PUBLIC_4: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",  # behind the NAT of a provider
            "127.0.0.0/8",
            "169.254.0.0/16",  # link-local, and the metadata of cloud providers
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",
        ),
    )
)
_PUBLIC_6: Final = IPv6Network("2000::/3")
_NOT_PUBLIC_6: Final = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
_NAT64: Final = IPv6Network("64:ff9b::/96")


def address_of(host: str) -> Address | None:
    """The address that a host is written as, without brackets and zone; None when it is a name."""
    try:
        found = ip_address(host)
    except ValueError:
        return None
    return None if isinstance(found, IPv6Address) and found.scope_id else found


def is_denied(address: Address, allowed: Iterable[Network] = ()) -> bool:
    """Whether no connection may be made to this address. ``allowed`` are ranges exempt from the rule."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address in network for network in allowed):
        return False
    if isinstance(address, IPv4Address):
        return any(address in network for network in _NOT_PUBLIC_4)
    if address in _NAT64:
        return is_denied(IPv4Address(address.packed[12:]), allowed)
    return address not in _PUBLIC_6 or any(address in network for network in _NOT_PUBLIC_6)
