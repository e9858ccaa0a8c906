"""Files that go between those who record, approve and open an order: what they look like, read and written."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click
import orjson

from homeserver.command_line.answers import no, write_new
from homeserver.protocol.plain_text import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PRIVATE: Final = "org.domicile.disclosure_shares"
"""The type of a file with the words of a custodian's shares."""

_LAST: Final = 253_402_300_800_000
"""The end of the year 9999, in milliseconds since 1970."""


class Order(click.ParamType[tuple[str, int]]):
    """An order's name: its node and its number, ``tehran/3``."""

    name = "order"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """See `click.ParamType.convert`."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([a-z0-9][a-z0-9_-]{0,62})/([1-9][0-9]{0,8})", value)
        if found is None:
            self.fail("an order is named by its node and its number, as in tehran/3", param, ctx)
        return found[1], int(found[2])


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; ends with 1 if there is none."""
    try:
        found = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        no(f"domicile: {file} does not hold a JSON object")
    return found


def write_object(file: Path, said: Mapping[str, Any]) -> None:
    """Write a JSON object into a file that was not there, and that only its owner can read."""
    write_new(file, orjson.dumps(said, option=orjson.OPT_INDENT_2) + b"\n")


def day(ts: int) -> str:
    """A moment as people read it; of one that no calendar has, the number of its second."""
    if not abs(ts) < _LAST:
        return f"{ts // 1000} seconds after 1970"
    return datetime.fromtimestamp(ts / 1000, UTC).isoformat(sep=" ", timespec="minutes").replace("+00:00", " UTC")


def described(order: Mapping[str, Any]) -> Iterator[str]:
    """An order in words, a line for each thing that it says: approvers and custodians have it from whoever wants
    something of them, so that none of it may look like something else."""
    for name, value in (
        ("order", f"{order['node']}/{order['number']} of {order['server_name']}, version {order['version']}"),
        ("jurisdiction", order["jurisdiction"]),
        ("authority", order["authority"]),
        ("case", order["case"]),
        ("legal basis", order["legal_basis"]),
        ("document", order["document_sha256"]),
        ("accounts", ", ".join(order["accounts"])),
        ("fields", ", ".join(order["fields"])),
        ("period", f"{day(order['since'])} to {day(order['until'])}"),
        ("expires", day(order["expires"])),
        ("gag", "none" if order["gag_until"] is None else f"until {day(order['gag_until'])}"),
        ("policy", f"version {order['policy']['serial']}, {order['policy']['approvals']} approvals"),
    ):
        yield f"{name:<13} {plain(str(value))}"
