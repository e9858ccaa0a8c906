"""What part of an answer about keys is missing, and why: the ``failures`` of `/keys/query` and `/keys/claim`.

Clients know servers and no nodes, so what a node of ours cannot give stands under our own name.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from homeserver.protocol.errors import FlowDenied, NodeUnavailable, ServerUnreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from homeserver.context import Server


class Failures:
    """The failures of one request. ``found``: server name to error."""

    def __init__(self, server: Server) -> None:
        self._name = server.name
        self.found: dict[str, Any] = {}

    @contextmanager
    def of(self, server_name: str) -> Iterator[None]:
        """Note that another server gave no answer, or not in time, or may not be asked."""
        try:
            yield
        except (ServerUnreachable, FlowDenied) as error:
            self.found.setdefault(server_name, error.body())
        except TimeoutError:
            self.found.setdefault(server_name, ServerUnreachable(f"{server_name} gave no answer in time").body())

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
