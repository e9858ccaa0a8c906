"""Fetching the federation list: on a schedule, and when a server appears that nothing places.

Whatever goes wrong changes nothing but what is said of it: the last list holds as long as it says itself. A list never
gives way to an older one, nor to another with the same number.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from config.federation_list import FILE
from config.residency import UNKNOWN
from homeserver.protocol import federation_lists
from homeserver.protocol.federation_lists import MOST_BYTES, InvalidList
from homeserver.residency.listing import holding
from homeserver.runtime.exchange import Unreachable
from homeserver.runtime.outbound import own_place
from homeserver.storage import federation_lists as stored
from homeserver.storage.federation_lists import KeptList

if TYPE_CHECKING:
    from config.federation_list import FederationList as Setting
    from homeserver.context import Server
    from homeserver.residency.listing.holding import Held

log = structlog.get_logger("residency.listing")

SECONDS: Final = 30.0
"""How long the list may take to come."""
APART: Final = 60.0
"""Seconds between two attempts, whoever appears."""
AGAIN: Final = 300.0
"""Seconds after which it is tried again when it failed, if it is not fetched more often anyway."""
PATIENCE: Final = 5.0
"""Seconds for which whoever deals with a server that has appeared waits for the list."""


class NotPulled(Exception):
    """There is no new list; the text says why."""


async def refresh(server: Server) -> None:
    """What a job does once a minute: let go what has expired, and fetch the list if that is due."""
    held, setting = holding.of(server), server.policy.now.federation_list
    if held.keys != holding.believed_keys(server):
        await holding.load(server)
        held.tried = None
    else:
        holding.put_in_force(server)
    if setting is not None and _is_due(server, held, setting):
        await _attempt(server)


def _is_due(server: Server, held: Held, setting: Setting) -> bool:
    if _is_shut(server, setting):
        return False
    if held.tried is not None:
        pause = min(setting.refresh.seconds, AGAIN) if held.fault else setting.refresh.seconds
        return server.clock.monotonic() - held.tried >= pause
    return held.list is None or held.kept is None or _age(server, held.kept) >= setting.refresh.seconds


def _is_shut(server: Server, setting: Setting) -> bool:
    """Whether links are not to be used from any place where we have machines; a file can be read all the same."""
    isolated = server.policy.isolated
    return not setting.url.startswith(FILE) and all(node.jurisdiction in isolated for node in server.nodes)


def _age(server: Server, kept: KeptList) -> float:
    """Seconds since it was looked last; for ever, if that is said to be still to come."""
    age = (server.clock.now_ms() - kept.checked_ts) / 1000
    return age if age >= 0 else float("inf")


async def appears(server: Server, name: str) -> None:
    """A server has to do with us: if nothing places it, see whether the list does by now. Waits for a moment only."""
    setting, policy = server.policy.now.federation_list, server.policy.now
    if setting is None or name.lower() == policy.server_name or policy.jurisdiction_of_server(name) != UNKNOWN:
        return
    if _is_shut(server, setting):
        return
    held, now = holding.of(server), server.clock.monotonic()
    asked = held.asked.get(name.lower())
    if asked is not None and now - asked < setting.refresh.seconds:
        return
    if held.pulling is None or held.pulling.done():
        if held.tried is not None and now - held.tried < APART:
            return
        held.tried = now
        # An empty context: it belongs to no request, whoever has it done.
        held.pulling = asyncio.get_running_loop().create_task(_attempt(server), context=Context())
    held.asked[name.lower()] = now
    await asyncio.wait([held.pulling], timeout=PATIENCE)


async def stop(server: Server) -> None:
    """Break off what is under way."""
    pulling = holding.of(server).pulling
    if pulling is not None:
        pulling.cancel()
        await asyncio.gather(pulling, return_exceptions=True)


async def _attempt(server: Server) -> None:
    """`pull`, whose failure is noted and no more."""
    try:
        await pull(server)
    except NotPulled:
        pass
    except Exception:
        log.exception("the federation list could not be dealt with")


async def pull(server: Server) -> bool:
    """Fetch the list; whether it was another than before. Raises NotPulled."""
    held, setting = holding.of(server), server.policy.now.federation_list
    if setting is None:
        raise NotPulled("residency.toml has no [federation_list]")
    outcomes = server.telemetry.counter(
        "domicile_federation_list_pulls", "Attempts to fetch the federation list.", ["outcome"]
    )
    async with held.turn:
        held.tried = server.clock.monotonic()
        try:
            changed = await _take(server, held, setting, await _fetched(server, setting.url))
        except NotPulled as fault:
            outcomes.inc("failed")
            if held.fault != str(fault):
                log.error("no federation list was taken; the one before holds as long as it says", reason=str(fault))
            held.fault = str(fault)
            raise
        outcomes.inc("changed" if changed else "same")
        held.fault = None
        holding.put_in_force(server)
    if changed:
        for each in holding.contradictions(server):
            log.warning("the federation list contradicts the policy, which holds", **each)
        if undeclared := holding.undeclared(server):
            log.warning("the federation list names jurisdictions that the policy does not have", codes=undeclared)
    return changed


async def _fetched(server: Server, url: str) -> bytes:
    """The list as it stands there. Raises NotPulled."""
    if url.startswith(FILE):
        path = server.settings.data_dir / url.removeprefix(FILE)
        try:
            return await asyncio.to_thread(_read_file, path)
        except OSError as error:
            raise NotPulled(f"{path} cannot be read: {error.strerror}") from None
    try:
        place, target = own_place(url)
        answer = await server.outbound.request("GET", place, target, most=MOST_BYTES, seconds=SECONDS)
    except Unreachable as unreachable:
        raise NotPulled(f"{url} cannot be fetched: {unreachable}") from None
    if answer.status != 200:
        raise NotPulled(f"{url} answers with status {answer.status}; the list must be there itself")
    return answer.body


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


async def _take(server: Server, held: Held, setting: Setting, raw: bytes) -> bool:
    """Believe a list, if it may be believed; whether it says another thing than the one before. Raises NotPulled."""
    try:
        found, signers = await asyncio.to_thread(holding.read, raw, setting.keys)
    except InvalidList as invalid:
        raise NotPulled(f"the list that was fetched is not believed: {invalid}") from None
    now, before = server.clock.now_ms(), held.list
    if now >= found.valid_until:
        raise NotPulled(f"the list that was fetched, number {found.serial}, has expired")
    if before is not None and found.serial < before.serial:
        raise NotPulled(f"the list that was fetched has number {found.serial}, and {before.serial} was there already")
    same = before is not None and found.serial == before.serial
    if same and held.kept is not None and not _say_the_same(held.kept.document, raw):
        raise NotPulled(f"there are two lists with number {found.serial}: whoever holds the key has signed both")
    engine = server.nodes.directory.engine
    taken = held.kept.taken_ts if same and held.kept is not None else now
    kept = KeptList(raw, found.serial, taken, now)
    if not await engine.write(stored.keep, kept, None if held.kept is None else held.kept.serial):
        held.kept = await engine.read(stored.kept)  # whoever took it was cut off before it was in memory
        raise NotPulled("another list was taken meanwhile")
    held.list, held.kept, held.signers, held.keys = found, kept, signers, setting.keys
    return not same


def _say_the_same(one: bytes, other: bytes) -> bool:
    """Whether two lists differ in their signatures at most."""
    first, second = federation_lists.parsed(one), federation_lists.parsed(other)
    return {**first, "signatures": None} == {**second, "signatures": None}
