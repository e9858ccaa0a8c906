"""What part of an answer about keys is missing, and why: the ``failures`` of `/keys/query` and `/keys/claim`.

Clients know servers and no nodes, so what a node of ours cannot give stands under our own name.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from homeserver.protocol.errors import FlowDenied, NodeUnavailable
from homeserver.protocol.identifiers import domain_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from homeserver.context import Server


class Failures:
    """The failures of one request. ``found``: server name to error."""

    def __init__(self, server: Server) -> None:
        self._name = server.name
        self.found: dict[str, Any] = {}

    def foreign(self, user_ids: Iterable[str]) -> None:
        """Note users of other servers, which cannot be asked."""
        for user_id in user_ids:
            self.found[domain_of(user_id)] = {
                "errcode": "M_UNKNOWN",
                "error": "This server does not federate yet",
            }

    @contextmanager
    def noting(self, own: bool) -> Iterator[None]:
        """Note that a node is down, or that the policy keeps its keys where they are; the caller's ``own`` node
        being down is no part of an answer, and raised.
        """
        try:
            yield
        except (NodeUnavailable, FlowDenied) as error:
            if own:
                raise
            self.found.setdefault(self._name, error.body())
