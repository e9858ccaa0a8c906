"""Changing the residency policy: edit, plan, apply, approve; and which policies were in force."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from config.problems import Faults
from homeserver.control.arguments import given, needed
from homeserver.protocol.errors import BadJson, Conflict, InvalidParam, TooLarge
from homeserver.protocol.policy_chain import Approval, digest
from homeserver.residency.changes import applying, approving, file, planning
from homeserver.residency.changes import history as versions
from homeserver.residency.changes.applying import Wish
from homeserver.residency.changes.chain import BrokenChain
from homeserver.residency.changes.edit import Act, Edit, changed

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.control.arguments import Arguments

LONGEST_EDITED: Final = 256 * 1024
"""Characters of a text that is edited here: that takes a while for each."""
MOST_EDITS: Final = 100


async def history(server: Server, _: Arguments) -> dict[str, Any]:
    """Every version that was in force, the key that signs them, and what is wrong with their chain."""
    return await versions.of(server)


async def policy(server: Server, _: Arguments) -> dict[str, Any]:
    """The text of the policy in force, and whether the file says something else."""
    with as_refusals():
        link, _policy = await planning.in_force(server)
    there = await asyncio.to_thread(file.found, server.settings.residency)
    return {
        "serial": link.serial,
        "text": link.text,
        "text_sha256": digest(link.text),
        "file_differs": there != link.text,
    }


async def edit(server: Server, arguments: Arguments) -> dict[str, Any]:
    """A ``text``, or that of the policy in force, after ``edits``, with the serial that comes next; and what it would
    do as the next policy. Comments and order stay; nothing is stored."""
    with as_refusals():
        link, _policy = await planning.in_force(server)
        text = given(arguments, "text") or link.text
        if len(text) > LONGEST_EDITED:
            raise TooLarge(f"A text of more than {LONGEST_EDITED} characters is not edited here: use an editor")
        edits = [Edit(Act.PUT, ("serial",), link.serial + 1), *_edits(arguments.get("edits"))]
        try:
            text = await asyncio.to_thread(changed, text, edits)
        except ValueError as error:
            raise InvalidParam(f"This cannot be edited so: {error}") from None
        return {"text": text, "plan": planning.shown(await planning.plan(server, text, "the edited text"))}


def _edits(found: object) -> list[Edit]:
    """What is asked to be edited. Raises BadJson."""
    if not isinstance(found, list) or len(found) > MOST_EDITS:
        raise BadJson(f"'edits' must be a list of at most {MOST_EDITS} edits")
    made = []
    for each in found:
        path = each.get("path") if isinstance(each, dict) else None
        if not isinstance(path, list) or not path or any(type(step) not in (str, int) for step in path):
            raise BadJson("The 'path' of an edit must be a list of names and numbers")
        acts = [act for act in Act if act in each]
        value = each[acts[0]] if len(acts) == 1 and each.keys() == {"path", *acts} else None
        if _holds_null(value) or (acts == [Act.REMOVE] and value is not True):
            raise BadJson("An edit has a 'path', and beside it 'put' or 'append' with a value, or 'remove': true")
        made.append(Edit(acts[0], tuple(path), value))
    return made


def _holds_null(value: object) -> bool:
    """Whether a value holds what TOML has no word for."""
    if isinstance(value, dict):
        return any(map(_holds_null, value.values()))
    return any(map(_holds_null, value)) if isinstance(value, list) else value is None


async def plan(server: Server, arguments: Arguments) -> dict[str, Any]:
    """What a ``text`` would do as the next policy, mistakes in it told of ``file``; or, with ``restores`` in its place,
    the text of an earlier version."""
    with as_refusals():
        text, name, restores = await _text(server, arguments)
        return planning.shown(await planning.plan(server, text, name, restores=restores))


async def apply(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Apply the plan with the digest ``plan`` of what `plan` was given; ``done``, or how far it has come."""
    with as_refusals():
        text, name, restores = await _text(server, arguments)
        return await applying.apply(server, Wish(needed(arguments, "plan"), text, name, restores))


async def resume(server: Server, _: Arguments) -> dict[str, Any]:
    """Go on with the plan that was being applied; ``done``, or how far it has come."""
    with as_refusals():
        return await applying.resume(server)


async def progress(server: Server, _: Arguments) -> dict[str, Any]:
    """Wait for the end of what is being applied; ``done``, or how far it has come."""
    with as_refusals():
        return await applying.progress(server)


async def give_up(server: Server, _: Arguments) -> dict[str, Any]:
    """Forget the plan that was being applied."""
    return await applying.give_up(server)


async def approve(server: Server, arguments: Arguments) -> dict[str, Any]:
    """Note the yes of ``name`` to the ``plan``, with their public ``key`` and ``signature``."""
    said = Approval(needed(arguments, "name"), needed(arguments, "key"), needed(arguments, "signature"))
    with as_refusals():
        return await approving.approve(server, needed(arguments, "plan"), said)


@contextmanager
def as_refusals() -> Iterator[None]:
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
