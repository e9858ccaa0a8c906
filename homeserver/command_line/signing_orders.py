"""``domicile disclose sign`` and ``share``: what approvers and custodians do where their keys are. No server is needed.

Both show the whole order first. A custodian's shares leave only for an order that was approved.
"""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import Any

import click
import orjson

from homeserver.command_line.answers import JSON, no, tell
from homeserver.command_line.orders import PRIVATE, day, described, read_object, write_object
from homeserver.protocol import disclosure_orders, epochs, key_files
from homeserver.protocol.disclosure_orders import Order
from homeserver.protocol.epochs import BoxUnopened, Period
from homeserver.protocol.errors import BadJson, InvalidParam, InvalidSignature

KEY = click.option(
    "--key",
    "key_file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file of your private key, which `domicile key new` made; it is not sent anywhere.",
)
OUT = click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file to write.")
YES = click.option("--yes", is_flag=True, help="Do not ask: the order was read before.")


def _order(said: object) -> Order:
    try:
        return disclosure_orders.read(orjson.dumps(said))
    except InvalidParam:
        no("domicile: this is no order; `domicile disclose show ORDER --out FILE` writes it")


def _ask(order: Order, question: str, *, yes: bool) -> None:
    click.echo("\n".join(described(orjson.loads(order.write()))), err=True)
    if not yes:
        click.confirm(question, abort=True, err=True)


@click.command(
    "sign", epilog="Example: domicile disclose sign order.json --name parisa --key parisa.key --out yes.json"
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", required=True, help="As the policy names you.")
@KEY
@OUT
@YES
@JSON
def disclose_sign(file: Path, name: str, key_file: Path, out: Path, yes: bool, as_json: bool) -> None:
    """Approve the order in FILE: read it, and sign it with your key. Nothing reaches the server by this."""
    order = _order(read_object(file))
    try:
        key = key_files.signing_key(key_file.read_text(encoding="ascii"))
    except ValueError as error:
        no(f"domicile: {key_file} cannot be used: {error}")
    _ask(order, f"Approve {order.label}?", yes=yes)
    approval = disclosure_orders.approve(order, name, key)
    write_object(out, orjson.loads(approval.write()))
    words = f"Wrote {out}: whoever keeps the server takes it with `domicile disclose approve {out}`"
    tell({"file": str(out), "order": order.label, "order_sha256": order.digest}, as_json, words)


@click.command(
    "share", epilog="Example: domicile disclose share shares.json --name leila --key leila.key --out leila.share"
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", required=True, help="As the policy names you.")
@KEY
@click.option("--approver", "known", multiple=True, help="The public key of an approver: only those given here count.")
@OUT
@YES
@JSON
def disclose_share(
    file: Path, name: str, key_file: Path, known: tuple[str, ...], out: Path, yes: bool, as_json: bool
) -> None:
    """Open your shares of the epochs that the order in FILE reaches. What is written opens them together with what the
    other custodians write: give it to nobody but who opens the order, and destroy it afterwards."""
    said = read_object(file)
    order = _order(said.get("order"))
    approved = _approvals(said, order, known)
    _ask(order, f"It is approved by {', '.join(approved)}. Give your shares for {order.label}?", yes=yes)
    words = _words(said, order, name, key_file)
    write_object(out, {"type": PRIVATE, "order": order.label, "custodian": name, "epochs": words})
    text = f"Wrote {out}, with {len(words)} shares in clear words: they are for opening {order.label} and nothing else"
    tell({"file": str(out), "order": order.label, "epochs": [int(each) for each in words]}, as_json, text)


def _approvals(said: dict[str, Any], order: Order, known: tuple[str, ...]) -> list[str]:
    """Who has approved the order, and by which keys, which is checked; ends with 1 if that is not enough."""
    try:
        by_key = {}
        for each in said["approvals"]:
            approval = disclosure_orders.read_approval(orjson.dumps(each))
            key = said["approvers"][approval.approver]
            approval.check(key)
            if (approval.digest, approval.server_name) == (order.digest, order.server_name) and key in (
                known or (key,)
            ):
                by_key[key] = approval.approver
        least = max(int(said["needed"]), order.ceiling.approvals)
    except (InvalidParam, InvalidSignature, BadJson, KeyError, TypeError, ValueError):
        no("domicile: the approvals in this file are not in order: no share is given for it")
    if len(by_key) < least:
        no(f"domicile: {len(by_key)} of {least} approvals are there: no share is given for it")
    return sorted(f"{name} ({key})" for key, name in by_key.items())


def _words(said: dict[str, Any], order: Order, name: str, key_file: Path) -> dict[str, str]:
    """The words of a custodian's shares by the number of the epoch; ends with 1 if one cannot be opened."""
    try:
        key = key_files.opening_key(key_file.read_text(encoding="ascii"))
    except ValueError as error:
        no(f"domicile: {key_file} cannot be used: {error}")
    words = {}
    try:
        for each in said["epochs"]:
            if name not in each["shares"]:
                no(f"domicile: {name} holds no share of epoch {each['epoch']}: {', '.join(each['shares'])} do")
            share = epochs.open_share(b64decode(each["shares"][name]), bytes(key))
            if (share.node, share.epoch, share.custodian) != (order.node, each["epoch"], name):
                no(f"domicile: the share of epoch {each['epoch']} is of another epoch, or of another custodian")
            if share.period is not None and not _concerns(order, share.period):
                used = f"{day(share.period.since)} to {day(share.period.until)}"
                no(f"domicile: epoch {share.epoch} is of {used}, and the order is not: no share is given for it")
            words[str(share.epoch)] = share.words
    except BoxUnopened:
        no(f"domicile: {key_file} does not open the shares of {name}")
    except (KeyError, TypeError, ValueError):
        no("domicile: this file holds no shares; `domicile disclose shares ORDER --out FILE` writes it")
    return words


def _concerns(order: Order, period: Period) -> bool:
    """Whether something of the period of an order can be in an epoch: whoever asks for shares may ask for too many."""
    return period.since < order.scope.until and order.scope.since < period.until


COMMANDS = (disclose_sign, disclose_share)
