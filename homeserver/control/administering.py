"""Commands that users with a role give over HTTP: whether they may, and the record of it.

Every call that changes something is written down, and every one that was refused. Whoever has no role at all is soon
asked to wait, so that nobody fills the log of their node with refusals.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from homeserver.accounts import roles
from homeserver.control import commands, recording
from homeserver.control.declared import DECLARED
from homeserver.protocol.errors import (
    Forbidden,
    GuestAccessForbidden,
    LimitExceeded,
    Refusal,
    RoleNeeded,
    UserSuspended,
)
from homeserver.protocol.roles import Role
from homeserver.runtime.lru import Lru

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from homeserver.context import Caller, Server

REFUSALS: Final = 10
"""How many refusals somebody without any role gets at once."""
REFUSALS_PER_SECOND: Final = 0.01
REMEMBERED: Final = 10_000


class _Refused:
    """Until when (monotonic seconds) refusals are held against somebody. One for the deployment."""

    def __init__(self) -> None:
        self.settled_at: Lru[str, float] = Lru(REMEMBERED)


async def admit(server: Server, caller: Caller, command: str, named: Mapping[str, Any]) -> frozenset[Role]:
    """Whether a caller may give a command; ``named``: the arguments that stand in the address. Returns their roles.

    Raises GuestAccessForbidden, Forbidden for an application service, UserSuspended, RoleNeeded, which are written
    down; LimitExceeded.
    """
    declared = DECLARED[command]
    has: frozenset[Role] = frozenset()
    refusal = _unfit(caller)
    if refusal is None:
        has = await roles.of_caller(caller)
        if has & declared.roles:
            return has
        refusal = RoleNeeded([role for role in Role if role in declared.roles])
    if not has:
        _count(server, caller)
    await recording.of_caller(server, caller, command, declared, named).refuse(refusal)
    raise refusal


def _unfit(caller: Caller) -> Refusal | None:
    """Who administers nothing, whatever role they have."""
    if caller.guest:
        return GuestAccessForbidden("Guests may not do this")
    if caller.service is not None:
        return Forbidden("An application service does not administer the server")
    if caller.suspended:
        return UserSuspended("You cannot do this while your account is suspended")
    return None


def _count(server: Server, caller: Caller) -> None:
    """Count a refusal. Raises LimitExceeded."""
    if not server.settings.rate_limits.enabled:
        return
    settled_at = server.nodes.directory.memory(_Refused).settled_at
    now = server.clock.monotonic()
    at = max(settled_at.get(caller.user_id) or 0.0, now)
    wait = at - now - (REFUSALS - 1) / REFUSALS_PER_SECOND
    if wait > 1e-9:  # smaller is rounding
        raise LimitExceeded(math.ceil(wait * 1000))
    settled_at[caller.user_id] = at + 1 / REFUSALS_PER_SECOND


async def perform(server: Server, caller: Caller, command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Do what a caller who was admitted asks. Raises what the command raises, and NodeUnavailable when it cannot be
    written down first."""
    declared = DECLARED[command]
    record = recording.of_caller(server, caller, command, declared, arguments)
    if command in FORBIDDEN and (refusal := await FORBIDDEN[command](server, caller, arguments)):
        await record.refuse(refusal)
        raise refusal
    if not declared.is_change(arguments):
        return await commands.COMMANDS[command](server, arguments)
    return await commands.recorded(server, record, command, arguments)


async def _no_role_for_oneself(server: Server, caller: Caller, arguments: Mapping[str, Any]) -> Refusal | None:
    if commands.person_of(server, DECLARED["user-role-add"], arguments) == caller.user_id:
        return Forbidden("Nobody gives a role to themselves: ask another operator, or use the command line")
    return None


async def _no_roles_of_others(server: Server, caller: Caller, arguments: Mapping[str, Any]) -> Refusal | None:
    """By their password one would come by their roles."""
    person = commands.person_of(server, DECLARED["user-reset-password"], arguments)
    if person is None or person == caller.user_id or not await roles.of_user(server, person):
        return None
    return Forbidden("They have a role: their password is given by the command line only")


FORBIDDEN: Final[Mapping[str, Callable[[Server, Caller, Mapping[str, Any]], Awaitable[Refusal | None]]]] = {
    "user-role-add": _no_role_for_oneself,
    "user-reset-password": _no_roles_of_others,
}
"""What not even they may do who have the role."""
