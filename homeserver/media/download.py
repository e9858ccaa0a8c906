"""Giving out media: to whom the policy lets them go, from the node where they rest and from nowhere else.

Those of other servers are given out from the copy of the asker's own node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from config.residency import DataClass
from homeserver.media import asked, remote_media
from homeserver.protocol.errors import NodeUnavailable, NotFound, NotYetUploaded
from homeserver.protocol.identifiers import is_media_id, is_server_name
from homeserver.residency import gate, traffic
from homeserver.runtime.lru import Lru
from homeserver.storage import media as stored

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.storage.media import Medium
    from homeserver.storage.nodes import Node

LONGEST_WAIT_MS: Final = 60_000
"""How long a download waits for an upload at most, whatever the client asks for."""
REMEMBERED: Final = 4096


class Known:
    """What is known of media on one node whose content is there: it never changes, so it is asked for once."""

    def __init__(self) -> None:
        self._media: Lru[str, Medium] = Lru(REMEMBERED)

    def find(self, media_id: str) -> Medium | None:
        """A medium that is in memory."""
        return self._media.get(media_id)

    def note(self, medium: Medium) -> None:
        """Remember a medium that has content."""
        self._media[medium.media_id] = medium

    def forget(self, media_id: str) -> None:
        """The medium has been deleted, or moved."""
        self._media.pop(media_id)


def arrival(node: Node, media_id: str) -> tuple[str, str, str]:
    """What a download of a pending medium waits for in ``server.wakeups``."""
    return ("media", node.name, media_id)


def tag(medium: Medium, variant: str = "") -> str:
    """What tells contents apart for caches: an entity tag of HTTP, with its quotes."""
    assert medium.digest is not None
    return f'"{medium.digest.hex()}{variant and "-"}{variant}"'


async def find(
    server: Server, caller: Caller, server_name: str, media_id: str, wait_ms: int = 0
) -> tuple[Node, Medium]:
    """A medium that has content, and its node; one that is pending is waited for, up to ``wait_ms`` milliseconds.

    One of another server is fetched, and is a copy on the caller's node then.

    Raises NotFound, also for what is no server name or media id; FlowDenied when media may not flow to where the
    caller is pinned; NotYetUploaded; NodeUnavailable; what `remote_media.find` raises.

    spec: client-server-api/#get_matrixclientv1mediadownloadservernamemediaid
    spec: client-server-api/#content-repo-security-considerations
    """
    if not is_server_name(server_name) or not is_media_id(media_id):
        raise NotFound("There is no such medium")
    if server_name != server.name:
        if server_name.lower() == server.name.lower():
            raise NotFound("There is no such medium")
        wait_ms = min(wait_ms, LONGEST_WAIT_MS)
        return caller.node, await remote_media.find(server, caller.node, server_name, media_id, wait_ms)
    return await local(server, media_id, caller.node.jurisdiction, wait_ms)


async def local(server: Server, media_id: str, jurisdiction: str, wait_ms: int = 0) -> tuple[Node, Medium]:
    """A medium of this deployment for somebody in ``jurisdiction``, and its node. See `find`."""
    if not is_media_id(media_id):
        raise NotFound("There is no such medium")
    node = await server.nodes.of_media(media_id)
    traffic.concerns(node)
    gate.check(server, DataClass.MEDIA, node.jurisdiction, jurisdiction)
    if not node.engine.health().up:
        raise NodeUnavailable(node.name)
    known = node.memory(Known)
    medium = known.find(media_id)
    if medium is None:
        medium = await _arrived(server, node, media_id, min(wait_ms, LONGEST_WAIT_MS))
        known.note(medium)
    await asked.note(server, node, media_id)
    return node, medium


async def _arrived(server: Server, node: Node, media_id: str, wait_ms: int) -> Medium:
    deadline = server.clock.monotonic() + wait_ms / 1000
    with server.wakeups.listen([arrival(node, media_id)]) as listener:
        while True:
            medium = await node.read(stored.find, media_id)
            if medium is None or (medium.expires_ts is not None and medium.expires_ts <= server.clock.now_ms()):
                raise NotFound("There is no such medium")
            if medium.size is not None:
                return medium
            if not await listener.wait(deadline - server.clock.monotonic()):
                raise NotYetUploaded("The content has not yet been uploaded")
