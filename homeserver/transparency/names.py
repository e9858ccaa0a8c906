"""How users are named in the key logs of a deployment, and what proves it to those who may know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.protocol.key_log import tag_of
from homeserver.runtime.lru import Lru

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.protocol.vrf import VrfKey

KEPT: Final = 20_000
"""Users whose names are remembered: working one out takes half a millisecond."""


class Names:
    """The deployment's key for such names, and those that were worked out (``directory.memory(Names)``)."""

    def __init__(self) -> None:
        self.vrf: VrfKey | None = None
        self.tags: Lru[str, bytes] = Lru(KEPT)


def key_of(server: Server) -> VrfKey:
    """What names users; its public half stands in every checkpoint."""
    names = server.nodes.directory.memory(Names)
    if names.vrf is None:
        names.vrf = server.identity.log_vrf
    return names.vrf


def tag(server: Server, user_id: str) -> bytes:
    """A user's name, 32 bytes."""
    names = server.nodes.directory.memory(Names)
    found = names.tags.get(user_id)
    if found is None:
        found = names.tags[user_id] = tag_of(key_of(server).output(user_id.encode()))
    return found


def opening(server: Server, user_id: str) -> bytes:
    """The proof that a user's name is theirs."""
    return key_of(server).prove(user_id.encode())
