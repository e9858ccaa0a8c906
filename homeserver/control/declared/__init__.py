"""The declarations of all commands, by name. A command that has none is refused over HTTP, and a test fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from homeserver.control.declarations import ANYTHING, Declared
from homeserver.control.declared import accounts, disclosures, key_logs, moves, policy, running, withdrawing
from homeserver.protocol.roles import Role

DECLARED: Final[Mapping[str, Declared]] = {
    **accounts.DECLARED,
    **running.DECLARED,
    **key_logs.DECLARED,
    **moves.DECLARED,
    **policy.DECLARED,
    **withdrawing.DECLARED,
    **disclosures.DECLARED,
}

UNDECLARED: Final = Declared(
    says="Not declared", roles=frozenset[Role](), changes=True, answer=ANYTHING, why="it is not declared"
)


def declared_of(command: str) -> Declared:
    """How a command is declared. Of one that is not, everything counts as a change, and nothing is kept of it."""
    return DECLARED.get(command, UNDECLARED)
