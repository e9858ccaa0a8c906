"""What the key log of a node says of what evidence claims, with the proofs that it does; all of one checkpoint.

The log is brought up to what there is before that: so what is missing in it is missing, and not just late.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from homeserver.protocol import move_receipts
from homeserver.protocol.errors import Conflict
from homeserver.protocol.key_log import Kind, Statement
from homeserver.storage import key_log
from homeserver.transparency import heads, names, proving, sequencing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.storage.engine import Transaction
    from homeserver.storage.key_log import Placed
    from homeserver.storage.nodes import Node


@dataclass(frozen=True, slots=True)
class Logged:
    """``checkpoint``: None when there is none that may be shown, and then nothing else. ``policies``: all versions of
    the policy that the log states; ``keys``: the last leaf about a user's keys; ``receipts``: for each of theirs its
    leaf. Each as ``index``, ``leaf`` and ``inclusion``."""

    checkpoint: str | None = None
    policies: list[dict[str, Any]] = field(default_factory=list)
    keys: dict[str, Any] | None = None
    receipts: list[dict[str, Any] | None] = field(default_factory=list)


async def of_node(server: Server, node: Node, user_id: str | None, receipts: Sequence[bytes]) -> Logged:
    """What the log of a node says of the policy, and of a user with these receipts. Raises NodeUnavailable; Conflict
    while the log cannot go on."""
    try:
        await sequencing.catch_up(server, node)
        shown = await heads.current(server, node)
        if shown is None:
            return Logged(receipts=[None] * len(receipts))
        tag = None if user_id is None else names.tag(server, user_id)
        digests = [move_receipts.digest(receipt) for receipt in receipts]
        policies, wanted = await node.read(_placed, tag, digests)
        proofs = await proving.of_places(node, shown, [*policies, *wanted])
    except (sequencing.Damaged, LookupError) as fault:
        raise Conflict(f"The key log of {node.name} stands still, and proves nothing: {fault}") from None
    return Logged(
        shown.note.decode(),
        [proofs[each.place] for each in policies if each.place in proofs],
        None if wanted[0] is None else proofs.get(wanted[0].place),
        [None if each is None else proofs.get(each.place) for each in wanted[1:]],
    )


async def _placed(
    tx: Transaction, tag: bytes | None, digests: Sequence[str]
) -> tuple[list[Placed], list[Placed | None]]:
    """The leaves about the policy; and the last of a tag, with those about these receipts."""
    tags = [tag, *(Statement(Kind.RECEIPT, 0, digest, 0).tag for digest in digests)]
    found = await key_log.newest(tx, [each for each in tags if each is not None])
    return await key_log.stated(tx, Kind.POLICY.value), [None if each is None else found.get(each) for each in tags]
