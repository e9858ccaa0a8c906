"""Asks other servers for the profiles of their users; what they say is remembered for a while, a no for a short one.

spec: server-server-api/#get_matrixfederationv1queryprofile
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from config.residency import DataClass
from federation.remote import RemoteRefusal, ask_for, check_flow
from homeserver.protocol.errors import Forbidden, NotFound, Refusal, ServerUnreachable
from homeserver.protocol.identifiers import domain_of
from homeserver.runtime.lru import Lru

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.storage.nodes import Node

MOST_BYTES: Final = 128 * 1024
MOST_FIELDS: Final = 200
KEPT: Final = 300.0
"""Seconds that a profile is remembered."""
NO_KEPT: Final = 30.0
REMEMBERED: Final = 4 * 2**20
"""Bytes of profiles that a node remembers."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What was answered, and until when (seconds of the monotonic clock) it is believed."""

    until: float
    answer: dict[str, Any] | Refusal
    weight: int


class Profiles:
    """What a node knows of profiles elsewhere (``node.memory(Profiles)``)."""

    def __init__(self) -> None:
        self.known: Lru[str, _Known] = Lru(REMEMBERED, lambda known: known.weight)


async def profile(server: Server, node: Node, user_id: str) -> dict[str, Any]:
    """See `context.Remote.profile`."""
    check_flow(server, node, DataClass.PROFILE, domain_of(user_id), inward=True)
    memory, now = node.memory(Profiles).known, server.clock.monotonic()
    known = memory.get(user_id)
    if known is None or known.until < now:
        known = memory[user_id] = await _ask(server, node, user_id, now)
    if isinstance(known.answer, Refusal):
        raise known.answer.with_traceback(None)
    return known.answer


async def _ask(server: Server, node: Node, user_id: str, now: float) -> _Known:
    owner = domain_of(user_id)
    target = f"/_matrix/federation/v1/query/profile?user_id={quote(user_id, safe='')}"
    try:
        answer = await ask_for(
            server, node, DataClass.PROFILE, owner, "GET", target, most=MOST_BYTES, inward=True, if_reachable=True
        )
    except RemoteRefusal as refusal:
        if refusal.status == 404:
            return _Known(now + NO_KEPT, NotFound("There is no such user"), 1000)
        if refusal.status == 403:
            return _Known(now + NO_KEPT, Forbidden(f"{owner} does not show profiles"), 1000)
        return _Known(now + NO_KEPT, ServerUnreachable(f"{owner} does not tell profiles"), 1000)
    except ServerUnreachable as unreachable:
        return _Known(now + NO_KEPT, unreachable, 1000)
    fields = {name: value for name, value in list(answer.items())[:MOST_FIELDS] if value is not None}
    for name in ("displayname", "avatar_url"):
        if not isinstance(fields.get(name, ""), str):
            del fields[name]
    return _Known(now + KEPT, fields, 1000 + len(str(fields)))
