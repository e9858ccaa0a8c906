"""Changing the residency policy: plan, apply, approve; and which policies were in force."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from config.problems import Faults
from homeserver.control.arguments import given, needed
from homeserver.protocol.errors import BadJson, Conflict, InvalidParam
from homeserver.protocol.policy_chain import Approval
from homeserver.residency.changes import applying, approving, planning
from homeserver.residency.changes import history as versions
from homeserver.residency.changes.applying import Wish
from homeserver.residency.changes.chain import BrokenChain

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments


async def history(server: Server, _: Arguments) -> dict[str, Any]:
    """Every version that was in force, the key that signs them, and what is wrong with their chain."""
    return await versions.of(server)


async def plan(server: Server, arguments: Arguments) -> dict[str, Any]:
    """What a ``text`` would do as the next policy, mistakes in it told of ``file``; or, with ``restores`` in its place,
    the text of an earlier version."""
    with _as_refusals():
        text, file, restores = await _text(server, arguments)
        return planning.shown(await planning.plan(server, text, file, restores=restores))


async def apply(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Apply the plan with the digest ``plan`` of what `plan` was given; ``done``, or how far it has come."""
    with _as_refusals():
        text, file, restores = await _text(server, arguments)
        return await applying.apply(server, Wish(needed(arguments, "plan"), text, file, restores))


async def resume(server: Server, _: Arguments) -> dict[str, Any]:
    """Go on with the plan that was being applied; ``done``, or how far it has come."""
    with _as_refusals():
        return await applying.resume(server)


async def progress(server: Server, _: Arguments) -> dict[str, Any]:
    """Wait for the end of what is being applied; ``done``, or how far it has come."""
    with _as_refusals():
        return await applying.progress(server)


async def give_up(server: Server, _: Arguments) -> dict[str, Any]:
    """Forget the plan that was being applied."""
    return await applying.give_up(server)


async def approve(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Note the yes of ``name`` to the ``plan``, with their public ``key`` and ``signature``."""
    said = Approval(needed(arguments, "name"), needed(arguments, "key"), needed(arguments, "signature"))
    with _as_refusals():
        return await approving.approve(server, needed(arguments, "plan"), said)


@contextmanager
def _as_refusals() -> Iterator[None]:
    """What is wrong with a text, or with what is kept, told as other refusals are."""
    try:
        yield
    except Faults as faults:
        raise InvalidParam(str(faults)) from None
    except BrokenChain as broken:
        raise Conflict(str(broken)) from None


async def _text(server: Server, arguments: Arguments) -> tuple[str, str, int | None]:
    restores = arguments.get("restores")
    if restores is None:
        return needed(arguments, "text"), given(arguments, "file") or "residency.toml", None
    if not isinstance(restores, int) or isinstance(restores, bool):
        raise BadJson("'restores' must be an integer")
    return await planning.restoring(server, restores), f"version {restores}", restores
