"""What is told of the witnesses of a node's key log: who has signed what, who not and why, and since when the quorum is
missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.protocol import signed_notes
from homeserver.storage import cosignatures
from homeserver.transparency import cosigning, heads
from homeserver.transparency.heads import KeyLog

if TYPE_CHECKING:
    from config.witnesses import Witness
    from homeserver.context import Server
    from homeserver.storage.cosignatures import Standing
    from homeserver.storage.nodes import Node


async def of_log(server: Server, node: Node) -> dict[str, Any]:
    """As JSON. ``without_quorum_since``: in seconds since 1970; null when the quorum has signed what is shown, or has a
    moment yet to do it. ``missing``: jurisdictions of which no witness has signed it. Raises NodeUnavailable."""
    shown = await heads.current(server, node)
    memory = node.memory(KeyLog)
    standings = await node.read(cosignatures.standings)
    policy = server.policy.now.residency
    signers = set() if shown is None else cosigning.signers_of(server, standings, shown.head).keys()
    groups = {witness.jurisdiction for witness in policy.witnesses.values()}
    return {
        "quorum": policy.witnessing.quorum,
        "without_quorum_since": _lacking_since(server, memory),
        "missing": sorted(groups - cosigning.groups_of(server, signers)),
        "cosigned_size": None if memory.cosigned is None else memory.cosigned.head.size,
        "witnesses": [_witness(each, standings.get(each.name)) for each in policy.witnesses.values()],
    }


def _lacking_since(server: Server, memory: KeyLog) -> int | None:
    since = memory.lacking_since_ts
    return None if since is None or server.clock.now_ms() - since < heads.GRACE_MS else since // 1000


def _witness(witness: Witness, standing: Standing | None) -> dict[str, Any]:
    if standing is None or standing.key != witness.key:
        size, seconds, fault, since = None, None, None, None
    else:
        line = signed_notes.read_signatures(standing.signature.encode())[0] if standing.signature else None
        size, seconds = (None, None) if line is None else (standing.head.size, line.cosigned_at)
        fault, since = standing.fault, standing.fault_since_ts
    return {
        "name": witness.name,
        "jurisdiction": witness.jurisdiction,
        "key": witness.key,
        "size": size,
        "cosigned_at": seconds,
        "fault": fault,
        "fault_since": None if since is None else since // 1000,
    }
