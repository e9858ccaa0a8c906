"""``domicile disclose`` at the machine: orders are recorded, approved, narrowed, refused, listed and opened."""

from __future__ import annotations

import hashlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from config.disclosure import DISCLOSABLE
from homeserver.command_line.answers import JSON, no, tell
from homeserver.command_line.asking import CONFIG, perform
from homeserver.command_line.orders import PRIVATE, Order, day, described, read_object, write_object

if TYPE_CHECKING:
    from collections.abc import Iterator

ORDER = click.argument("order", type=Order())
REASON = click.option("--reason", required=True, help="Why. It is kept, and not told to everybody.")
TIMES = "A day, or a moment, of UTC: 2026-11-22 or 2026-11-22T10:00."


class Moment(click.ParamType[int]):
    """A day or a moment of UTC, in milliseconds since 1970."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """See `click.ParamType.convert`."""
        if isinstance(value, int):
            return value
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no day and no moment such as 2026-11-22T10:00", param, ctx)
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


@click.group()
def disclose() -> None:
    """Orders of authorities, up to the ceiling of the policy: request, show, sign, approve, narrow, refuse, shares,
    share, open, list, unseal, clock."""


@disclose.command(
    "request",
    epilog='Example: domicile disclose request --jurisdiction IR --authority "Court 3" --case 17/4 --basis "Art. 9"'
    " --account parisa --field phone_number --since 2026-11-01 --until 2026-11-20 --expires 2026-12-01"
    " --document order.pdf --out order.json",
)
@click.option("--jurisdiction", required=True, help="Where the authority is, and the accounts rest.")
@click.option("--node", help="The node of the accounts, if the jurisdiction has several.")
@click.option("--authority", required=True, help="Who orders it. Everybody is told.")
@click.option("--case", required=True, help="The number of the case. It is kept, and not told to everybody.")
@click.option("--basis", required=True, help="By which law. Everybody is told.")
@click.option("--account", "accounts", required=True, multiple=True, help="A localpart or a user id; several times.")
@click.option("--field", "fields", required=True, multiple=True, type=click.Choice(DISCLOSABLE), help="Several times.")
@click.option("--since", required=True, type=Moment(), help=f"Where the period begins. {TIMES}")
@click.option("--until", required=True, type=Moment(), help="Where it ends; that day does not belong to it.")
@click.option("--expires", required=True, type=Moment(), help="Until when the order can be opened.")
@click.option("--gag-until", type=Moment(), help="Until when nothing may be told but that there is an order.")
@click.option(
    "--document", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The paper; its digest is kept."
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the order here, for approvers.")
@CONFIG
@JSON
def disclose_request(document: Path, basis: str, out: Path | None, config: Path, as_json: bool, **wished: Any) -> None:
    """Record an order, also one that cannot be carried out: the register says so then, and why. Status 1 in that
    case."""
    digest = hashlib.sha256(document.read_bytes()).hexdigest()
    wished |= {"accounts": list(wished["accounts"]), "fields": list(wished["fields"])}
    answer = perform(config, "disclose-request", legal_basis=basis, document_sha256=digest, **wished)
    _hand_out(answer, out, as_json)


@disclose.command("show", epilog="Example: domicile disclose show tehran/3 --out order.json")
@ORDER
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write it here, for approvers.")
@CONFIG
@JSON
def disclose_show(order: tuple[str, int], out: Path | None, config: Path, as_json: bool) -> None:
    """The whole of ORDER, as approvers are to read it."""
    _hand_out(perform(config, "disclose-show", node=order[0], number=order[1]), out, as_json)


def _hand_out(answer: dict[str, Any], out: Path | None, as_json: bool) -> None:
    order = answer["order"]
    if out is not None:
        write_object(out, order)
    written = [] if out is None else [f"Wrote {out}: approvers sign it with `domicile disclose sign {out}`"]
    tell(answer, as_json, "\n".join([*described(order), f"state         {answer['state']}", *written]))


@disclose.command("approve", epilog="Example: domicile disclose approve parisa.approval.json")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@CONFIG
@JSON
def disclose_approve(file: Path, config: Path, as_json: bool) -> None:
    """Take the approval in FILE, which an approver has written with `domicile disclose sign`."""
    approval = read_object(file)
    node, number = Order().convert(str(approval.get("order")), None, None)
    answer = perform(config, "disclose-approve", node=node, number=number, approval=approval)
    given = f"{len(answer['given'])} of {answer['needed']}"
    tell(answer, as_json, f"{answer['order']} is approved by {', '.join(answer['given'])}: {given}")


@disclose.command(
    "narrow",
    epilog='Example: domicile disclose narrow tehran/3 --field phone_number --reason "more than the law gives"',
)
@ORDER
@click.option("--account", "accounts", multiple=True, help="The accounts that are left.")
@click.option("--field", "fields", multiple=True, type=click.Choice(DISCLOSABLE), help="The fields that are left.")
@click.option("--since", type=Moment(), help=f"Where the period begins. {TIMES}")
@click.option("--until", type=Moment(), help="Where it ends.")
@click.option("--expires", type=Moment(), help="Until when the order can be opened.")
@REASON
@CONFIG
@JSON
def disclose_narrow(order: tuple[str, int], reason: str, config: Path, as_json: bool, **wished: Any) -> None:
    """Leave out some of what ORDER reaches. What approvers have signed does not count for what is left."""
    wished |= {"accounts": list(wished["accounts"]), "fields": list(wished["fields"])}
    answer = perform(config, "disclose-narrow", node=order[0], number=order[1], reason=reason, **wished)
    tell(answer, as_json, f"{answer['order']} is narrowed; it has to be approved as it is now")


@disclose.command("refuse", epilog='Example: domicile disclose refuse tehran/3 --reason "the court is not competent"')
@ORDER
@REASON
@CONFIG
@JSON
def disclose_refuse(order: tuple[str, int], reason: str, config: Path, as_json: bool) -> None:
    """Say no to ORDER. The register says so."""
    answer = perform(config, "disclose-refuse", node=order[0], number=order[1], reason=reason)
    tell(answer, as_json, f"{answer['order']} is refused")


@disclose.command("unseal", epilog="Example: domicile disclose unseal tehran/3")
@ORDER
@CONFIG
@JSON
def disclose_unseal(order: tuple[str, int], config: Path, as_json: bool) -> None:
    """End the gag of ORDER before its time: what the register says of it is told from now on."""
    answer = perform(config, "disclose-unseal", node=order[0], number=order[1])
    tell(answer, as_json, f"The gag of {answer['order']} has ended")


@disclose.command(
    "clock", epilog='Example: domicile disclose clock tehran --reason "the machine believed a wrong time server"'
)
@click.argument("node")
@click.option("--reason", required=True, help="What had happened to the clock. Everybody is told.")
@CONFIG
@JSON
def disclose_clock(node: str, reason: str, config: Path, as_json: bool) -> None:
    """Go on with the register of NODE by the clock as it is now, after it had run ahead and was set right. Until then
    nothing is disclosed there. Orders that are open end: whoever needs one records it again."""
    answer = perform(config, "disclose-clock", node=node, reason=reason)
    ended = f"; ended: {', '.join(answer['ended'])}" if answer["ended"] else ""
    tell(answer, as_json, f"The register of {node} had seen {day(answer['seen'])}, and goes on from now{ended}")


@disclose.command("list", epilog="Example: domicile disclose list --json")
@CONFIG
@JSON
def disclose_list(config: Path, as_json: bool) -> None:
    """All orders, without the accounts that they name. Status 1 when a register is not what was written."""
    answer = perform(config, "disclose-list")
    tell(answer, as_json, "\n".join(_lines(answer)))
    faults = [f"The register of {each['node']}: {each['fault']}" for each in answer["registers"] if each["fault"]]
    if faults:
        no("\n".join(faults))


def _lines(answer: dict[str, Any]) -> Iterator[str]:
    for each in answer["orders"]:
        gag = "" if each["gag_until"] is None else f", gagged until {day(each['gag_until'])}"
        fields = ", ".join(each["fields"])
        yield (
            f"{each['order']:<14} {each['state']:<8} {each['approvals']}/{each['needed']} approvals, {each['accounts']}"
            f" accounts, {fields}, by {each['authority']}{gag}"
        )
    for each in answer["registers"]:
        yield f"register of {each['node']}: {each['entries']} entries, {each['digest'] or 'empty'}"
    if answer["nodes_down"]:
        yield f"down, and not asked: {', '.join(answer['nodes_down'])}"


@disclose.command("shares", epilog="Example: domicile disclose shares tehran/3 --out shares.json")
@ORDER
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file for custodians.")
@CONFIG
@JSON
def disclose_shares(order: tuple[str, int], out: Path, config: Path, as_json: bool) -> None:
    """Write what custodians need for ORDER: the order, its approvals, and the sealed shares of the epochs it reaches.
    Nobody but a custodian can open a share."""
    answer = perform(config, "disclose-shares", node=order[0], number=order[1])
    write_object(out, answer)
    epochs = len(answer["epochs"])
    words = (
        f"Wrote {out}, with the shares of {epochs} epochs: custodians open theirs with `domicile disclose share {out}`"
    )
    tell({"file": str(out), "epochs": epochs}, as_json, words if epochs else f"Wrote {out}: no shares are needed")


@disclose.command("open", epilog="Example: domicile disclose open tehran/3 --share leila.share --share omid.share")
@ORDER
@click.option(
    "--share",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file of a custodian's shares; without any they are asked for.",
)
@CONFIG
@JSON
def disclose_open(order: tuple[str, int], files: tuple[Path, ...], config: Path, as_json: bool) -> None:
    """Open ORDER: print what it reaches, once. The register says so before anything is printed."""
    label = f"{order[0]}/{order[1]}"
    shares = _from_files(label, files) if files else _asked(config, order)
    answer = perform(config, "disclose-open", node=order[0], number=order[1], shares=shares)
    tell(answer, as_json, "\n".join(_disclosed(answer)))


def _from_files(label: str, files: tuple[Path, ...]) -> dict[str, list[str]]:
    shares: dict[str, list[str]] = {}
    for file in files:
        given = read_object(file)
        if given.get("type") != PRIVATE or given.get("order") != label or not isinstance(given.get("epochs"), dict):
            no(f"domicile: {file} does not hold shares for {label}; `domicile disclose share` writes them")
        for epoch, words in given["epochs"].items():
            shares.setdefault(str(epoch), []).append(str(words))
    return shares


def _asked(config: Path, order: tuple[str, int]) -> dict[str, list[str]]:
    """Ask for the shares that an order lacks, one after the other; they are not shown."""
    needed = perform(config, "disclose-shares", node=order[0], number=order[1])["epochs"]
    if needed and not sys.stdin.isatty():
        no("domicile: shares are needed; name their files with --share")
    return {
        str(each["epoch"]): [
            click.prompt(f"Epoch {each['epoch']}, share {place} of {each['threshold']}", hide_input=True, err=True)
            for place in range(1, each["threshold"] + 1)
        ]
        for each in needed
    }


def _disclosed(answer: dict[str, Any]) -> Iterator[str]:
    for account in answer["accounts"]:
        yield account["user_id"]
        for name, value in account.items():
            if name in ("phone_number", "email_address"):
                yield f"  {name:<18} {', '.join(value) or '-'}"
            elif name == "registration_time":
                yield f"  {name:<18} {'-' if value is None else day(value)}"
            elif name == "sessions":
                yield from (f"  session            {orjson.dumps(each).decode()}" for each in value)
