"""Whom a user lets invite them: nobody, everybody, or by lists of users and of servers (MSC4155).

spec: client-server-api/#invite-permission
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol import globs
from homeserver.protocol.identifiers import domain_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

TYPES: Final = (
    "m.invite_permission_config",
    "org.matrix.msc4155.invite_permission_config",
    "org.matrix.msc4380.invite_permission_config",
)
"""The types of account data that say it. Where several do, the strictest holds."""

MOST_PATTERNS: Final = 1000
"""Patterns of one list that are looked at: each invitation is compared with them."""


class Action(Enum):
    """What is done with an invitation. ``IGNORE``: it is taken, and not shown."""

    ALLOW = 0
    IGNORE = 1
    BLOCK = 2


_LISTS: Final = (("allowed", Action.ALLOW), ("ignored", Action.IGNORE), ("blocked", Action.BLOCK))


@dataclass(frozen=True, slots=True)
class Permissions:
    """What one user says: lists by what they are matched with, in the order in which they are tried, and what else."""

    users: tuple[tuple[tuple[str, ...], Action], ...] = ()
    servers: tuple[tuple[tuple[str, ...], Action], ...] = ()
    otherwise: Action = Action.ALLOW

    def of(self, sender: str) -> Action:
        """What is done with an invitation of this user."""
        for lists, name in ((self.users, sender), (self.servers, domain_of(sender))):
            for patterns, action in lists:
                if any(globs.whole(pattern)(name) for pattern in patterns):
                    return action
        return self.otherwise


def read(content: Mapping[str, Any]) -> Permissions:
    """What an entry of account data says; what is malformed in it says nothing."""
    otherwise = Action.BLOCK if content.get("default_action") == "block" else Action.ALLOW
    if content.get("enabled") is False:
        return Permissions(otherwise=otherwise)
    return Permissions(_lists(content, "users"), _lists(content, "servers"), otherwise)


def _lists(content: Mapping[str, Any], what: str) -> tuple[tuple[tuple[str, ...], Action], ...]:
    found = []
    for name, action in _LISTS:
        patterns = content.get(f"{name}_{what}")
        if isinstance(patterns, list) and patterns:
            found.append((tuple(each for each in patterns[:MOST_PATTERNS] if isinstance(each, str)), action))
    return tuple(found)


def strictest(said: Iterable[Permissions], sender: str) -> Action:
    """What is done with an invitation of a user, when several entries say it."""
    return max((each.of(sender) for each in said), key=lambda action: action.value, default=Action.ALLOW)
