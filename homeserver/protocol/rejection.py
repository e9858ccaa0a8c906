"""The one exception of the authorisation rules. It is no answer to a client: whoever asked decides what follows.

spec: server-server-api/#rejection
"""

from __future__ import annotations


class Rejected(Exception):
    """An event that the authorisation rules do not allow. ``reason`` is a sentence that a person can read."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
