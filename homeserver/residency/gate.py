"""The gate of the residency policy: whoever lets data cross a border asks here, and is told which flow is missing.

The verdict is `config.policy`'s; this turns a denial into the answer that a user gets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.protocol.errors import FlowDenied

if TYPE_CHECKING:
    from collections.abc import Iterable

    from config.policy import Verdict
    from config.residency import DataClass
    from homeserver.context import Server


def may(server: Server, data_class: DataClass, source: str, target: str) -> bool:
    """Whether data of a class may leave the jurisdiction ``source`` for ``target``."""
    return bool(server.policy.now.may(data_class, source, target))


def may_in_time(server: Server, data_class: DataClass, source: str, target: str) -> bool:
    """Whether data may leave ``source`` for ``target`` now, or as soon as an isolation ends: for what waits until it
    may go, and for what has crossed the border already."""
    verdict = server.policy.now.may(data_class, source, target)
    return bool(verdict) or verdict.held


def check(server: Server, data_class: DataClass, source: str, target: str) -> None:
    """Raise FlowDenied, in words for the user, unless data may leave jurisdiction ``source`` for ``target``."""
    verdict = server.policy.now.may(data_class, source, target)
    if not verdict:
        raise denied(verdict)


def check_room(server: Server, jurisdictions: Iterable[str]) -> None:
    """Raise FlowDenied, naming the first missing flow, unless a room may span these jurisdictions."""
    missing = server.policy.now.room_may_span(jurisdictions)
    if missing:
        raise denied(missing[0])


def denied(verdict: Verdict) -> FlowDenied:
    """The refusal that a denied verdict stands for."""
    return FlowDenied(
        verdict.message[:1].upper() + verdict.message[1:],
        source=verdict.source,
        destination=verdict.target,
        data_class=verdict.data_class.value,
        isolated=verdict.held,
    )
