"""Asking one witness for its signature of a checkpoint, and what to make of a refusal.

Nothing that a witness says is believed but its signature, and what this log has signed itself. So a witness that lies
is one that does not sign, and no more; and one that holds what this log has signed proves what became of the log.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from homeserver.protocol import checkpoints, merkle, signed_notes, witnessing
from homeserver.protocol.log_alarms import Kind, Link, Side, base64
from homeserver.protocol.signed_notes import InvalidNote, NamedKey, Note
from homeserver.protocol.witnessing import Submission
from homeserver.runtime.exchange import Unreachable
from homeserver.runtime.outbound import own_place
from homeserver.transparency import heads
from homeserver.transparency.heads import KeyLog

if TYPE_CHECKING:
    from config.witnesses import Witness
    from homeserver.context import Server
    from homeserver.protocol.checkpoints import Checkpoint, Head
    from homeserver.protocol.signed_notes import Signature
    from homeserver.runtime.exchange import Answer
    from homeserver.storage.nodes import Node
    from homeserver.transparency.heads import Shown

MOST: Final = 64 * 1024
"""Bytes of a witness's answer."""
SECONDS: Final = 10.0
"""How long a witness is waited for."""
APART: Final = 3600
"""Seconds by which a witness's clock may be apart from ours."""


class Refused(Exception):
    """A witness does not sign; says why, in words for the operator."""


class Alarming(Exception):
    """A witness holds what this log has signed, and what it cannot have signed if all were well."""

    def __init__(self, alarm: Link, head: Head) -> None:
        super().__init__(alarm.kind)
        self.alarm = alarm
        self.head = head


async def sign(server: Server, node: Node, witness: Witness, shown: Shown, old: int) -> Signature:
    """Have a witness sign what is shown; ``old``: the size at which it is believed to be.

    Raises Refused, Alarming, NodeUnavailable.
    """
    note, key = signed_notes.read(shown.note), NamedKey.read(witness.key)
    answer = await _submit(server, node, witness, shown, min(old, shown.head.size))
    if answer.status == 409:
        size = _size(answer)
        if size is not None and size <= shown.head.size and size != old:
            answer = await _submit(server, node, witness, shown, size)
    if answer.status == 200:
        return _signature(server, note, key, answer)
    await _examine(server, node, witness, shown)
    if answer.status == 404:  # it may have known the log once, and shows for ever what it has signed
        raise Refused("it does not know this log: its operator has to add it")
    if answer.status == 403:
        raise Refused("it says that this log has contradicted itself: ask its operator which checkpoints it was shown")
    size = _size(answer) if answer.status == 409 else None
    if size is not None and size > shown.head.size:
        raise Refused(f"it says that it has signed {size} leaves, more than there are, and does not show it")
    raise Refused(f"it answers with status {answer.status}, though the log goes on from all that it shows")


def _size(answer: Answer) -> int | None:
    try:
        return witnessing.read_size(answer.body)
    except InvalidNote:
        return None


def _signature(server: Server, note: signed_notes.Note, key: NamedKey, answer: Answer) -> Signature:
    try:
        signed = Note(note.text, tuple(signed_notes.read_signatures(answer.body)))  # and none that it gave before
        seconds = checkpoints.witnesses(signed, [key]).get(key)
    except InvalidNote as fault:
        raise Refused(f"its answer is none: {fault}") from None
    if seconds is None:
        raise Refused("its answer is not signed with its key")
    if abs(seconds - server.clock.now_ms() // 1000) > APART:
        raise Refused("its clock is more than an hour apart from ours")
    return next(each for each in signed.signatures if (each.name, each.key_id) == (key.name, key.key_id))


async def _submit(server: Server, node: Node, witness: Witness, shown: Shown, old: int) -> Answer:
    parts = merkle.consistency_parts(old, shown.head.size)
    roots = await heads.subtrees(node, {part for group in parts for part in group})
    body = Submission(old, tuple(merkle.assembled(parts, roots)), signed_notes.read(shown.note)).write()
    return await _ask(server, "POST", f"{witness.url}/add-checkpoint", body)


async def _ask(server: Server, method: str, url: str, body: bytes = b"") -> Answer:
    try:
        place, target = own_place(url)
        return await server.outbound.request(method, place, target, body=body, most=MOST, seconds=SECONDS)
    except Unreachable as fault:
        raise Refused(f"it cannot be reached: {fault}") from None


# why it refuses -----------------------------------------------------------------------------


async def _examine(server: Server, node: Node, witness: Witness, shown: Shown) -> None:
    """Look at what a witness that refuses holds. Raises Alarming when that accuses this log, Refused."""
    answer = await _ask(server, "GET", f"{witness.url}/{witnessing.place_of(shown.origin)}/checkpoint")
    key = signed_notes.public_key(shown.origin, server.identity.log_key(node.name))
    if answer.status != 200:
        return
    try:
        note = signed_notes.read(answer.body)
        held = checkpoints.opened(note, key)
    except InvalidNote:
        raise Refused("it refuses, and shows a checkpoint that this log has not signed") from None
    now = node.memory(KeyLog).shown
    if now is None or now.origin != shown.origin:
        raise Refused("the log has ended meanwhile")
    alarm = await _alarm(node, witness, key, held, note, now)
    if alarm is not None:
        raise Alarming(alarm, held.head)


async def _alarm(
    node: Node, witness: Witness, key: NamedKey, held: Checkpoint, note: signed_notes.Note, now: Shown
) -> Link | None:
    said = Link(
        number=0,
        previous="",
        time=0,
        kind=Kind.SET_BACK,
        origin=now.origin,
        side=Side.LOG,
        key=key.write(),
        held=note.write().decode(),
        shown=now.note.decode(),
        witness=witness.name,
    )
    if held.head.size > now.head.size:
        return said
    frontier = merkle.frontier_parts(held.head.size)
    parts = merkle.consistency_parts(held.head.size, now.head.size)
    roots = await heads.subtrees(node, {*frontier, *(part for group in parts for part in group)})
    other = merkle.folded([roots[part] for part in frontier])
    if other == held.head.root:
        return None
    proof = tuple(base64(each) for each in merkle.assembled(parts, roots))
    return replace(said, kind=Kind.TWO_HISTORIES, other=base64(other), proof=proof)
