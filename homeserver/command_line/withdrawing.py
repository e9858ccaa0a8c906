"""``domicile residency withdraw``: leaving a jurisdiction, in order."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from homeserver.command_line import plans
from homeserver.command_line.answers import JSON, tell
from homeserver.command_line.asking import CONFIG, perform, perform_long

NEXT = {
    "announced": "when its day has come: --close",
    "closing": "accounts are being closed; --close tells how far",
    "closed": "apply a policy without its nodes, then --erase",
    "erasing": "--erase goes on",
    "done": "nothing is left there",
}


@click.command("withdraw", epilog="Example: domicile residency withdraw IR --until 2027-03-31 --dry-run")
@click.argument("jurisdiction")
@click.argument("digest", required=False)
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="The day, in UTC, from which accounts may be closed.")
@click.option("--dry-run", is_flag=True, help="Say what it would come to, and do nothing. Status 1: it cannot be done.")
@click.option("--call-off", is_flag=True, help="Stay after all, as long as no accounts are being closed.")
@click.option("--close", is_flag=True, help="Close the accounts that are left. This cannot be taken back.")
@click.option("--erase", is_flag=True, help="Destroy what the nodes held, once the policy has them no more.")
@CONFIG
@JSON
def residency_withdraw(
    jurisdiction: str,
    digest: str | None,
    until: datetime | None,
    dry_run: bool,
    call_off: bool,
    close: bool,
    erase: bool,
    config: Path,
    as_json: bool,
) -> None:
    """Leave JURISDICTION: see it with --until and --dry-run, announce it with --until and the DIGEST that this shows;
    people have time to export or to be moved; then --close, a policy without the nodes, --erase. With nothing but
    JURISDICTION: how far it is."""
    if (digest is not None) + dry_run + call_off + close + erase > 1 or (until is None) == (
        digest is not None or dry_run
    ):
        raise click.UsageError("give --until with --dry-run or with a digest, or one of --call-off, --close, --erase")
    if until is not None:
        ends_ts = int(until.replace(tzinfo=UTC).timestamp() * 1000)
        wish = {"jurisdiction": jurisdiction, "until": ends_ts, "plan": digest, "dry_run": dry_run}
        answer = perform(config, "residency-withdraw", **wish)
        if dry_run:
            tell(answer, as_json, _described(answer, f"{until:%Y-%m-%d}"))
            sys.exit(1 if answer["obstacles"] else 0)
        tell(answer, as_json, _line(answer))
    elif call_off:
        answer = perform(config, "residency-withdraw-call-off", jurisdiction=jurisdiction)
        tell(answer, as_json, f"{jurisdiction} is not left after all.")
    elif close:
        wish = {"jurisdiction": jurisdiction}
        answer = perform_long(config, "residency-withdraw-close", wish, "residency-withdraw-progress", plans.how_far)
        tell(answer, as_json, f"Nobody rests in {jurisdiction} any more. Next: {NEXT['closed']}")
    elif erase:
        answer = perform(config, "residency-withdraw-erase", jurisdiction=jurisdiction)
        tell(answer, as_json, f"Nothing is left in {jurisdiction}. Signed by its nodes: {answer['receipt']}")
    else:
        answer = perform(config, "residency-withdraw-status", jurisdiction=jurisdiction)
        tell(answer, as_json, "\n".join(map(_line, answer["withdrawals"])) or f"Nobody leaves {jurisdiction}.")


def _described(found: dict[str, Any], day: str) -> str:
    lines = [f"Leaving {found['jurisdiction']}, with accounts open until {day}:"]
    for name, left in found["nodes"].items():
        lines.append(f"  {name}: {left['accounts']} accounts, {left['files']} files of {left['bytes']} bytes")
    lines.append("Nobody comes to rest there from the announcement on. After that day what is left there is destroyed.")
    lines += [f"  first: {sentence}" for sentence in found["obstacles"]]
    if found["approvals"]["needed"]:
        lines.append(f"Approvals: {len(found['approvals']['given'])} of {found['approvals']['needed']}")
    if not found["obstacles"]:
        command = f"domicile residency withdraw {found['jurisdiction']} {found['digest']} --until {day}"
        lines.append(f"To announce it: {command}")
    return "\n".join(lines)


def _line(each: dict[str, Any]) -> str:
    day = datetime.fromtimestamp(each["ends_ts"] / 1000, UTC)
    waits = f"; something waits for {each['servers_waiting']} other servers" if each["servers_waiting"] else ""
    return f"{each['jurisdiction']}  {each['state']}, until {day:%Y-%m-%d}{waits}. Next: {NEXT[each['state']]}"


COMMANDS = (residency_withdraw,)
"""Commands of ``domicile residency``."""
