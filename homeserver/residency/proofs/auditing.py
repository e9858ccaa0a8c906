"""Auditing a whole deployment: by hand, and once a day by itself, with the result in the metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from homeserver.protocol.errors import NodeUnavailable
from homeserver.residency.proofs import audit

if TYPE_CHECKING:
    from collections.abc import Collection

    from homeserver.context import Server
    from homeserver.residency.proofs.audit import Finding

log = structlog.get_logger("residency.audit")


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit found: ``ts`` when it ended (milliseconds since 1970), which ``nodes`` were looked at, and which
    were down."""

    ts: int
    nodes: tuple[str, ...]
    nodes_down: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def violations(self) -> int:
        """How many findings no policy could have allowed."""
        return sum(finding.is_violation for finding in self.findings)

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "ts": self.ts,
            "nodes": list(self.nodes),
            "nodes_down": list(self.nodes_down),
            "violations": self.violations,
            "findings": [finding.shown() for finding in self.findings],
        }


@dataclass
class Audits:
    """The last finding counts by node (``directory.memory(Audits)``), for the metrics."""

    misplaced: dict[tuple[str, ...], float] = field(default_factory=dict)
    ended_ts: int = 0


async def run(server: Server, names: Collection[str] = ()) -> Report:
    """Audit the nodes named, or all."""
    seen, down, findings = [], [], []
    for node in server.nodes:
        if names and node.name not in names:
            continue
        try:
            findings += await audit.of_node(server, node)
            seen.append(node.name)
        except NodeUnavailable:
            down.append(node.name)
    report = Report(server.clock.now_ms(), tuple(seen), tuple(down), tuple(findings))
    _note(server, report)
    return report


def _note(server: Server, report: Report) -> None:
    audits = server.nodes.directory.memory(Audits)
    for name in report.nodes:
        mine = [finding for finding in report.findings if finding.node == name]
        audits.misplaced[name,] = float(sum(finding.is_violation for finding in mine))
    audits.ended_ts = report.ts


async def run_daily(server: Server) -> None:
    """Audit everything, and say so in the log when something is wrong. A job."""
    report = await run(server)
    for finding in report.findings:
        if finding.is_violation:
            log.error("misplaced", node=finding.node, where=finding.where, fault=str(finding.fault), rows=finding.rows)
    if report.nodes_down:
        log.warning("not audited", nodes=list(report.nodes_down))


def show(server: Server) -> None:
    """Have `/metrics` show what the last audit found."""
    audits, gauge = server.nodes.directory.memory(Audits), server.telemetry.gauge
    words = "What the last audit found on a node and may not rest there."
    gauge("domicile_residency_misplaced", words, lambda: audits.misplaced, ["node"])
    words = "When the last audit ended (Unix time)."
    gauge("domicile_residency_audited_timestamp", words, lambda: audits.ended_ts / 1000)
