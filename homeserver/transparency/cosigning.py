"""Having a node's key log signed by the witnesses that the policy names: each checkpoint, as it comes, and the newest
every hour.

Keys are distributed whether witnesses sign or not. What a quorum has signed is shown before anything else, for as long
as it reaches far enough; and since when the newest lacks a quorum is kept, and told to everybody.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from homeserver.protocol import signed_notes
from homeserver.protocol.checkpoints import Head
from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.signed_notes import NamedKey
from homeserver.storage import cosignatures, log_heads
from homeserver.storage.cosignatures import Cosigned, Standing
from homeserver.storage.nodes import Mirror
from homeserver.transparency import alarms, asking, heads, stating, witnessing
from homeserver.transparency.asking import Alarming, Refused
from homeserver.transparency.heads import KeyLog, Shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from config.witnesses import Witness
    from homeserver.context import Server
    from homeserver.protocol.signed_notes import Signature
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

log = structlog.get_logger("transparency")

PAUSE: Final = 2.0
"""Seconds between two rounds of asking, in which checkpoints pass that no witness ever sees."""
EVERY: Final = 60.0
"""Seconds after which there is a round although nothing new was shown."""
REFRESH: Final = 3600
"""Seconds after which a witness is asked to sign the same once more: that nothing newer is known to it."""
FRESH: Final = 24 * 3600
"""Seconds for which a signature counts for the quorum."""
FIRST_RETRY: Final = 10.0
LAST_RETRY: Final = 1800.0


class Rounds(Mirror):
    """What is remembered of a node's witnesses (``node.memory(Rounds)``), by their names in the policy. ``patience``:
    until when (by the monotonic clock) one that refused is left alone, and for how long the next time; ``asked``: who
    was asked since the node came, for one that was put back from a backup does not know what they have signed since."""

    def __init__(self) -> None:
        self.standings: dict[str, Standing] | None = None
        self.kept: Cosigned | None = None
        self.patience: dict[str, tuple[float, float]] = {}
        self.asked: set[str] = set()
        self.complained = False

    def clear(self) -> None:
        """See `Mirror.clear`."""
        self.standings = self.kept = None
        self.patience.clear()
        self.asked.clear()


async def follow(server: Server, node: Node) -> None:
    """Have witnesses sign what is shown; for ever."""
    node.memory(KeyLog).followed = True
    while True:
        with server.wakeups.listen([heads.shown_key(node.name)]) as listener:
            try:
                await stating.catch_up(server, node)
                await ask_all(server, node)
            except NodeUnavailable:
                pass
            except Exception:
                log.exception("witnesses are not asked", node=node.name)
            await listener.wait(_pause(server, node))
        await server.clock.sleep(PAUSE)


def _vouch(server: Server, node: Node) -> None:
    """The witnesses have been asked: what stands now may be told."""
    memory = node.memory(KeyLog)
    if not memory.vouched:
        memory.vouched = True
        heads.stir(server)


def _pause(server: Server, node: Node) -> float:
    """Seconds until somebody who refused is to be asked again, or until there is a round anyway."""
    untils = [until for until, _ in node.memory(Rounds).patience.values()]
    return max(0.0, min([EVERY, *(until - server.clock.monotonic() for until in untils)]))


async def ask_all(server: Server, node: Node) -> None:
    """Ask each witness that has not signed what is shown, or not for long, unless it is left alone for now.

    Raises NodeUnavailable.
    """
    shown = await heads.current(server, node)
    if shown is None:
        return
    memory = node.memory(Rounds)
    if memory.standings is None:
        memory.standings, memory.kept = await node.read(cosignatures.standings), await node.read(cosignatures.newest)
    witnesses = server.policy.now.residency.witnesses
    due = [each for each in witnesses.values() if _is_due(server, memory, each, shown)]
    found = await asyncio.gather(*(_ask(server, node, memory.standings, each, shown) for each in due))
    memory.asked.update(each.name for each in due)
    _vouch(server, node)
    for witness, standing in zip(due, found, strict=True):
        _note_patience(server, memory, witness, standing)
    if node.memory(KeyLog).fault is None:
        await _keep(server, node, memory, found, shown)


def _is_due(server: Server, memory: Rounds, witness: Witness, shown: Shown) -> bool:
    until, _ = memory.patience.get(witness.name, (0.0, 0.0))
    if server.clock.monotonic() < until:
        return False
    standing = (memory.standings or {}).get(witness.name)
    if (
        witness.name not in memory.asked
        or standing is None
        or standing.key != witness.key
        or standing.fault is not None
        or standing.head != shown.head
    ):
        return True
    return _now(server) - _signature(standing).cosigned_at >= REFRESH


def _now(server: Server) -> int:
    return server.clock.now_ms() // 1000


def _signature(standing: Standing) -> Signature:
    return signed_notes.read_signatures(standing.signature.encode())[0]


def _note_patience(server: Server, memory: Rounds, witness: Witness, standing: Standing) -> None:
    if standing.fault is None:
        memory.patience.pop(witness.name, None)
        return
    _, before = memory.patience.get(witness.name, (0.0, FIRST_RETRY / 2))
    pause = min(2 * before, LAST_RETRY)
    memory.patience[witness.name] = server.clock.monotonic() + pause, pause


async def _ask(
    server: Server, node: Node, standings: Mapping[str, Standing], witness: Witness, shown: Shown
) -> Standing:
    before = standings.get(witness.name)
    if before is None or before.key != witness.key:
        before = Standing(witness.name, witness.key, witnessing.EMPTY, "")
    try:
        _check(server, node, witness)
        signature = await asking.sign(server, node, witness, shown, before.head.size)
    except Refused as fault:
        since = before.fault_since_ts or server.clock.now_ms()
        return before._replace(fault=str(fault), fault_since_ts=since)
    except Alarming as alarming:
        await _alarm(server, node, shown, alarming)
        return before._replace(fault="it holds what this log cannot have signed", fault_since_ts=server.clock.now_ms())
    except LookupError:
        log.exception("tiles of the key log are missing", node=node.name)
        return before._replace(fault="tiles of this log are missing", fault_since_ts=server.clock.now_ms())
    return Standing(witness.name, witness.key, shown.head, signature.write())


def _check(server: Server, node: Node, witness: Witness) -> None:
    """Raise Refused for a witness that is not to be asked."""
    if NamedKey.read(witness.key).key.raw == witnessing.public_key(server).key.raw:
        raise Refused("that is this deployment: nobody is a witness of their own logs")
    isolated = server.policy.isolated & {node.jurisdiction, witness.jurisdiction}
    if isolated and node.jurisdiction != witness.jurisdiction:
        raise Refused(f"{', '.join(sorted(isolated))} is isolated")


async def _alarm(server: Server, node: Node, shown: Shown, alarming: Alarming) -> None:
    """Write it down, and show nothing of the log any more."""
    memory = node.memory(KeyLog)
    async with memory.turn:
        if memory.shown is None or memory.shown.origin != shown.origin:
            return
        which = await heads.generation(server, node)
        await server.nodes.directory.engine.write(_sound, server, node.name, which, alarming)
        heads.stop(memory, alarms.words(alarming.alarm))
    heads.stir(server)


async def _sound(tx: Transaction, server: Server, node: str, generation: int, alarming: Alarming) -> None:
    await alarms.sound(tx, server, alarming.alarm)
    await log_heads.note(tx, node, generation, alarming.head)  # nothing, if it is no larger


# the quorum ---------------------------------------------------------------------------------


async def _keep(server: Server, node: Node, memory: Rounds, found: Iterable[Standing], shown: Shown) -> None:
    """Show what the witnesses have signed, and keep it."""
    standings = memory.standings = memory.standings or {}
    changed = [each for each in found if standings.get(each.name) != each]
    standings.update({each.name: each for each in changed})
    signatures = [_signature(each) for each in signers_of(server, standings, shown.head, None).values()]
    signed = Shown(signed_notes.read(shown.note).with_signatures(signatures).write(), *shown[1:])
    log_memory = node.memory(KeyLog)
    now = log_memory.shown
    if now is None or now.origin != shown.origin:
        return
    newest = now.head == shown.head
    if newest:
        log_memory.shown = signed
    quorum = server.policy.now.residency.witnessing.quorum
    groups = groups_of(server, signers_of(server, standings, shown.head))
    if not quorum:
        log_memory.cosigned = log_memory.lacking_since_ts = None
    elif len(groups) >= quorum:
        log_memory.cosigned = signed
        server.wakeups.wake(heads.cosigned_key(node.name))
        log_memory.lacking_since_ts = None if newest else server.clock.now_ms()
    elif log_memory.lacking_since_ts is None:
        log_memory.lacking_since_ts = server.clock.now_ms()
    _complain(server, node, memory, groups)
    cosigned = log_memory.cosigned
    kept = Cosigned(None if cosigned is None else cosigned.note, log_memory.lacking_since_ts)
    if changed or kept != memory.kept:
        await node.write(cosignatures.put, kept, changed)
        memory.kept = kept


def _complain(server: Server, node: Node, memory: Rounds, groups: set[str]) -> None:
    """Say once in the log of the server that the quorum is missing, and once that it is back."""
    since = node.memory(KeyLog).lacking_since_ts
    if since is None and memory.complained:
        log.info("key log has its witnesses again", node=node.name)
    elif since is not None and server.clock.now_ms() - since >= heads.GRACE_MS and not memory.complained:
        log.warning("key log lacks its witnesses", node=node.name, signed_in=sorted(groups))
    memory.complained = since is not None and (memory.complained or server.clock.now_ms() - since >= heads.GRACE_MS)


def signers_of(
    server: Server, standings: Mapping[str, Standing], head: Head, within: int | None = FRESH
) -> dict[str, Standing]:
    """The witnesses of the policy that have signed this head, ``within`` so many seconds."""
    return {
        name: standing
        for name, witness in server.policy.now.residency.witnesses.items()
        if (standing := standings.get(name)) is not None
        and standing.key == witness.key
        and standing.head == head
        and standing.signature
        and (within is None or _now(server) - _signature(standing).cosigned_at < within)
    }


def groups_of(server: Server, names: Iterable[str]) -> set[str]:
    """The jurisdictions of these witnesses."""
    witnesses = server.policy.now.residency.witnesses
    return {witnesses[name].jurisdiction for name in names}
