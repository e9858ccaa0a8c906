"""Who is using which device from where, noticed in memory: once a day for each device, address and program.

What was noticed before is known by a tag under a key that lives for a day and in this process only. What is new waits,
in the clear and in memory, until it is sealed, within a minute.
"""

from __future__ import annotations

import secrets
from collections import deque
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from homeserver.protocol.epochs import LONGEST_AGENT, SessionRecord

if TYPE_CHECKING:
    from homeserver.context import Caller, Server

DAY_MS: Final = 24 * 60 * 60 * 1000
MOST_WAITING: Final = 50_000
"""Records that wait to be sealed: what comes beyond is noticed with a later request."""
MOST_KNOWN: Final = 500_000
"""Tags that are kept: beyond, all are forgotten, and who comes again is recorded twice."""
LONGEST_ADDRESS: Final = 64
"""Characters of an address that are kept: as a proxy has said it, it may be anything."""
_TAG_BYTES: Final = 8


class Noticed(NamedTuple):
    """A record that waits, and whose it is."""

    user_nid: int
    device_nid: int
    record: SessionRecord


class Notices:
    """What was noticed on a node (``node.memory(Notices)``)."""

    def __init__(self) -> None:
        self.waiting: deque[Noticed] = deque()
        self._day = -1
        self._key = b""
        self._known: set[bytes] = set()

    def forget(self) -> None:
        """Forget all of it: who comes again is noticed again."""
        self.waiting.clear()
        self._known.clear()

    def notice(self, caller: Caller, address: str, agent: str, now_ms: int) -> None:
        """A device is being used. ``address``, ``agent``: as its request says."""
        day = now_ms // DAY_MS
        if day != self._day:
            self._day = day
            self._key = secrets.token_bytes(32)
            self._known.clear()
        said = f"{caller.user_nid}\n{caller.device_id}\n{address}\n{agent}".encode(errors="replace")
        tag = blake2b(said, key=self._key, digest_size=_TAG_BYTES).digest()
        if tag in self._known or len(self.waiting) >= MOST_WAITING:
            return
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known.add(tag)
        record = SessionRecord(
            caller.user_id, caller.device_id, _text(address, LONGEST_ADDRESS), _text(agent, LONGEST_AGENT), now_ms
        )
        self.waiting.append(Noticed(caller.user_nid, caller.device_nid, record))

    def take(self, most: int) -> list[Noticed]:
        """The next records that wait, which wait no longer."""
        return [self.waiting.popleft() for _ in range(min(most, len(self.waiting)))]


def _text(said: str, most: int) -> str:
    """What somebody has sent, cut, and without what could not be written down."""
    return said[:most].encode(errors="replace").decode()


class Sent(Protocol):
    """A request, as far as it says from where and by what it was sent."""

    address: str

    def header(self, name: str) -> str | None:
        """The value of a header."""


def notice(server: Server, caller: Caller, request: Sent) -> None:
    """A device of somebody is being used; by an application service, nobody's is."""
    node = caller.node
    if caller.service is None and server.policy.now.disclosure(node.jurisdiction).custodians:
        agent = request.header("User-Agent") or ""
        node.memory(Notices).notice(caller, request.address, agent, server.clock.now_ms())
