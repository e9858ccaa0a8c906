"""What a row of the residency matrix is: one way in which data may cross a border, said as data, and how it is tried.

The rows stand in the modules beside this one; `tests.matrix.world` tries them, `tests.matrix.page` prints them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import quote

from federation import remote
from homeserver.protocol.errors import Refusal
from tests.deployment import Answer
from tests.rooms.play import ciphertext

if TYPE_CHECKING:
    from tests.matrix.world import World

HERE, THERE = "here.test", "there.test"
"""Our side of the border, where alice is at home, and the other one."""
DENIED = "403 M_FORBIDDEN"
OUT, IN, FAR = "out", "in", "out of a third place"
Flow = tuple[str, str]
"""Which way a class of data goes, and the class. `FAR`: from another place of ours, by whose users it is."""
ROOM: tuple[Flow, ...] = ((OUT, "events"), (OUT, "keys"), (IN, "events"), (IN, "keys"))
"""What a room needs to span both sides."""


class Column(Enum):
    """How the other side stands to ours in the policy."""

    SAME = "same jurisdiction"
    ALLOWED = "allowed flow"
    DENIED = "denied flow"
    UNKNOWN_ALLOWED = "unknown, allowed"
    UNKNOWN_DENIED = "unknown, denied"
    ISOLATED = "isolated"

    @property
    def allows(self) -> bool:
        """Whether data goes."""
        return self not in (Column.DENIED, Column.UNKNOWN_DENIED, Column.ISOLATED)


NODES = (Column.SAME, Column.ALLOWED, Column.DENIED, Column.ISOLATED)
"""How two nodes can stand to one another: the policy knows where each is."""
BUT_ISOLATED = (Column.SAME, Column.ALLOWED, Column.DENIED)
"""What is tried where an isolation closes another border, or another hook before it."""


@dataclass(frozen=True)
class Mark:
    """The bytes by which what crosses is known: while it crosses, and where it rests or is shown afterwards."""

    wire: bytes
    rest: bytes | re.Pattern[bytes]

    def is_carried(self, carried: bytes) -> bool:
        """Whether it is in what has left."""
        return self.wire in carried

    def rests(self, held: bytes) -> bool:
        """Whether it is in what a side holds and shows."""
        return self.rest in held if isinstance(self.rest, bytes) else self.rest.search(held) is not None


Attempt = AsyncGenerator[bytes | Mark | str, None]
"""Yields what to look for, when everything is set up; goes on when the policy has changed, and yields how that was
answered."""
Try = Callable[["World", str], Attempt]


WAITS, TAKEN_IN = "waits", "taken in"


@dataclass(frozen=True)
class Row:
    """One hook: how it is tried, which flows it needs, and how it is refused where one is missing.

    ``source``: whose bytes are looked at, ``HERE`` or ``THERE``; None for what is pushed to here, which leaves there
    whatever our policy says. ``target``: on which side nothing may rest; None for what rests nowhere.

    ``says``: what the page says of a denial. ``routes``: on which requests to the other server it goes, as ``METHOD
    path``; where something must not come in, they are not made. ``asks``: where in the source the policy is asked.
    ``kinds``: the types of EDUs, or the kinds of parcels, that carry it. ``isolated``: what becomes of it while an
    isolation lies between, `WAITS` or `TAKEN_IN`; "" where it is denied as ever.
    """

    hook: str
    attempt: Try
    needs: tuple[Flow, ...]
    refused: str
    source: str | None = HERE
    target: str | None = None
    says: str = ""
    routes: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    goes: str = "200"
    isolated: str = ""
    columns: tuple[Column, ...] = tuple(Column)

    def waits(self, column: Column) -> bool:
        """Whether it is found on the other side once it may go."""
        return (self.isolated if column is Column.ISOLATED else self.says) == WAITS

    def crosses(self, column: Column) -> bool:
        """Whether it gets to the other side."""
        return column.allows or (column is Column.ISOLATED and self.isolated == TAKEN_IN)

    def answer(self, column: Column) -> str:
        """How it is answered."""
        if column is Column.ISOLATED:
            return self.goes if self.isolated else self.refused.replace("flow_denied", "isolated")
        return self.goes if column.allows else self.refused

    def cell(self, column: Column) -> str:
        """What the page says of it."""
        if column not in self.columns:
            return "–"
        if column is Column.ISOLATED and self.isolated:
            return self.isolated
        return "goes" if column.allows else self.says


def quoted(*parts: str) -> str:
    """A path of identifiers."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def sealed(word: str) -> bytes:
    """What of a message that stands for a word is on the wire, and at rest."""
    return str(ciphertext(word)["ciphertext"]).encode()


async def outcome(asked: Awaitable[object]) -> str:
    """How a question was answered: status and errcode."""
    try:
        answer = await asked
    except (remote.RemoteRefusal, Refusal) as refused:
        return f"{refused.status} {refused.errcode}"
    return f"{answer.status} {answer.errcode or ''}".strip() if isinstance(answer, Answer) else "200"
