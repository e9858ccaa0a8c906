"""What is wrong with the key logs, their witnesses, and the alarms about logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from homeserver.doctor.findings import Finding
from homeserver.protocol.errors import NodeUnavailable
from homeserver.protocol.log_alarms import Side
from homeserver.transparency import alarms, serving, stating

if TYPE_CHECKING:
    from homeserver.context import Server

_OF_OURS = 'see docs/operations.md, "A key log that was set back"'
_OF_OTHERS = "ask the operator of that log, and when you know, `domicile log alarm end`"
_GONE = "somebody has changed directory.db: put it back from a backup"
_ALONE = "see why in `domicile log status`, and ask the operators of these witnesses"


async def examine(server: Server) -> list[Finding]:
    """Alarms that stand or are gone, and logs that are set back or lack their witnesses."""
    found = [
        Finding(
            None,
            f"alarm {each['number']} about the log {each['origin']}",
            1,
            _OF_OURS if each["side"] == Side.LOG else _OF_OTHERS,
        )
        for each in await alarms.shown(server)
        if each["ended"] is None
    ]
    found += [Finding(None, fault, 1, _GONE) for fault in await stating.faults(server)]
    for node in server.nodes:
        try:
            status = await serving.status(server, node)
        except NodeUnavailable:
            continue  # which is a finding already
        witnessing = status["witnessing"]
        if witnessing is not None and status["fault"] is not None:
            found.append(Finding(node.name, f"key log that is set back: {status['fault']}", 1, _OF_OURS))
        elif witnessing is not None and witnessing["without_quorum_since"] is not None:
            missing = ", ".join(witnessing["missing"])
            found.append(Finding(node.name, f"key log without witnesses in {missing}", 1, _ALONE))
    return found
