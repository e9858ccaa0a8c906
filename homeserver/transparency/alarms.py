"""Alarms about logs, of this deployment and of those that it witnesses: raised by what is proved, ended by a person's
word, and never forgotten.

They are a chain in the directory. The digest of each link goes into the key logs of all nodes (`stating.py`), so that a
link which somebody deletes is missed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from homeserver.protocol import checkpoints, signed_notes
from homeserver.protocol import log_alarms as chain
from homeserver.protocol.errors import InvalidParam
from homeserver.protocol.log_alarms import Kind, Link, NoAlarm, Side
from homeserver.storage import log_alarms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.protocol.branching import Fork
    from homeserver.protocol.signed_notes import Note
    from homeserver.storage.engine import Transaction

log = structlog.get_logger("transparency")


class Standing:
    """How many alarms nobody has ended, as far as was seen last (``directory.memory(Standing)``)."""

    def __init__(self) -> None:
        self.open = 0


async def links(server: Server) -> list[Link]:
    """The whole chain, as far as it can be read."""
    raw = await server.nodes.directory.engine.read(log_alarms.links)
    found = _read(raw)
    server.nodes.directory.memory(Standing).open = len(chain.open_alarms(found))
    return found


def _read(raw: Sequence[bytes]) -> list[Link]:
    found = []
    for each in raw:
        try:
            found.append(chain.read(each))
        except NoAlarm:
            continue  # it is among the faults
    return found


def against(key: str, held: Note, shown: Note, fork: Fork) -> Link:
    """What a witness says of a log that has signed both of these."""
    return Link(
        number=0,
        previous="",
        time=0,
        kind=Kind.TWO_HISTORIES,
        origin=checkpoints.read(shown.text).origin,
        side=Side.WITNESS,
        key=key,
        held=held.write().decode(),
        shown=shown.write().decode(),
        other=chain.base64(fork.other),
        proof=tuple(chain.base64(each) for each in fork.proof),
    )


async def sound(tx: Transaction, server: Server, alarm: Link) -> bool:
    """In a transaction of the directory: raise an alarm, whose number and time are filled in; False when one of the
    kind stands about that log already, or when this one was ended before: one about the same checkpoint, whatever
    else the log has signed by now."""
    raw = await log_alarms.links(tx)
    found = _read(raw)
    same = [each for each in found if (each.origin, each.side, each.kind) == (alarm.origin, alarm.side, alarm.kind)]
    standing = {each.number for each in chain.open_alarms(found)}
    if any(each.number in standing or _is_about_the_same(each, alarm) for each in same):
        return False
    link = await _append(tx, server, raw, alarm)
    log.error("alarm about a log", number=link.number, origin=link.origin, kind=link.kind.value, side=link.side.value)
    return True


def _is_about_the_same(one: Link, two: Link) -> bool:
    if one.side is Side.LOG and one.held != two.held:
        return False
    return one.shown.partition("\n\n")[0] == two.shown.partition("\n\n")[0]


async def _append(tx: Transaction, server: Server, raw: Sequence[bytes], said: Link) -> Link:
    newest = raw[-1] if raw else None
    link = Link(
        **{
            **{name: getattr(said, name) for name in said.__dataclass_fields__},
            "number": await log_alarms.next_number(tx),
            "previous": "" if newest is None else chain.digest(newest),
            "time": server.clock.now_ms() // 1000,
        }
    )
    await log_alarms.append(tx, link.number, link.write())
    return link


async def end(server: Server, number: int, reason: str) -> Link:
    """Say what became of an alarm: for ever, and for everybody to read. Raises InvalidParam.

    What is wrong with a log of ours ends only with that log (`renewing.begin_anew`).
    """
    if not reason.strip():
        raise InvalidParam("Say why: it is shown to everybody")
    link = await server.nodes.directory.engine.write(_end, server, number, reason.strip())
    await links(server)
    return link


async def note_lost(server: Server, number: int, digests: Sequence[str], reason: str) -> None:
    """Say why links of this number are gone, which key logs state: for ever, and for everybody to read."""
    await server.nodes.directory.engine.write(_note_lost, server, number, digests, reason.strip())


async def _note_lost(tx: Transaction, server: Server, number: int, digests: Sequence[str], reason: str) -> None:
    said = Link(
        number=0,
        previous="",
        time=0,
        kind=Kind.LOST,
        origin=server.name,
        ends=number,
        reason=reason,
        proof=tuple(digests),
    )
    await _append(tx, server, await log_alarms.links(tx), said)


async def _end(tx: Transaction, server: Server, number: int, reason: str) -> Link:
    raw = await log_alarms.links(tx)
    standing = {link.number: link for link in chain.open_alarms(_read(raw))}
    if number not in standing:
        raise InvalidParam(f"No alarm {number} stands" + (f"; there are {sorted(standing)}" if standing else ""))
    alarm = standing[number]
    if alarm.side is Side.LOG:
        raise InvalidParam("That log cannot go on: end it and begin another with `domicile log begin-anew`")
    return await _append(tx, server, raw, _ending(alarm, reason))


async def end_with_log(tx: Transaction, server: Server, origin: str, reason: str) -> None:
    """In a transaction of the directory: the alarms of our own about a log end with it."""
    while True:
        raw = await log_alarms.links(tx)
        alarm = next((each for each in chain.open_alarms(_read(raw)) if _is_of(each, origin)), None)
        if alarm is None:
            return
        await _append(tx, server, raw, _ending(alarm, reason))


def _is_of(alarm: Link, origin: str) -> bool:
    return alarm.side is Side.LOG and alarm.origin == origin


def _ending(alarm: Link, reason: str) -> Link:
    return Link(
        number=0,
        previous="",
        time=0,
        kind=Kind.ENDED,
        origin=alarm.origin,
        side=alarm.side,
        ends=alarm.number,
        reason=reason,
    )


async def about(tx: Transaction, origin: str, side: Side) -> Link | None:
    """The alarm that stands about a log, on the side of the log or of its witness."""
    standing = chain.open_alarms(_read(await log_alarms.links(tx)))
    return next((each for each in standing if each.origin == origin and each.side is side), None)


def words(alarm: Link) -> str:
    """What an alarm of our own says."""
    held = checkpoints.read(signed_notes.read(alarm.held.encode()).text).head.size
    if alarm.kind is Kind.SET_BACK:
        return f"the witness {alarm.witness} holds a checkpoint of {held} leaves, which are more than there are"
    return f"the witness {alarm.witness} holds a checkpoint of the first {held} leaves, which are others"


async def shown(server: Server) -> list[dict[str, Any]]:
    """All alarms that there ever were, for everybody, and those that were lost: what ended one stands in it."""
    found = await links(server)
    ended = {link.ends: link for link in found if link.kind is Kind.ENDED}
    ended |= {link.number: link for link in found if link.kind is Kind.LOST}
    return [
        {
            **alarm.shown_json(),
            "ended": None
            if (last := ended.get(alarm.number)) is None
            else {"number": last.number, "time": last.time, "reason": last.reason},
        }
        for alarm in found
        if alarm.kind is not Kind.ENDED
    ]
