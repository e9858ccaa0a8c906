"""``domicile residency``: the policy, and what it comes to."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import click

from config.load import load
from homeserver.command_line.answers import JSON, no, no_if_down, tell, write_new
from homeserver.command_line.asking import CONFIG, asked, perform
from homeserver.residency.proofs import logs as looked_through
from homeserver.residency.proofs.logs import Slip


@click.group()
def residency() -> None:
    """The residency policy: how it is changed, what it comes to, and users on their way from node to node."""


@residency.command("audit", epilog="Example: domicile residency audit --log /var/log/domicile.log")
@click.option("--node", help="This node only.")
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A log file to look through for addresses, phone numbers and tokens; may be repeated.",
)
@click.option(
    "--backup",
    "backups",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="An archive of a node to look into too; may be repeated.",
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The private key of archives that are sealed.",
)
@CONFIG
@JSON
def residency_audit(
    node: str | None,
    logs: tuple[Path, ...],
    backups: tuple[Path, ...],
    key_file: Path | None,
    config: Path,
    as_json: bool,
) -> None:
    """List what rests where it may not, in databases and media folders. Status 1 if anything does."""
    key = None if key_file is None else key_file.read_text(encoding="ascii", errors="replace").strip()
    paths = [os.path.abspath(path) for path in backups]
    answer = perform(config, "residency-audit", node=node, backups=paths, key=key)
    answer["logs"] = [{"file": str(path), **slip._asdict()} for path in logs for slip in _slips(path)]
    lines = [_finding_line(each) for each in answer["findings"]]
    lines += [f"{each['file']}:{each['line']}: shows {each['shows']}" for each in answer["logs"]]
    bad = answer["violations"] + len(answer["logs"])
    verdict = f"{bad} things rest where they may not" if bad else "Everything rests where it may"
    looked_at = [*answer["nodes"], *(each["file"] for each in answer["backups"])]
    tell(answer, as_json, "\n".join([*lines, f"{verdict}. Audited: {', '.join(looked_at) or 'no node'}."]))
    no_if_down(answer, "not audited")
    if bad:
        sys.exit(1)


def _slips(path: Path) -> list[Slip]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        return list(looked_through.slips(lines))


def _finding_line(finding: dict[str, Any]) -> str:
    whose = f"  {finding['user_id']}" if finding["user_id"] else ""
    note = "" if finding["violation"] else "  (an earlier policy may have let it come)"
    file = f"{finding['file']}: " if finding["file"] else ""
    return f"{file}{finding['node']}  {finding['where']}{whose}  rows: {finding['rows']}  {finding['fault']}{note}"


@residency.command("evidence", epilog="Example: domicile residency evidence --node paris --to paris-evidence.json")
@click.option("--to", "target", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Where it goes.")
@click.option("--node", help="Of this node only.")
@click.option("--user", help="Of the node where this user rests, with the user's own pin and receipts: for them alone.")
@click.option("--with-texts", is_flag=True, help="With the texts of the policies, but those in which passwords stand.")
@CONFIG
@JSON
def residency_evidence(
    target: Path, node: str | None, user: str | None, with_texts: bool, config: Path, as_json: bool
) -> None:
    """Write down, signed, what this deployment claims, so that anybody can check it with scripts/verify-evidence: the
    policies that were in force, what an audit finds now, why users are pinned, moves. Status 1 if something rests where
    it may not, or a node is down: the bundle says so."""
    if node is not None and user is not None:
        raise click.UsageError("give --node or --user, not both")
    if target.exists():
        no(f"domicile: {target} is there already: name another file")
    answer = perform(config, "residency-evidence", node=node, user=user, texts=with_texts)
    bundle = answer.pop("bundle").encode()
    write_new(target, bundle)
    written = {**answer, "file": str(target), "sha256": hashlib.sha256(bundle).hexdigest()}
    how = f"To check it: scripts/verify-evidence {target} --key {answer['key']}"
    tell(written, as_json, f"{target}: evidence of {', '.join(answer['nodes']) or 'no node'}, signed. {how}")
    no_if_down(answer, "not in it")
    if answer["violations"]:
        no("domicile: it says that something rests where it may not; `domicile residency audit` lists what")


@residency.command("traffic", epilog="Example: domicile residency traffic --json")
@CONFIG
@JSON
def residency_traffic(config: Path, as_json: bool) -> None:
    """Bytes between this deployment and other servers, by jurisdiction, since the server was started."""
    settings, _ = load(config)
    answer = asked(settings, "residency-traffic", {})
    if answer is None:
        no(f"domicile: no server serves {settings.data_dir} now, and bytes are counted only while one does")
    lines = [f"{each['from']} -> {each['to']}  {each['bytes']}" for each in answer["traffic"]]
    tell(answer, as_json, "\n".join(lines) if lines else "Nothing has been sent or received since the start.")
